"""CLIPs that hold or take prompts as trainer files of the MaPLe and PromptSRC repositories expect.

Expected values: tests/helpers/plain_clip.py, into which the same prompts are put by hand. That these are the published
numbers is shown by tests/trainers/test_foreign_trainers.py.
"""

from __future__ import annotations

import copy

import plain_clip
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from clip import clip
from clip.model import CLIP
from dassl.utils import UserError

NONE = {"trainer": "IVLP", "vision_depth": 0, "language_depth": 0, "vision_ctx": 0, "language_ctx": 0}
VISUAL_NAMES = ["visual.VPT"] + [f"visual.transformer.resblocks.{i}.VPT_shallow" for i in (1, 2)]
TEXT_NAMES = [f"transformer.resblocks.{i}.VPT_shallow" for i in (1, 2)]
ROUNDING = 1e-12  # of features of size 1, in float64


@pytest.fixture
def build(random_clip):
    """Builds in float64; gives the model and the tensors of its plain part."""

    def model_of(**details):
        torch.manual_seed(1)
        model = clip.build_model(random_clip.state_dict(), NONE | details).double()
        state = {name: value.detach() for name, value in model.state_dict().items()}
        return model, state

    return model_of


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def tokens():
    """Two prompts of different lengths; 299 is the end mark."""
    ids = torch.zeros(2, 77, dtype=torch.long)
    ids[0, :9] = torch.tensor([298, 11, 12, 13, 14, 15, 16, 17, 299])
    ids[1, :6] = torch.tensor([298, 21, 22, 23, 24, 299])
    return ids


def as_trainer_files_encode(model, rows, ends, *more):
    """Input rows [N, L, d] without positions through `transformer`, as the text encoders of such files."""
    x = (rows + model.positional_embedding).permute(1, 0, 2)
    x = model.transformer([x, *more, 0])[0] if more else model.transformer(x)
    x = model.ln_final(x.permute(1, 0, 2))
    return x[torch.arange(len(x)), ends] @ model.text_projection


def test_owned_prompts_have_the_published_names(build, random_clip):
    model, state = build(vision_depth=3, vision_ctx=4, language_depth=3, language_ctx=2)
    prompts = {name: tuple(value.shape) for name, value in model.named_parameters() if "VPT" in name}
    assert prompts == dict.fromkeys(VISUAL_NAMES, (4, 128)) | dict.fromkeys(TEXT_NAMES, (2, 128))
    assert set(state) - set(prompts) == set(random_clip.state_dict())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert 0.01 < torch.cat([state[name].flatten() for name in prompts]).std() < 0.03
    assert not model.training
    copied = copy.deepcopy(model)
    assert torch.equal(copied.encode_text(tokens()), model.encode_text(tokens()))


def test_owned_prompts_enter_the_towers(build):
    model, state = build(vision_depth=3, vision_ctx=4, language_depth=3, language_ctx=2)
    images = noise(2, 3, 32, 32)
    expected = plain_clip.image_features(state, images, [state[name] for name in VISUAL_NAMES])
    assert (model.encode_image(images) - expected).abs().max() < ROUNDING
    rows, ends = model.token_embedding(tokens()), tokens().argmax(dim=-1)
    expected = plain_clip.text_from_rows(state, rows, ends, [state[name] for name in TEXT_NAMES])
    assert (as_trainer_files_encode(model, rows, ends) - expected).abs().max() < ROUNDING
    assert (model.encode_text(tokens()) - expected).abs().max() < ROUNDING
    assert (expected - plain_clip.text_from_rows(state, rows, ends)).abs().max() > 1e-3
    (model.encode_image(images).sum() + model.encode_text(tokens()).sum()).backward()
    assert all(parameter.grad.norm() > 0 for name, parameter in model.named_parameters() if "VPT" in name)


def test_second_derivatives(build):
    """Schemes that differentiate through an update need attention that is written out."""
    model, state = build(vision_depth=3, vision_ctx=4, language_depth=3, language_ctx=2)
    images, rows, ends = noise(2, 3, 32, 32), model.token_embedding(tokens()).detach(), tokens().argmax(dim=-1)
    owned = {name: value for name, value in model.named_parameters() if "VPT" in name}
    free = {name: value.detach().clone().requires_grad_() for name, value in owned.items()}

    def second_order(images_, texts, prompts):
        first = torch.autograd.grad((images_ @ texts.t()).sigmoid().sum(), list(prompts.values()), create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), list(prompts.values()))

    with sdpa_kernel(SDPBackend.MATH):
        texts = as_trainer_files_encode(model, rows, ends)
        ours = second_order(model.encode_image(images), texts, owned)
    texts = plain_clip.text_from_rows(state, rows, ends, [free[name] for name in TEXT_NAMES])
    expected = plain_clip.image_features(state, images, [free[name] for name in VISUAL_NAMES])
    for mine, plain in zip(ours, second_order(expected, texts, free), strict=True):
        assert (mine - plain).norm() < 1e-9 * plain.norm()


@pytest.mark.parametrize(
    "details, names",
    [
        (dict(trainer="VPT", vision_depth=2, vision_ctx=4), VISUAL_NAMES[:2]),
        (dict(vision_depth=1, vision_ctx=4, language_depth=1, language_ctx=2), VISUAL_NAMES[:1]),
        (dict(language_depth=2, language_ctx=2), TEXT_NAMES[:1]),
        (dict(trainer="CoCoOp"), []),
    ],
)
def test_depths(build, details, names):
    """Depth d: prompts of layers 0 .. d - 1, of which the text side's first is the trainer's own context."""
    model, _ = build(**details)
    assert {name for name, _ in model.named_parameters() if "VPT" in name} == set(names)
    if not names:
        assert type(model) is CLIP


def test_given_prompts(build):
    model, state = build(trainer="MaPLe", maple_length=2)
    assert not [name for name in state if "VPT" in name]
    visual, text = [noise(2, 128) + i for i in range(2)], [noise(2, 128) - i for i in range(1)]
    images = noise(2, 3, 32, 32)
    expected = plain_clip.image_features(state, images, visual)
    assert (model.visual(images, visual[0], visual[1:]) - expected).abs().max() < ROUNDING
    rows, ends = model.token_embedding(tokens()), tokens().argmax(dim=-1)
    expected = plain_clip.text_from_rows(state, rows, ends, text)
    deep = nn.ParameterList(text)
    assert (as_trainer_files_encode(model, rows, ends, deep) - expected).abs().max() < ROUNDING
    x, returned, used = model.transformer([rows.permute(1, 0, 2), deep, 0])
    assert x.shape == (77, 2, 128) and returned is deep and used == 1


def test_given_prompts_of_the_image_tower_in_lists(build):
    """Files that walk through the image tower themselves hand lists to its transformer as well."""
    model, state = build(trainer="MaPLe", maple_length=2)
    first, *deep = [noise(2, 128) + i for i in range(3)]
    images, visual = noise(2, 3, 32, 32), model.visual
    x = visual.conv1(images).flatten(2).permute(0, 2, 1)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], dim=1) + visual.positional_embedding
    x = visual.ln_pre(torch.cat([x, first.expand(len(x), -1, -1)], dim=1))
    x = visual.transformer([x.permute(1, 0, 2), deep, 0])[0].permute(1, 0, 2)
    expected = plain_clip.image_features(state, images, [first, *deep])
    assert (visual.ln_post(x[:, 0]) @ visual.proj - expected).abs().max() < ROUNDING


@pytest.mark.parametrize(
    "details, part",
    [
        (dict(vision_depth=4, vision_ctx=2), "vision_depth is 4, but the tower has 3 layers"),
        (dict(language_depth=-1), "language_depth is -1"),
        (dict(vision_depth=1), "vision_ctx is 0"),
        (dict(language_depth=2), "language_ctx is 0"),
        (dict(language_depth=2, language_ctx=76), "language_ctx is 76"),
        (dict(vision_depth="9", vision_ctx=2), "vision_depth is '9'"),
        (dict(trainer="MaPLe"), "maple_length"),
        (dict(maple_length=2, vision_depth=1, vision_ctx=2), "both owned"),
        (dict(adapter_dim=8), "adapter_dim is unknown"),
    ],
)
def test_details_that_cannot_be_built(build, details, part):
    with pytest.raises(UserError, match=part) as caught:
        build(**details)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("details", [dict(vision_depth=1, vision_ctx=2), dict(trainer="MaPLe", maple_length=2)])
def test_a_resnet_takes_no_visual_prompts(details):
    model = CLIP(24, 32, (1, 1, 1, 1), 4, None, 77, 300, 64, 1, 1)
    with pytest.raises(UserError, match="ViT backbone"):
        clip.build_model(model.state_dict(), NONE | details)


def test_blocks_have_openais_attributes(random_clip):
    text, vision = random_clip.transformer.resblocks[0], random_clip.visual.transformer.resblocks[0]
    assert vision.attn_mask is None
    mask = text.attn_mask
    assert torch.equal(mask, random_clip.build_attention_mask()) and mask.dtype == torch.float64
    assert mask[3, 3] == 0 and mask[3, 4] == float("-inf") and mask.shape == (77, 77)
    x = noise(77, 2, 128)
    for block in (text, vision):  # as OpenAI's block is written
        y = x + block.attention(block.ln_1(x))
        y = y + block.mlp(block.ln_2(y))
        assert (block(x) - y).abs().max() < ROUNDING
    with pytest.raises(AttributeError):  # it would have no effect on the towers
        text.attn_mask = None


def test_the_embedded_model_as_a_file_that_trainer_files_read(tmp_path):
    """`torch.jit.load` has to fail with a RuntimeError, then `torch.load` reads a state dict."""
    path = clip._download(clip._MODELS["ViT-Shapes"], tmp_path)
    with pytest.raises(RuntimeError):
        torch.jit.load(path, map_location="cpu")
    state = torch.load(path, map_location="cpu")
    ours, _ = clip.load("ViT-Shapes", device="cpu")
    theirs = clip.build_model(state)
    for name, value in ours.state_dict().items():
        assert torch.equal(theirs.state_dict()[name].to(value), value), name
    written = [(file, file.stat().st_mtime_ns) for file in tmp_path.iterdir()]
    assert clip._download(clip._MODELS["ViT-Shapes"], tmp_path) == path
    assert [(file, file.stat().st_mtime_ns) for file in tmp_path.iterdir()] == written and len(written) == 1
