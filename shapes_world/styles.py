"""The ways in which the world is drawn. A style is data; `render.py` is the one renderer that reads it.

Ranges are (low, high) of a uniform draw per image. Lengths are shares of the image side, brightness is in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

Bounds = tuple[float, float]


@dataclass(frozen=True)
class Style:
    """How pictures are drawn; each range is sampled once per picture."""

    background: str  # "flat", "gradient", "texture" or "paper" (see render.BACKGROUNDS)
    radius: Bounds  # of the subject
    rotation: float = 25.0  # maximum in degrees, in both directions
    medium: str = "paint"  # "paint", "inked" (paint with a dark contour) or "pencil" (contour and light hatching)
    clutter: tuple[int, int] = (0, 0)  # number of other outlines in the picture, both ends included
    light: Bounds = (0.9, 1.1)  # factor on the whole picture
    slope: Bounds = (0.0, 0.0)  # relative difference of light between two sides
    tint: float = 0.0  # relative deviation of each colour channel's light
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)  # constant colour of the light
    shadow: Bounds = (0.0, 0.0)  # darkness of the subject's shadow
    blur: Bounds = (0.0, 0.0)  # radius of the blur in pixels of a 48 pixel picture
    noise: Bounds = (0.0, 0.02)  # standard deviation of the sensor noise


STYLES: dict[str, Style] = {
    "clean": Style(background="flat", radius=(0.24, 0.42)),
    "textured": Style(background="texture", radius=(0.22, 0.40), light=(0.8, 1.15), noise=(0.0, 0.05)),
    "cartoon": Style(background="gradient", radius=(0.22, 0.42), medium="inked"),
    "photo": Style(
        background="texture",
        radius=(0.15, 0.26),
        rotation=40.0,
        light=(0.6, 1.15),
        slope=(0.2, 0.9),
        tint=0.12,
        shadow=(0.2, 0.6),
        blur=(0.2, 0.8),
        noise=(0.03, 0.08),
    ),
    "sketch": Style(background="paper", radius=(0.20, 0.36), medium="pencil", noise=(0.01, 0.05)),
    "night": Style(
        background="texture",
        radius=(0.18, 0.32),
        light=(0.28, 0.5),
        slope=(0.2, 1.0),
        cast=(0.75, 0.85, 1.2),
        blur=(0.0, 0.6),
        noise=(0.02, 0.06),
    ),
    "cluttered": Style(
        background="texture", radius=(0.17, 0.28), clutter=(3, 6), light=(0.8, 1.1), tint=0.05, noise=(0.02, 0.06)
    ),
    "sign": Style(
        background="gradient",
        radius=(0.18, 0.30),
        rotation=20.0,
        light=(0.6, 1.1),
        slope=(0.2, 0.8),
        tint=0.08,
        shadow=(0.3, 0.7),
        blur=(0.2, 0.7),
        noise=(0.03, 0.08),
    ),
}
