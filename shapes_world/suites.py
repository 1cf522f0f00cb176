"""The downstream data sets: which subjects, in which style, how many pictures, from which random numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from shapes_world.render import render
from shapes_world.styles import STYLES
from shapes_world.world import GLYPH_SUBJECTS, GLYPHS, SHAPE_SUBJECTS, Subject

SPLITS: tuple[str, ...] = ("train", "val", "test")
DOWNSTREAM_SEED = 20_000_003  # pre-training draws from other seeds, so no picture is seen twice


@dataclass(frozen=True)
class Suite:
    """One data set. Classes are labelled in the order of `subjects`."""

    name: str  # as in the split file's name, "Shapes"
    folder: str  # below the data root, "shapes"
    key: int  # keeps its random numbers apart from the other suites'
    style: str
    subjects: tuple[Subject, ...]
    images_per_class: tuple[int, int, int]  # train, val, test

    @property
    def split_file(self) -> str:
        return f"split_zhou_{self.name}.json"

    @property
    def class_names(self) -> list[str]:
        return [subject.name for subject in self.subjects]

    def count(self, split: str) -> int:
        """Pictures per class in "train", "val" or "test"."""
        return self.images_per_class[SPLITS.index(split)]

    def draw(self, split: str, label: int, number: int) -> Image.Image:
        """Picture `number` of class `label`; the same pixels at every call."""
        rng = np.random.default_rng([DOWNSTREAM_SEED, self.key, SPLITS.index(split), label, number])
        return render(self.subjects[label], STYLES[self.style], rng)


def _choose(candidates: list[Subject], count: int, key: int) -> tuple[Subject, ...]:
    """`count` of the candidates in random order, so that both halves of the labels are similar."""
    order = np.random.default_rng([DOWNSTREAM_SEED, key]).permutation(len(candidates))
    return tuple(candidates[i] for i in order[:count])


SHAPES_COLOURS = ("red", "orange", "brown", "pink", "purple", "blue")
SHAPES_FORMS = ("circle", "oval", "ring", "pentagon", "hexagon", "heart", "star", "drop")
GLYPHS_COLOURS = ("red", "orange", "green", "blue", "purple", "white")
GLYPHS_FORMS = tuple(form for form in GLYPHS if form.split()[-1] not in "ioq01")  # without glyphs that resemble others

_SHAPES_SUBJECTS = _choose([s for s in SHAPE_SUBJECTS if s.colour in SHAPES_COLOURS and s.form in SHAPES_FORMS], 60, 1)
_GLYPHS_SUBJECTS = _choose([s for s in GLYPH_SUBJECTS if s.colour in GLYPHS_COLOURS and s.form in GLYPHS_FORMS], 48, 2)

SUITES: dict[str, Suite] = {
    suite.name: suite
    for suite in (
        Suite("Shapes", "shapes", 1, "photo", _SHAPES_SUBJECTS, (20, 4, 50)),
        Suite("Glyphs", "glyphs", 2, "sign", _GLYPHS_SUBJECTS, (20, 4, 30)),
        Suite("ShapesSketch", "shapes_sketch", 3, "sketch", _SHAPES_SUBJECTS, (0, 0, 20)),
        Suite("ShapesNight", "shapes_night", 4, "night", _SHAPES_SUBJECTS, (0, 0, 20)),
        Suite("ShapesCluttered", "shapes_cluttered", 5, "cluttered", _SHAPES_SUBJECTS, (0, 0, 20)),
    )
}
