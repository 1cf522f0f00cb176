"""Class names with words that the small CLIP has never seen."""

from __future__ import annotations

import pytest

import clip
from trainers.core.unknown_words import unknown_words, warn_of_unknown_words


@pytest.fixture(scope="module")
def small():
    return clip.load("ViT-Shapes", device="cpu")[0]


def test_words_and_coinciding_classes_are_named(small, capsys):
    names = ["red circle", "Coffee Mug", "running_shoes", "blue circle", "blue kettle", "blue teapot"]
    words, coinciding = unknown_words(small, names)
    assert words == ["Coffee", "Mug", "running", "shoes", "kettle", "teapot"]
    assert ["Coffee Mug", "running_shoes"] in coinciding
    texts = small.encode_text(clip.tokenize([name.replace("_", " ") for name in names]))  # [6, e]
    for group in coinciding:
        first, *others = (texts[names.index(name)] for name in group)
        assert all(first.equal(other) for other in others)
    warn_of_unknown_words(small, names, "ViT-Shapes")
    said = capsys.readouterr().out
    assert "ViT-Shapes has never seen these words of class names: 'Coffee', 'Mug', 'running', 'shoes'" in said
    assert "one and the same: 'Coffee Mug', 'running_shoes'" in said


def test_nothing_is_said_of_words_that_are_known(small, capsys):
    warn_of_unknown_words(small, ["red circle", "Blue_square", "green letter"], "ViT-Shapes")
    assert capsys.readouterr().out == ""
