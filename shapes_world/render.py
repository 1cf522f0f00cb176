"""Turns a `Subject` in a `Style` into pixels. Deterministic: one NumPy generator decides everything."""

from __future__ import annotations

import colorsys
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from shapes_world.styles import Bounds, Style
from shapes_world.world import COLOURS, OPENINGS, OUTLINES, PATTERNS, PLAIN, SHAPE_SUBJECTS, Subject

IMAGE_SIZE = 48  # pixels; the styles' blur is given at this size
OVERSAMPLING = 3  # masks are drawn this much larger and averaged, for soft edges
GLYPH_CANVAS = 96  # pixels; glyphs are drawn once at this size, then scaled and rotated
HOLLOW_OPENING = 0.62


def render(subject: Subject, style: Style, rng: np.random.Generator, size: int = IMAGE_SIZE) -> Image.Image:
    """Draw `subject` at a random position, scale, rotation, lighting and background.

    Returns:
        An RGB picture of size x size pixels.
    """
    picture = BACKGROUNDS[style.background](rng, size)
    for _ in range(rng.integers(style.clutter[0], style.clutter[1] + 1)):
        other = SHAPE_SUBJECTS[rng.integers(len(SHAPE_SUBJECTS))]
        picture = _paint(picture, other, "paint", _Pose(rng, (0.06, 0.12), 180.0, margin=0.0, size=size), 0.0, rng)
    pose = _Pose(rng, style.radius, style.rotation, margin=0.9, size=size)
    picture = _paint(picture, subject, style.medium, pose, _draw(rng, style.shadow), rng)
    picture = _light(picture, style, rng)
    image = Image.fromarray(_to_bytes(picture))
    blur = _draw(rng, style.blur) * size / IMAGE_SIZE
    if blur > 0:
        image = image.filter(ImageFilter.GaussianBlur(blur))
    noise = rng.standard_normal((size, size, 3), dtype=np.float32) * _draw(rng, style.noise)
    return Image.fromarray(_to_bytes(np.asarray(image, dtype=np.float32) / 255 + noise))


class _Pose:
    """Position (pixels), radius (pixels) and rotation of something in a picture."""

    def __init__(self, rng: np.random.Generator, radius: Bounds, rotation: float, margin: float, size: int):
        self.size = size
        self.radius = _draw(rng, radius) * size
        free = min(self.radius * margin, size / 2)
        self.centre = rng.uniform(free, size - free, 2)
        self.degrees = _draw(rng, (-rotation, rotation))

    def to_pixels(self, points: np.ndarray) -> np.ndarray:
        """Points of an outline, (n, 2), in pixels."""
        cos, sin = np.cos(np.deg2rad(self.degrees)), np.sin(np.deg2rad(self.degrees))
        turned = points @ np.array([[cos, sin], [-sin, cos]])  # (n, 2)
        return turned * self.radius + self.centre

    def to_local(self) -> tuple[np.ndarray, np.ndarray]:
        """The picture's pixels in the outline's own coordinates, two arrays (size, size)."""
        cos, sin = np.cos(np.deg2rad(self.degrees)), np.sin(np.deg2rad(self.degrees))
        x = (np.arange(self.size, dtype=np.float32) + 0.5 - self.centre[0])[None, :] / self.radius
        y = (np.arange(self.size, dtype=np.float32) + 0.5 - self.centre[1])[:, None] / self.radius
        return cos * x + sin * y, cos * y - sin * x


def _paint(
    picture: np.ndarray, subject: Subject, medium: str, pose: _Pose, shadow: float, rng: np.random.Generator
) -> np.ndarray:
    """Paint `subject` over `picture`, (size, size, 3) in [0, 1]."""
    mask = _mask(subject, pose)  # (size, size)
    colour = _colour(subject.colour, rng)  # (3,)
    second = _second_tone(colour, rng)  # (3,)
    pattern = _pattern(subject.pattern, pose, rng)[..., None]  # (size, size, 1), 1 where the second tone is
    if shadow > 0:
        shift = np.round(rng.uniform(-0.35, 0.35, 2) * pose.radius).astype(int)
        picture = picture * (1 - shadow * np.roll(mask, tuple(shift), (0, 1))[..., None])
    if medium == "pencil":
        contour = _contour(mask)
        cover = np.clip(contour * 0.9 + mask * (1 - pattern[..., 0]) * rng.uniform(0.25, 0.45), 0, 1)[..., None]
        return picture * (1 - cover) + colour * 0.85 * cover
    fill = colour * (1 - pattern) + second * pattern  # (size, size, 3)
    if medium == "inked":
        fill = fill * (1 - 0.85 * _contour(mask)[..., None])
    cover = mask[..., None]
    return picture * (1 - cover) + fill * cover


def _mask(subject: Subject, pose: _Pose) -> np.ndarray:
    """How much of each pixel the subject covers, (size, size) in [0, 1]."""
    if subject.is_glyph:
        return _glyph_mask(subject.form, pose)
    outline = OUTLINES[subject.form]
    canvas = Image.new("L", (pose.size * OVERSAMPLING, pose.size * OVERSAMPLING))
    draw = ImageDraw.Draw(canvas)
    draw.polygon((pose.to_pixels(outline) * OVERSAMPLING).ravel().tolist(), fill=255)
    opening = OPENINGS.get(subject.form, HOLLOW_OPENING if subject.pattern == "hollow" else 0.0)
    if opening:
        draw.polygon((pose.to_pixels(outline * opening) * OVERSAMPLING).ravel().tolist(), fill=0)
    return np.asarray(canvas.reduce(OVERSAMPLING), dtype=np.float32) / 255


@cache
def _glyph(form: str) -> Image.Image:
    """The glyph of "letter a" or "digit 7" in Pillow's own font, white on black, centred."""
    canvas = Image.new("L", (GLYPH_CANVAS, GLYPH_CANVAS))
    font = ImageFont.load_default(GLYPH_CANVAS)
    middle = (GLYPH_CANVAS / 2, GLYPH_CANVAS / 2)
    ImageDraw.Draw(canvas).text(middle, form.split()[-1].upper(), fill=255, font=font, anchor="mm", stroke_width=2)
    return canvas


def _glyph_mask(form: str, pose: _Pose) -> np.ndarray:
    cos, sin = np.cos(np.deg2rad(pose.degrees)), np.sin(np.deg2rad(pose.degrees))
    scale = GLYPH_CANVAS / 2 / 1.15 / pose.radius  # canvas pixels per picture pixel
    matrix = np.array([[cos, sin], [-sin, cos]]) * scale
    offset = GLYPH_CANVAS / 2 - matrix @ pose.centre
    data = (matrix[0, 0], matrix[0, 1], offset[0], matrix[1, 0], matrix[1, 1], offset[1])
    mask = _glyph(form).transform((pose.size, pose.size), Image.Transform.AFFINE, data, Image.Resampling.BICUBIC)
    return np.asarray(mask, dtype=np.float32) / 255


def _contour(mask: np.ndarray) -> np.ndarray:
    """The rim of a mask, one to two pixels wide, (size, size) in [0, 1]."""
    inner = np.asarray(Image.fromarray(_to_bytes(mask)).filter(ImageFilter.MinFilter(3)), dtype=np.float32) / 255
    return mask - inner


def _pattern(pattern: str, pose: _Pose, rng: np.random.Generator) -> np.ndarray:
    """Where the second tone goes, (size, size) in [0, 1]; zero for a plain or hollow subject."""
    if pattern in (PLAIN, "hollow"):
        return np.zeros((pose.size, pose.size), dtype=np.float32)
    u, v = pose.to_local()
    frequency = 2 * np.pi * rng.uniform(1.5, 2.0)  # per radius
    phase_u, phase_v = rng.uniform(0, 2 * np.pi, 2)
    if pattern == "striped":
        wave = np.sin(frequency * v + phase_v)
    elif pattern == "dotted":
        wave = (np.sin(frequency * u + phase_u) * np.sin(frequency * v + phase_v)) * 2 - 0.7
    elif pattern == "checkered":
        wave = np.sin(frequency * 0.7 * u + phase_u) * np.sin(frequency * 0.7 * v + phase_v) * 2
    elif pattern == "ringed":
        wave = np.sin(frequency * np.hypot(u, v) + phase_v)
    else:
        raise ValueError(f"unknown pattern {pattern!r}; available: {', '.join(PATTERNS)}")
    return np.clip(wave * 2 + 0.5, 0, 1).astype(np.float32)


def _colour(name: str, rng: np.random.Generator) -> np.ndarray:
    hue, saturation, value = COLOURS[name]
    saturation_factor, value_factor = rng.uniform(0.88, 1.08, 2)
    hue = (hue + rng.uniform(-0.012, 0.012)) % 1.0
    rgb = colorsys.hsv_to_rgb(hue, min(1.0, saturation * saturation_factor), min(1.0, value * value_factor))
    return np.array(rgb, dtype=np.float32)


def _second_tone(colour: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Partner of `colour` in a pattern: much darker, or much lighter if that is distinguishable."""
    if colour.min() < 0.75 and rng.random() < 0.5:
        return colour * 0.25 + 0.75
    return colour * rng.uniform(0.2, 0.4)


def _light(picture: np.ndarray, style: Style, rng: np.random.Generator) -> np.ndarray:
    """Strength, direction and colour of the light, on a picture (size, size, 3)."""
    size = len(picture)
    angle, slope = rng.uniform(0, 2 * np.pi), _draw(rng, style.slope)
    axis = np.linspace(-0.5, 0.5, size, dtype=np.float32)
    field = 1 + slope * (np.cos(angle) * axis[None, :] + np.sin(angle) * axis[:, None])  # (size, size)
    channels = np.array(style.cast) * (1 + rng.uniform(-style.tint, style.tint, 3)) * _draw(rng, style.light)
    return picture * field[..., None] * channels.astype(np.float32)


def _flat(rng: np.random.Generator, size: int) -> np.ndarray:
    return np.broadcast_to(_backdrop(rng), (size, size, 3))


def _gradient(rng: np.random.Generator, size: int) -> np.ndarray:
    corners = np.stack([_backdrop(rng) for _ in range(4)]).reshape(2, 2, 3)  # rows, columns, channels
    return _enlarge(corners, size)


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    coarse = _enlarge(rng.uniform(-0.13, 0.13, (4, 4, 3)), size)
    fine = _enlarge(np.repeat(rng.uniform(-0.13, 0.13, (16, 16, 1)), 3, axis=2), size)
    return np.clip(_backdrop(rng) + coarse + fine, 0, 1)


def _paper(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.uniform(0.88, 0.99) + _enlarge(np.repeat(rng.uniform(-0.03, 0.03, (24, 24, 1)), 3, axis=2), size)


BACKGROUNDS = {"flat": _flat, "gradient": _gradient, "texture": _texture, "paper": _paper}


def _backdrop(rng: np.random.Generator) -> np.ndarray:
    """A background colour of any hue, mostly muted, (3,)."""
    rgb = colorsys.hsv_to_rgb(rng.random(), rng.random() ** 2 * 0.7, rng.uniform(0.1, 0.95))
    return np.array(rgb, dtype=np.float32)


def _enlarge(values: np.ndarray, size: int) -> np.ndarray:
    """(h, w, 3) -> (size, size, 3), bicubic."""
    channels = [Image.fromarray(np.ascontiguousarray(values[..., c], dtype=np.float32)) for c in range(3)]
    return np.stack([np.asarray(c.resize((size, size), Image.Resampling.BICUBIC)) for c in channels], axis=2)


def _draw(rng: np.random.Generator, bounds: Bounds) -> float:
    return float(rng.uniform(*bounds))


def _to_bytes(picture: np.ndarray) -> np.ndarray:
    return (np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8)
