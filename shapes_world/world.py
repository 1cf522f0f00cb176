"""The content of the generated image world: colours, patterns, outlines, glyphs and their compositions.

Nothing here draws: `render.py` turns a `Subject` into pixels, `captions.py` into words.
"""

from __future__ import annotations

import itertools
import string
from dataclasses import dataclass

import numpy as np

# Hue, saturation and value, each in [0, 1]; similar ones can be confused under coloured or dim light.
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.00, 0.85, 0.85),
    "orange": (0.07, 0.90, 0.95),
    "gold": (0.125, 0.80, 0.75),
    "yellow": (0.155, 0.85, 0.97),
    "lime": (0.24, 0.80, 0.85),
    "green": (0.36, 0.80, 0.55),
    "teal": (0.49, 0.75, 0.60),
    "blue": (0.61, 0.80, 0.85),
    "purple": (0.76, 0.65, 0.65),
    "pink": (0.92, 0.45, 0.95),
    "brown": (0.06, 0.65, 0.42),
    "white": (0.00, 0.03, 0.96),
}

PLAIN = "plain"  # the pattern without a word in the name: "blue ring", not "blue plain ring"
PATTERNS: tuple[str, ...] = (PLAIN, "striped", "dotted", "checkered", "ringed", "hollow")

LETTERS: tuple[str, ...] = tuple(f"letter {letter}" for letter in string.ascii_lowercase)
DIGITS: tuple[str, ...] = tuple(f"digit {digit}" for digit in string.digits)
GLYPHS: tuple[str, ...] = LETTERS + DIGITS

ARC_POINTS = 40


def _regular(corners: int, start_degrees: float = -90.0) -> np.ndarray:
    angles = np.deg2rad(start_degrees) + np.arange(corners) * 2 * np.pi / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)  # (corners, 2)


def _ellipse(width: float, height: float) -> np.ndarray:
    return _regular(ARC_POINTS) * (width, height)


def _box(width: float, height: float) -> np.ndarray:
    return np.array([(-width, -height), (width, -height), (width, height), (-width, height)])


def _star() -> np.ndarray:
    return _regular(10) * np.where(np.arange(10) % 2 == 0, 1.05, 0.45)[:, None]


def _heart() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, ARC_POINTS, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t))
    return np.stack([x, y - 2.5], axis=1) / 16.5  # (ARC_POINTS, 2)


def _cross() -> np.ndarray:
    x, y = np.array([(0.33, -0.95), (0.33, -0.33), (0.95, -0.33)]).T
    quarters = ((x, y), (-y, x), (-x, -y), (y, -x))  # turned by 0, 90, 180 and 270 degrees
    return np.concatenate([np.stack(quarter, axis=1) for quarter in quarters])  # (12, 2)


def _crescent() -> np.ndarray:
    outer = np.linspace(0.30 * np.pi, 1.70 * np.pi, ARC_POINTS)
    tip = np.array([np.cos(outer[0]), np.sin(outer[0])])
    centre_x = 0.45
    radius = float(np.hypot(tip[0] - centre_x, tip[1]))
    reach = float(np.arctan2(tip[1], tip[0] - centre_x))
    inner = np.linspace(2 * np.pi - reach, reach, ARC_POINTS)
    arcs = [(np.cos(outer), np.sin(outer)), (centre_x + radius * np.cos(inner), radius * np.sin(inner))]
    return np.concatenate([np.stack(arc, axis=1) for arc in arcs]) + (0.15, 0.0)  # (2 * ARC_POINTS, 2)


def _drop() -> np.ndarray:
    t = np.linspace(0, 2 * np.pi, ARC_POINTS, endpoint=False)
    return np.stack([0.75 * np.sin(t) * np.sin(t / 2) ** 1.5 * 1.15, -np.cos(t)], axis=1)  # (ARC_POINTS, 2)


# Closed polygons around the origin, reaching about 1 from it; x to the right, y downwards.
OUTLINES: dict[str, np.ndarray] = {
    "circle": _ellipse(0.92, 0.92),
    "oval": _ellipse(0.66, 1.02),
    "square": _box(0.80, 0.80),
    "rectangle": _box(0.60, 1.00),
    "triangle": _regular(3) * 1.08 + (0.0, 0.2),
    "diamond": np.array([(0.0, -1.1), (0.68, 0.0), (0.0, 1.1), (-0.68, 0.0)]),
    "pentagon": _regular(5),
    "hexagon": _regular(6, 0.0),
    "star": _star(),
    "heart": _heart(),
    "cross": _cross(),
    "ring": _ellipse(0.98, 0.98),
    "crescent": _crescent(),
    "arrow": np.array([(0.0, -1.0), (0.8, -0.1), (0.33, -0.1), (0.33, 1.0), (-0.33, 1.0), (-0.33, -0.1), (-0.8, -0.1)]),
    "drop": _drop(),
    "bolt": np.array([(0.25, -1.05), (-0.6, 0.2), (-0.05, 0.2), (-0.3, 1.05), (0.6, -0.25), (0.08, -0.25)]),
}
SHAPES: tuple[str, ...] = tuple(OUTLINES)

# Radius of the opening, as a share of the outline, in forms that always have one.
OPENINGS: dict[str, float] = {"ring": 0.55}


@dataclass(frozen=True)
class Subject:
    """One nameable thing: a colour, a pattern and a form (an outline of `SHAPES` or a glyph of `GLYPHS`)."""

    colour: str
    pattern: str
    form: str

    @property
    def is_glyph(self) -> bool:
        return self.form not in OUTLINES

    @property
    def name(self) -> str:
        """Class name, for instance "red striped heart", "blue ring" or "green digit 7"."""
        return " ".join((self.colour, self.form) if self.pattern == PLAIN else (self.colour, self.pattern, self.form))


# A hollow circle is a ring; the others have no space for a second opening.
WITHOUT_HOLLOW: frozenset[str] = frozenset({"circle", "ring", "crescent"})

SHAPE_SUBJECTS: tuple[Subject, ...] = tuple(
    Subject(colour, pattern, shape)
    for colour, pattern, shape in itertools.product(COLOURS, PATTERNS, SHAPES)
    if not (pattern == "hollow" and shape in WITHOUT_HOLLOW)
)
GLYPH_SUBJECTS: tuple[Subject, ...] = tuple(Subject(colour, PLAIN, glyph) for colour in COLOURS for glyph in GLYPHS)
