"""The shipped weights. Expected accuracies: the last measurement in pretrain_log.txt, on all test pictures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import clip
from clip import backbones
from shapes_world.vocabulary import known_token_ids
from shapes_world.zeroshot import evaluate

PACKAGE = Path(backbones.__file__).parent
WEIGHTS = PACKAGE / "vit_shapes.safetensors"
SAMPLED_PER_CLASS = 6
# Four standard deviations of an accuracy near 50 % over the smallest sample, 30 classes x 6 pictures: 4 x 3.7 points.
TOLERANCE = 15.0
# What the data sets were designed for, in percent.
BANDS = {"Shapes base": (50, 75), "Shapes new": (50, 75), "Glyphs": (35, 65)} | {
    name: (35, 65) for name in ("ShapesSketch", "ShapesNight", "ShapesCluttered")
}


@pytest.fixture(scope="module")
def recorded() -> dict[str, float]:
    log = (PACKAGE / "pretrain_log.txt").read_text()
    return {name: float(value) for name, value in re.findall(r"zero-shot ([\w ]+): ([\d.]+)%", log)}  # last one wins


def test_file_is_small_half_precision_and_has_the_known_tokens():
    assert WEIGHTS.stat().st_size <= 8 * 2**20
    tensors = load_file(WEIGHTS)
    assert torch.equal(tensors.pop("token_embedding.rows"), known_token_ids())
    assert {value.dtype for value in tensors.values()} == {torch.float16}
    assert all(value.isfinite().all() for value in tensors.values())


def test_recorded_accuracies_lie_in_the_planned_bands(recorded):
    assert set(BANDS) | {"Shapes"} == set(recorded)
    for name, (low, high) in BANDS.items():
        assert low <= recorded[name] <= high, name


def test_accuracy_on_a_sample_is_as_recorded(recorded):
    model, _ = clip.load("ViT-Shapes", device="cpu")
    measured = evaluate(model, clip.tokenize, SAMPLED_PER_CLASS)
    assert set(measured) == set(recorded)
    for name, accuracy in measured.items():
        assert accuracy == pytest.approx(recorded[name], abs=TOLERANCE), name
