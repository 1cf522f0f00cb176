"""MMA by its definition: adapters in plain towers, autograd's gradients.

Expected values: the formulas of the paper on `plain_clip`, in float64; sizes differ from those of the recordings.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from by_definition import check_objective
from golden_data import training_batch
from plain_clip import block, layers_of, quick_gelu, similarity
from tiny_runs import CLASSNAMES, build_trainer, set_position

from clip.clip import tokenize

NAMES = [name.replace("_", " ") for name in CLASSNAMES]


def mma_adapter(theta, side, layer, scale, u):
    def linear(name, x):
        prefix = f"adapter_learner.{name}"
        return F.linear(x, theta[f"{prefix}.weight"], theta[f"{prefix}.bias"])

    hidden = linear(f"shared_adapter.{layer}.0", linear(f"{side}.{layer}.down.0", u).relu()).relu()
    return scale * linear(f"{side}.{layer}.up", hidden)


def mma_tower(state, prefix, x, mask, theta, side, layers, scale):
    for number in range(layers_of(state, prefix)):
        name = f"{prefix}.{number}"
        u = F.layer_norm(x, x.shape[-1:], state[f"{name}.ln_1.weight"], state[f"{name}.ln_1.bias"])
        x = block(state, name, x, mask, quick_gelu)
        if number + 1 in layers:
            x = x + mma_adapter(theta, side, number + 1, scale, u)
    return x


def mma_text(state, tokens, theta, layers, scale):
    x = state["token_embedding.weight"][tokens]
    if 0 in layers:
        x = x + mma_adapter(theta, "text_adapter", 0, scale, x)
    x = x + state["positional_embedding"]
    mask = torch.full((77, 77), float("-inf"), dtype=x.dtype).triu(1)
    x = mma_tower(state, "transformer.resblocks", x, mask, theta, "text_adapter", layers, scale)
    x = F.layer_norm(x, x.shape[-1:], state["ln_final.weight"], state["ln_final.bias"])
    return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ state["text_projection"]


def mma_image(state, images, theta, layers, scale):
    x = F.conv2d(images, state["visual.conv1.weight"], stride=16).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], dim=1)
    x = x + state["visual.positional_embedding"]
    x = F.layer_norm(x, x.shape[-1:], state["visual.ln_pre.weight"], state["visual.ln_pre.bias"])
    if 0 in layers:
        x = x + mma_adapter(theta, "visual_adapter", 0, scale, x)
    x = mma_tower(state, "visual.transformer.resblocks", x, None, theta, "visual_adapter", layers, scale)
    x = F.layer_norm(x[:, 0], x.shape[-1:], state["visual.ln_post.weight"], state["visual.ln_post.bias"])
    return x @ state["visual.proj"]


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
    batch = training_batch(1)
    images, labels = batch["img"].double(), batch["label"]

    def loss(theta):
        text = mma_text(state, tokens, theta, layers, scale)
        return F.cross_entropy(similarity(state, mma_image(state, images, theta, layers, scale), text), labels)

    def factor(name):
        layer = int(name.split(".")[2])
        return 1 / scale if s.SCALE_GRADIENTS and layer > 0 else 1.0

    check_objective(trainer, (images, labels), loss, factor, second=case == "true gradients")


def test_mma_encodes_what_never_changes_once(tiny_cfg, monkeypatch):
    """Below the first adapter, neither a step nor an evaluation runs a text block again."""
    trainer = build_trainer(tiny_cfg("MultiModalAdapter", {"ADAPTER_START": 3}, "more_tokens"))
    blocks = trainer.prompts.clip.transformer.resblocks
    for number in (0, 1):
        monkeypatch.setattr(blocks[number], "ln_1", None)
    set_position(trainer, 0)
    assert trainer.forward_backward(training_batch(0))["loss"] > 0
