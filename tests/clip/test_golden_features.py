"""Plain CLIP gives the features that the published code gave.

Expected values: tests/golden/clip_features.safetensors, recorded from CoOp's clip/ on the tiny CLIP in float32. Limits:
ten times the noise between its float32 and float64.
"""

from __future__ import annotations

import pytest
import torch
from golden_data import COMPACT, images, write_backbones
from safetensors.torch import load_file

from clip import clip


@pytest.fixture(scope="module")
def expected():
    return load_file(COMPACT / "clip_features.safetensors")


@pytest.fixture(scope="module")
def backbones(tmp_path_factory):
    return write_backbones(tmp_path_factory.mktemp("backbones"))


@pytest.mark.parametrize("tower, image_limit", [("vit", 5e-5), ("rn", 5e-4)])
@torch.no_grad()
def test_features_and_logits(backbones, expected, tower, image_limit):
    model, _ = clip.load(str(backbones[tower]), device="cpu")
    tokens = expected["text_tokens"].long()
    heldout = images()["heldout_images"]
    assert (model.encode_image(heldout) - expected[f"{tower}/image_features"]).abs().max() < image_limit
    assert (model.encode_text(tokens) - expected[f"{tower}/text_features"]).abs().max() < 5e-5
    assert (model(heldout, tokens)[0] - expected[f"{tower}/logits_per_image"]).abs().max() < image_limit
