"""From a seed, every trainer starts where the published one starts, and leaves the generator where that leaves it.

Expected values: recordings of the published code (tests/golden); for other sizes, PyTorch's own modules, built in the
published order.
"""

from __future__ import annotations

import pytest
import torch
from golden_data import compact_names, compact_recording, start_draws, tower_of
from golden_replay import stored_name
from tiny_runs import CLASSNAMES, NODES, WITHOUT_RECORDING, build_trainer, learned, load_tiny_clip
from torch import nn

from clip import clip as entry_points
from clip.model import CLIP, convert_weights
from clip.published_start import PROMPT_STD, PromptSizes, draw_clip
from trainers.core.prompts import ContextPrompts

KINDS = ("init", "start", "vnet_init")
STARTS = [name for name in compact_names() if any(key.startswith(KINDS) for key in compact_recording(name).tensors)]
DIFFERENT = PromptSizes(3, 2), PromptSizes(5, 2)


@pytest.mark.parametrize("name", STARTS)
def test_start_values_are_the_published_ones(tiny_cfg, name):
    recording = compact_recording(name)
    settings = recording.settings
    cfg = tiny_cfg(settings["trainer"], tower=tower_of(settings))
    cfg.merge_from_list(settings["options"])
    torch.manual_seed(settings["seed_init"])
    trainer = build_trainer(cfg)
    ours = learned(trainer)
    for key, published in recording.tensors.items():
        kind, _, tensor = key.partition("/")
        if kind not in KINDS:
            continue
        start = ours[tensor if kind == "vnet_init" else stored_name(trainer, tensor)]
        scale = settings.get("vpt_init_scaled_by", 1) if "VPT" in tensor else 1
        torch.testing.assert_close(recording.comparable(start * scale, key), published, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", start_draws())
def test_the_generator_stands_where_the_published_code_leaves_it(tiny_cfg, name):
    start = start_draws()[name]
    cfg = tiny_cfg(start["trainer"], tower=tower_of(start))
    cfg.merge_from_list(start["options"])
    torch.manual_seed(start["seed"])
    build_trainer(cfg)
    assert torch.rand(4).tolist() == start["next_four_of_torch.rand"]


def test_there_is_a_recorded_start_of_every_trainer():
    assert {start["trainer"] for start in start_draws().values()} == {*NODES} - WITHOUT_RECORDING


@pytest.mark.parametrize("trainer", ["ZeroshotCLIP", "ZeroshotCLIP2", "build_model", "load"])
def test_a_clip_without_prompts_draws_as_under_coop(tiny_cfg, backbones, trainer):
    """CoOp with a context from words draws nothing beyond the model."""
    torch.manual_seed(1)
    build_trainer(tiny_cfg("CoOp", {"CTX_INIT": "a photo of a"}))
    expected = torch.get_rng_state()
    torch.manual_seed(1)
    if trainer == "load":
        entry_points.load(str(backbones["vit"]), device="cpu")
    elif trainer == "build_model":
        entry_points.build_model(entry_points.load_backbone(str(backbones["vit"])).model.state_dict())
    else:
        cfg = tiny_cfg(trainer)
        torch.manual_seed(1)
        build_trainer(cfg)
    assert torch.equal(torch.get_rng_state(), expected)


@pytest.mark.parametrize(
    "family, alone",
    [("CoOp", "CoOp"), ("VPT", "VPT"), ("MaPLe", "MaPLe"), ("PromptSRC", "PromptSRC"), ("MMA", "MultiModalAdapter")],
)
def test_other_prompts_under_prometar_start_as_they_do_alone(tiny_cfg, family, alone):
    """The published code has no such run: as with its own prompts, two more CLIPs follow the first."""
    visual = {"N_CTX_VISION": 5 if family == "MaPLe" else 2, "PROMPT_DEPTH_VISION": 2}
    adapters = {"ADAPTER_START": 2, "ADAPTER_END": 3, "ADAPTER_DIM": 8}
    options = {"N_CTX_TEXT": 5, "PROMPTS": family} | visual
    options |= {f"TRAINER.MMADAPTER.{key}": value for key, value in adapters.items()}
    torch.manual_seed(3)
    prompts = build_trainer(tiny_cfg("ProMetaR", options)).prompts.tensors()
    torch.manual_seed(3)
    own = {"CoOp": {"N_CTX": 5}, "VPT": visual, "MaPLe": {"N_CTX": 5}, "MMA": adapters}
    own |= {"PromptSRC": {"N_CTX_TEXT": 5} | visual}
    expected = build_trainer(tiny_cfg(alone, own[family])).prompts.tensors()
    assert prompts.keys() == expected.keys()
    assert all(torch.equal(prompts[name], expected[name]) for name in expected)


# --- other sizes: against PyTorch's own modules --------------------------------------------------------------------


def published_block(width: int, hidden: int) -> None:
    nn.MultiheadAttention(width, 1)
    nn.Linear(width, hidden)
    nn.Linear(hidden, width)


def published_tower(clip: CLIP, sizes: PromptSizes) -> list[torch.Tensor]:
    """Build the image tower's modules in the published order; prompts come where their layer is made."""
    tower, drawn = clip.visual, []
    if not hasattr(tower, "transformer"):
        for convolution in (module for module in tower.modules() if isinstance(module, nn.Conv2d)):
            nn.Conv2d(convolution.in_channels, convolution.out_channels, convolution.kernel_size, bias=False)
        torch.randn(tower.attnpool.positional_embedding.shape)
        width = tower.attnpool.k_proj.in_features
        for outputs in (width, width, width, clip.text_projection.shape[1]):
            nn.Linear(width, outputs)
        return drawn
    width, patch = tower.transformer.width, tower.conv1.kernel_size
    nn.Conv2d(3, width, patch, bias=False)
    if sizes.depth:
        drawn.append(nn.init.normal_(torch.empty(sizes.tokens, width), std=PROMPT_STD))
    torch.randn(width)
    torch.randn(tower.positional_embedding.shape)
    for layer, block in enumerate(tower.transformer.resblocks):
        published_block(width, block.mlp.c_fc.out_features)
        if 0 < layer < sizes.depth:
            drawn.append(nn.init.normal_(torch.empty(sizes.tokens, width), std=PROMPT_STD))
    torch.randn(tower.proj.shape)
    return drawn


def published_text_side(clip: CLIP, sizes: PromptSizes) -> list[torch.Tensor]:
    width, drawn = clip.transformer.width, []
    for layer in range(len(clip.transformer.resblocks)):
        published_block(width, 4 * width)
        if 0 < layer < sizes.depth:
            drawn.append(nn.init.normal_(torch.empty(sizes.tokens, width), std=PROMPT_STD))
    nn.Embedding(clip.vocab_size, width)
    shapes = [(clip.vocab_size, width), (clip.context_length, width)]
    if hasattr(clip.visual, "attnpool"):
        shapes += [layer.weight.shape for layer in (getattr(clip.visual.attnpool, f"{k}_proj") for k in "qkvc")]
    shapes += [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)] * len(
        clip.transformer.resblocks
    )
    for shape in [*shapes, (width, clip.text_projection.shape[1])]:
        nn.init.normal_(torch.empty(shape))
    return drawn


def vit(width: int, text_width: int, **sizes: int) -> CLIP:
    defaults = dict(context_length=7, vocab_size=31, embed_dim=3, vision_layers=3, transformer_layers=3)
    with torch.device("meta"):
        return CLIP(
            **defaults | sizes,
            image_resolution=8,
            vision_width=width,
            vision_patch_size=4,
            transformer_width=text_width,
            transformer_heads=1,
            vision_heads=1,
        )


@pytest.mark.parametrize("prompts", [(PromptSizes(), PromptSizes()), DIFFERENT, (PromptSizes(4, 3), PromptSizes(2, 1))])
@pytest.mark.parametrize(
    "clip",
    [vit(20, 12), vit(3, 5), vit(64, 16, vision_layers=4), vit(10, 10, vision_mlp_width=33), vit(5, 3, vocab_size=401)],
    ids=lambda clip: f"{clip.visual.transformer.width}-{clip.transformer.width}",
)
def test_any_size_draws_as_its_modules_do(clip, prompts):
    """Among the sizes are tensors of fewer than 16 values, an odd number of them, and incomplete blocks of 16."""
    torch.manual_seed(7)
    visual, text = published_tower(clip, prompts[0]), published_text_side(clip, prompts[1])
    expected = torch.get_rng_state()
    torch.manual_seed(7)
    drawn = draw_clip(clip, *prompts)
    assert torch.equal(torch.get_rng_state(), expected)
    assert len(drawn.visual) == len(visual) == prompts[0].depth and len(drawn.text) == len(text)
    assert all(map(torch.equal, [*drawn.visual, *drawn.text], [*visual, *text]))


def test_a_resnet_draws_as_its_modules_do():
    with torch.device("meta"):
        clip = CLIP(6, 32, (1, 2, 1, 1), 10, None, 7, 31, 12, 1, 2, vision_heads=1)
    torch.manual_seed(7)
    published_tower(clip, PromptSizes())
    published_text_side(clip, PromptSizes())
    expected = torch.get_rng_state()
    torch.manual_seed(7)
    draw_clip(clip)
    assert torch.equal(torch.get_rng_state(), expected)


@pytest.mark.parametrize("tower, drawn", [("float16", "float16"), ("bfloat16", "float32"), ("float32", "float32")])
def test_a_random_context_is_drawn_in_the_published_precision(backbones, tower, drawn):
    """Published: `torch.empty(n, d, dtype=clip_model.dtype)`, where PyTorch makes other values of the same numbers."""
    clip = load_tiny_clip(backbones["vit"])
    convert_weights(clip, getattr(torch, tower))
    torch.manual_seed(5)
    context = ContextPrompts(clip, CLASSNAMES, n_ctx=4).initial
    torch.manual_seed(5)
    expected = nn.init.normal_(torch.empty(4, 64, dtype=getattr(torch, drawn)), std=PROMPT_STD)
    assert torch.equal(context.float(), expected.float())
