"""TCP, MMA and CoPrompt against their definitions, written out plainly: every position, autograd's gradients.

Expected values: the formulae of the papers on `plain_clip`, in float64; sizes differ from those of the recordings.
"""

from __future__ import annotations

import json
import random

import pytest
import torch
import torch.nn.functional as F
from golden_data import COMPACT, training_batch
from plain_clip import block, image_features, layers_of, prompted_text_features, quick_gelu, text_features
from plain_mma import mma_image, mma_text
from tiny_runs import CLASSNAMES, build_in_float64, build_trainer, set_position
from torch import nn

from clip.clip import tokenize
from clip.model import CLIP, ResidualAttentionBlock
from dassl.config import get_cfg_default
from dassl.utils import UserError, save_checkpoint, write_json
from tools.describe_classes import describe
from trainers.coprompt import distance
from trainers.core.trainer import load_learned
from trainers.tcp import TCPPrompts, prompt_template

INDEX = json.loads((COMPACT / "fixtures_tcp_mma_coprompt.json").read_text())
LAYOUTS = {layout["trainer"]: layout for layout in INDEX["layouts"]}
NAMES = [name.replace("_", " ") for name in CLASSNAMES]
LIMIT = 1e-10


@pytest.fixture
def wide(tiny_cfg, monkeypatch):
    """A trainer in float64 with learned tensors away from their start, and the state of its frozen CLIP."""

    def build(name, options, tower="more_tokens"):
        torch.manual_seed(5)
        trainer = build_in_float64(tiny_cfg(name, options, tower), monkeypatch)
        with torch.no_grad():
            for tensor in trainer.prompts.tensors().values():
                tensor.add_(0.1 * torch.randn(tensor.shape, dtype=torch.float64))
        return trainer, dict(trainer.prompts.clip.state_dict())

    return build


def unit(features):
    return features / features.norm(dim=-1, keepdim=True)


def similarity(state, image, text):
    return state["logit_scale"].exp() * unit(image) @ unit(text).t()


def check(trainer, inputs, expected_loss, factor_of=lambda name: 1.0, second=False):
    """The trainer's loss and gradients against those of a plain function of its learned tensors; `second`: twice."""
    theta = {name: tensor.detach().clone().requires_grad_() for name, tensor in trainer.theta().items()}
    loss = expected_loss(theta)
    expected = torch.autograd.grad(loss, list(theta.values()))
    gradients, reported = trainer.gradients_of(trainer.theta(), None, *inputs)
    assert abs(reported["loss"] - loss).item() < LIMIT
    for (name, ours), true in zip(gradients.items(), expected, strict=True):
        assert true.norm() > 1e-6, name
        assert (ours - factor_of(name) * true).norm() < 1e-8 * ours.norm(), name
    if second:
        mine = {name: tensor.detach().clone().requires_grad_() for name, tensor in theta.items()}
        found, expected = (
            second_order(trainer.objective(mine, *inputs)[0], mine),
            second_order(expected_loss(theta), theta),
        )
        for name, ours, true in zip(theta, found, expected, strict=True):
            assert (ours - true).norm() < 1e-7 * true.norm(), name


def second_order(loss, theta):
    """Derivative of the squared norm of a loss's gradient."""
    gradients = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
    return torch.autograd.grad(sum(g.square().sum() for g in gradients), list(theta.values()))


def doubled(batch):
    return batch["img"].double(), batch["label"]


# --- TCP -------------------------------------------------------------------------------------------------------------


def tcp_text(state, tokens, context, class_rows, layer):
    rows = state["token_embedding.weight"][tokens]
    n = len(context)
    x = torch.cat([rows[:, :1], context.expand(len(rows), -1, -1), rows[:, 1 + n :]], dim=1)
    x = x + state["positional_embedding"]
    mask = torch.full((77, 77), float("-inf"), dtype=x.dtype).triu(1)
    for number in range(layers_of(state, "transformer.resblocks")):
        if number == layer:
            x = torch.cat([x[:, :1], class_rows, x[:, 5:]], dim=1)
        x = block(state, f"transformer.resblocks.{number}", x, mask, quick_gelu)
    x = F.layer_norm(x, x.shape[-1:], state["ln_final.weight"], state["ln_final.bias"])
    return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ state["text_projection"]


TCP_CASES = {
    "2 tokens": ({"N_CTX": 2, "W": 3.0}, "X X X X {}.", "text10", 8),
    "1 token, an early layer": ({"N_CTX": 1, "CLASS_LAYER": 1}, "X X X X {}.", "more_tokens", 1),
    "6 tokens": ({"N_CTX": 6}, "X X X X X X {}.", "more_tokens", 2),
    "2 words": ({"CTX_INIT": "a photo", "W": 3.0}, "X X X X {}.", "more_tokens", 2),
    "in chunks": ({"N_CTX": 4, "TRAINER.TEXT_CHUNK": 3}, "X X X X {}.", "text10", 8),
    "one class a chunk": ({"N_CTX": 4, "TRAINER.TEXT_CHUNK": 1}, "X X X X {}.", "text10", 8),
}


@pytest.mark.parametrize("case", TCP_CASES)
def test_tcp_is_its_definition(case, wide):
    options, template, tower, layer = TCP_CASES[case]
    trainer, state = wide("TCP", {"CLASS_LAYER": layer} | options, tower)
    tokens = tokenize([template.format(name) for name in NAMES])
    teacher = unit(text_features(state, tokenize([f"a centered satellite photo of {name}." for name in NAMES])))
    images, labels = doubled(training_batch(1))

    def loss(theta):
        net = {name.removeprefix("prompt_learner.meta_net."): value for name, value in theta.items()}
        u = teacher @ net["linear1.weight"].t() + net["linear1.bias"]
        rows = (u / (1 + torch.exp(-1.702 * u))) @ net["linear2.weight"].t() + net["linear2.bias"]
        text = tcp_text(state, tokens, theta["prompt_learner.ctx"], rows.view(7, 4, 64), layer)
        logits = similarity(state, image_features(state, images), text)
        near = (unit(text) * teacher).sum(dim=-1).mean()
        return F.cross_entropy(logits, labels) + trainer.settings.W * (1 - near)

    check(trainer, (images, labels), loss, second=case == "2 words")


def test_tcp_templates_keep_the_names():
    assert prompt_template("OxfordPets", 2) == "X X X X {}, a type of pet."
    assert prompt_template("StanfordCars", 4) == "X X X X {}, a type of car"
    assert prompt_template("UCF101", 6) == "a photo of a person doing {}."
    assert prompt_template("Shapes", 7) == "X X X X X X X {}."
    for dataset in ("OxfordPets", "UCF101", "ImageNet", "Shapes"):
        for n in (1, 4, 9):
            head = prompt_template(dataset, n).partition("{}")[0]
            assert len(head.split()) >= max(n, 4)


def test_tcp_of_a_single_class(backbones, tiny_cfg):
    """All rows are then shared by all classes: there is no place where they first differ."""
    trainer = build_trainer(tiny_cfg("TCP", {"N_CTX": 3}, "more_tokens"))
    state, prompts = trainer.prompts.clip.state_dict(), trainer.prompts
    context = ContextOf(prompts, ["face"])
    features = context.encode(prompts.tensors())
    tokens = tokenize(["X X X X face."])
    expected = tcp_text(state, tokens, prompts.tensors()["prompt_learner.ctx"], context.rows(prompts.tensors()), 2)
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=0)


class ContextOf:
    """TCP's text side for other class names."""

    def __init__(self, prompts, names):
        from trainers.core.prompts import ContextPrompts

        clip, self.prompts = prompts.clip, prompts
        words = ContextPrompts(clip, names, 3, template="X X X X {}.")
        teacher = unit(clip.encode_text(tokenize([f"a photo of a {name}." for name in names])))
        self.made = TCPPrompts(clip, words, 2, teacher)

    def encode(self, theta):
        return self.made.text_features(theta)

    def rows(self, theta):
        return self.made.class_rows(theta)


# --- MMA -------------------------------------------------------------------------------------------------------------


MMA_CASES = {
    "embeddings too": ({"ADAPTER_START": 0, "ADAPTER_END": 2, "TEXT_CTX_INIT": "a picture showing"}, 8),
    "embeddings alone": ({"ADAPTER_START": 0, "ADAPTER_END": 0}, 8),
    "every block": ({"ADAPTER_START": 1, "ADAPTER_END": 3}, 64),  # as wide as the text tower
    "the last block": ({"ADAPTER_START": 3, "ADAPTER_END": 3}, 5),
    "true gradients": ({"ADAPTER_START": 0, "ADAPTER_END": 2, "SCALE_GRADIENTS": False}, 8),
    "in chunks": ({"ADAPTER_START": 2, "ADAPTER_END": 3, "TRAINER.TEXT_CHUNK": 3}, 8),
    "embeddings in chunks": ({"ADAPTER_START": 0, "ADAPTER_END": 1, "TRAINER.TEXT_CHUNK": 1}, 8),
}


@pytest.mark.parametrize("case", MMA_CASES)
def test_mma_is_its_definition(case, wide):
    options, width = MMA_CASES[case]
    scale = 0.3
    trainer, state = wide("MultiModalAdapter", {"ADAPTER_SCALE": scale, "ADAPTER_DIM": width} | options)
    s = trainer.settings
    layers = range(s.ADAPTER_START, s.ADAPTER_END + 1)
    tokens = tokenize([f"{s.TEXT_CTX_INIT} {name}." for name in NAMES])
    images, labels = doubled(training_batch(1))

    def loss(theta):
        text = mma_text(state, tokens, theta, layers, scale)
        return F.cross_entropy(similarity(state, mma_image(state, images, theta, layers, scale), text), labels)

    def factor(name):
        layer = int(name.split(".")[2])
        return 1 / scale if s.SCALE_GRADIENTS and layer > 0 else 1.0

    check(trainer, (images, labels), loss, factor, second=case == "true gradients")


def test_mma_encodes_what_never_changes_once(tiny_cfg, monkeypatch):
    """Below the first adapter, neither a step nor an evaluation runs a text block again."""
    trainer = build_trainer(tiny_cfg("MultiModalAdapter", {"ADAPTER_START": 3}, "more_tokens"))
    blocks = trainer.prompts.clip.transformer.resblocks
    for number in (0, 1):
        monkeypatch.setattr(blocks[number], "ln_1", None)
    set_position(trainer, 0)
    assert trainer.forward_backward(training_batch(0))["loss"] > 0


# --- CoPrompt --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind, options", [("mse", {"PROMPT_DEPTH": 2}), ("cosine", {"PROMPT_DEPTH": 1, "N_CTX": 3})])
@pytest.mark.parametrize("chunk", [0, 3])
def test_coprompt_is_its_definition(kind, options, chunk, wide):
    options = {"DISTILL": kind, "W": 7.0, "TRAINER.TEXT_CHUNK": chunk} | options
    trainer, state = wide("CoPrompt", options)
    tokens = tokenize([f"a photo of a {name}." for name in NAMES])
    descriptions = json.loads((COMPACT / "coprompt_descriptions.json").read_text())
    random.seed(3)
    number = random.randint(0, 3)
    sentence = unit(text_features(state, tokenize([descriptions[name][number] for name in NAMES])))
    batch = training_batch(1)
    images, second = batch["img"].double(), batch["img2"].double()
    teacher = unit(image_features(state, second))

    def adapted(theta, name, share, features):
        hidden = (features @ theta[f"{name}.fc.0.weight"].t()).relu()
        return share * (hidden @ theta[f"{name}.fc.2.weight"].t()).relu() + (1 - share) * features

    def loss(theta):
        deep = [theta[name] for name in theta if "compound_prompts_text" in name]
        text = prompted_text_features(state, tokens, theta["prompt_learner.ctx"], deep)
        deeper = [f"prompt_learner.compound_prompt_projections.{i}" for i in range(len(deep))]
        visual = [
            rows @ theta[f"{name}.weight"].t() + theta[f"{name}.bias"]
            for name, rows in zip(["prompt_learner.proj", *deeper], [theta["prompt_learner.ctx"], *deep], strict=True)
        ]
        text = adapted(theta, "adapter_text", 0.2, text)
        image = adapted(theta, "adapter_image", 0.1, image_features(state, images, visual))
        pairs = ((unit(text), sentence), (unit(image), teacher))
        if kind == "mse":
            d = sum(((ours - fixed) ** 2).mean() for ours, fixed in pairs)
        else:
            d = sum(1 - (ours * fixed).sum(dim=-1).mean() for ours, fixed in pairs)
        return F.cross_entropy(similarity(state, image, text), batch["label"]) + 7 * d

    random.seed(3)
    image, label, view, drawn = trainer.parse_batch_train(batch)
    assert (drawn - sentence).abs().max() < LIMIT
    check(trainer, (image.double(), label, view.double(), drawn), loss)


def test_both_forms_of_two_views_are_taken(tiny_cfg):
    """Dassl's loader gives a list with K_TRANSFORMS 2, and img2 with two transforms."""
    trainer, batch = build_trainer(tiny_cfg("CoPrompt")), training_batch(0)
    for form in (batch, {"img": [batch["img"], batch["img2"]], "label": batch["label"]}):
        image, _, second, _ = trainer.parse_batch_train(form)
        assert torch.equal(image, batch["img"]) and torch.equal(second, batch["img2"])
    loaded = next(iter(trainer.train_loader_x))
    assert len(trainer.parse_batch_train(loaded)[2]) == 4


def test_distances_of_equal_features_are_zero():
    features = unit(torch.randn(5, 6, dtype=torch.float64))
    assert abs(distance("cosine", features, features).item()) < 1e-15
    assert distance("mse", features, features) == 0


BAD_DESCRIPTIONS = {
    "a class is missing": (lambda good: good.pop("face"), ["'face'"]),
    "unequal counts": (lambda good: good["wild cat"].pop(), ["'wild_cat'", "3 sentences", "4 for 'face'"]),
    "an empty list": (lambda good: good.update(face=[]), ["'face'", "at least one sentence"]),
    "not sentences": (lambda good: good.update(face=[1, 2, 3, 4]), ["'face'", "sentence"]),
    "not a list": (lambda good: good.update(face="a face"), ["'face'", "list"]),
    "too long": (lambda good: good["face"].insert(0, "face " * 90) or good["face"].pop(), ["too long"]),
}


@pytest.mark.parametrize("case", BAD_DESCRIPTIONS)
def test_bad_descriptions_are_one_line(case, tiny_cfg, tmp_path):
    change, words = BAD_DESCRIPTIONS[case]
    content = json.loads((COMPACT / "coprompt_descriptions.json").read_text())
    change(content)
    write_json(content, tmp_path / "descriptions.json")
    check_descriptions_error(tiny_cfg, str(tmp_path / "descriptions.json"), words)


@pytest.mark.parametrize(
    "text, says", [("{", "not valid JSON"), ("[]", "{class name: [sentences]}"), (None, "missing.json")]
)
def test_an_unusable_descriptions_file_is_one_line(text, says, tiny_cfg, tmp_path):
    path = tmp_path / "missing.json"
    if text is not None:
        path.write_text(text)
    check_descriptions_error(tiny_cfg, str(path), [says])


def check_descriptions_error(tiny_cfg, path, words):
    """Training ends before its first epoch; an evaluation needs no descriptions."""
    trainer = build_trainer(tiny_cfg("CoPrompt", {"DESCRIPTIONS": path}))
    with pytest.raises(UserError) as error:
        trainer.train()
    message = str(error.value)
    assert "\n" not in message and all(word in message for word in [*words])
    trainer.test()


def test_without_descriptions_the_remedy_is_named(tiny_cfg):
    trainer = build_trainer(tiny_cfg("CoPrompt", {"DESCRIPTIONS": ""}))
    with pytest.raises(UserError, match="DESCRIPTIONS is empty.*python -m tools.describe_classes"):
        trainer.train()


def test_descriptions_from_templates_have_the_published_form(tiny_cfg, tmp_path):
    content = describe(CLASSNAMES, ["a photo of a {}.", "art of the {}."])
    assert content["wild cat"] == ["a photo of a wild cat.", "art of the wild cat."] and len(content) == 7
    write_json(content, tmp_path / "d.json")
    trainer = build_trainer(tiny_cfg("CoPrompt", {"DESCRIPTIONS": str(tmp_path / "d.json")}))
    assert trainer.descriptions.shape == (2, 7, 96)


# --- settings, start, checkpoints ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "trainer, options, words",
    [
        ("TCP", {"CLASS_LAYER": 3}, ["TRAINER.TCP.CLASS_LAYER is 3", "layers 0 to 2", "between 1 and 2"]),
        ("TCP", {"CLASS_LAYER": 0}, ["TRAINER.TCP.CLASS_LAYER is 0"]),
        ("MultiModalAdapter", {"ADAPTER_END": 4}, ["ADAPTER_END 4", "between 0 and 3"]),
        ("MultiModalAdapter", {"ADAPTER_START": 3, "ADAPTER_END": 2}, ["ADAPTER_START is 3", "END not below START"]),
        ("MultiModalAdapter", {"ADAPTER_SCALE": 0.0}, ["ADAPTER_SCALE is 0.0", "above 0"]),
        ("CoPrompt", {"DISTILL": "kl"}, ["DISTILL 'kl'", "cosine or mse"]),
        ("CoPrompt", {"DATALOADER.K_TRANSFORMS": 1}, ["K_TRANSFORMS is 1", "2 augmented views", "set it to 2"]),
        ("CoPrompt", {"PROMPT_DEPTH": 4}, ["TRAINER.COPROMPT.PROMPT_DEPTH is 4"]),
        ("CoOp", {"DATALOADER.K_TRANSFORMS": 2}, ["K_TRANSFORMS is 2", "1 augmented view of"]),
    ],
)
def test_settings_that_do_not_fit_are_named(trainer, options, words, tiny_cfg):
    with pytest.raises(UserError) as error:
        build_trainer(tiny_cfg(trainer, options))
    assert all(word in str(error.value) for word in words) and "\n" not in str(error.value)


def test_a_resnet_has_no_blocks_to_adapt(tiny_cfg):
    with pytest.raises(UserError, match="choose a ViT"):
        build_trainer(tiny_cfg("MultiModalAdapter", tower="rn"))


STARTS = [name for name, settings in INDEX["fixtures"].items() if "next_four_of_torch.rand" in settings]


@pytest.mark.parametrize("name", STARTS)
def test_the_generator_stands_where_the_published_code_leaves_it(name, tiny_cfg):
    settings = INDEX["fixtures"][name]
    tower = "text10" if "text10" in settings["backbone_file"] else "more_tokens"
    cfg = tiny_cfg(settings["trainer"], settings["options"], tower)
    torch.manual_seed(settings["seed_init"])
    build_trainer(cfg)
    assert torch.rand(4).tolist() == settings["next_four_of_torch.rand"]


def test_there_is_a_start_of_every_method():
    assert len(STARTS) == len(LAYOUTS) == 3


@pytest.fixture(scope="module")
def vit_b16():
    """A CLIP of ViT-B/16's sizes, without values in its blocks."""
    clip = CLIP(512, 224, 1, 768, 16, 77, 49408, 512, 8, 1)
    for transformer in (clip.transformer, clip.visual.transformer):
        with torch.device("meta"):
            blocks = [ResidualAttentionBlock(transformer.width, 8, nn.Identity) for _ in range(12)]
        transformer.resblocks = nn.Sequential(*blocks)
    clip.encode_text = lambda tokens: torch.ones(len(tokens), 512)
    return clip


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_checkpoints_load(name, vit_b16, monkeypatch, tmp_path):
    """Names and shapes: recorded from the files that the published trainers write for ViT-B/16 and two classes."""
    import train
    from clip.branched_text import BranchedText
    from dassl.engine import TRAINER_REGISTRY

    monkeypatch.setattr(BranchedText, "_unchanged_rows", lambda self, packed: None)  # blocks have no values
    layout, kind = LAYOUTS[name], TRAINER_REGISTRY.get(name)
    trainer = kind.__new__(kind)
    trainer.cfg = get_cfg_default()
    train.extend_cfg(trainer.cfg)
    trainer.prompts = trainer.build_prompts(vit_b16, ["cat", "dog"])
    module = trainer.registered_module()
    generator, published = torch.Generator().manual_seed(2), {}
    for key, (shape, dtype) in (layout["learned"] | layout["other_small_entries"]).items():
        published[key] = torch.randn(shape, generator=generator).to(getattr(torch, dtype.removeprefix("torch.")))
    assert layout["registered_name"] == kind.registered_name
    load_learned(module, published, "file")
    loaded = module.state_dict()
    assert loaded.keys() == layout["learned"].keys()
    assert all(torch.equal(loaded[key], published[key].float()) for key in loaded)
    save_checkpoint({"state_dict": loaded, "epoch": 1}, str(tmp_path))
    (file,) = tmp_path.glob("model.pth.tar-1")
    assert file.stat().st_size < 16 * 2**20  # what was learned, not the frozen CLIP
    for key in layout["learned"]:
        with pytest.raises(UserError, match=f"tensor {key} is missing"):
            load_learned(module, {other: value for other, value in published.items() if other != key}, "file")
    more = next(iter(layout["learned"])).replace(".5.", ".13.").replace("ctx", "compound_prompts_text.30")
    with pytest.raises(UserError, match=more):
        load_learned(module, published | {more: torch.zeros(1)}, "file")
