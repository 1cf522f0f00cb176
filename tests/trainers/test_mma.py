"""MMA by its definition: adapters in plain towers, autograd's gradients.

Expected values: the formulas of the paper on `plain_clip`, in float64; sizes differ from those of the recordings.
"""

from __future__ import annotations

import pytest
import torch.nn.functional as F
from by_definition import check_objective
from golden_data import training_batch
from plain_clip import similarity
from plain_mma import mma_image, mma_text
from tiny_runs import CLASSNAMES, build_trainer, set_position

from clip.clip import tokenize

NAMES = [name.replace("_", " ") for name in CLASSNAMES]


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
