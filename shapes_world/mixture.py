"""The pictures of pre-training: the shares of the subjects and styles.

The styles of the downstream data sets occur, but rarely.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from shapes_world.render import render
from shapes_world.styles import STYLES
from shapes_world.world import GLYPH_SUBJECTS, SHAPE_SUBJECTS, Subject

GLYPH_SHARE = 0.2
SHAPE_STYLE_SHARES = {
    "clean": 0.34,
    "textured": 0.26,
    "cartoon": 0.20,
    "photo": 0.08,
    "sketch": 0.04,
    "night": 0.04,
    "cluttered": 0.04,
}
GLYPH_STYLE_SHARES = {"clean": 0.40, "textured": 0.25, "cartoon": 0.20, "sign": 0.15}


def draw_example(seed: int, index: int) -> tuple[Image.Image, Subject, str]:
    """Picture `index` of the endless pre-training set of that seed, its subject and the name of its style."""
    rng = np.random.default_rng([seed, index])
    is_glyph = rng.random() < GLYPH_SHARE
    subjects, shares = (GLYPH_SUBJECTS, GLYPH_STYLE_SHARES) if is_glyph else (SHAPE_SUBJECTS, SHAPE_STYLE_SHARES)
    subject = subjects[rng.integers(len(subjects))]
    style = str(rng.choice(list(shares), p=list(shares.values())))
    return render(subject, STYLES[style], rng), subject, style
