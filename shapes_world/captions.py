"""Captions for pictures: the templates of pre-training and the choice of one for a picture."""

from __future__ import annotations

import numpy as np
from open_clip import OPENAI_IMAGENET_TEMPLATES

from shapes_world.world import PLAIN, Subject

OWN_TEMPLATES: tuple[str, ...] = (
    "{}",
    "a {}.",
    "the {}.",
    "one {}.",
    "my {}.",
    "this is a {}.",
    "there is a {}.",
    "a photo of {}.",
    "a picture of a {}.",
    "an image of a {}.",
    "a photo of a single {}.",
    "a photo of a {}, a type of shape.",
    "a photo of a {}, a type of sign.",
    "a centered picture of the {}.",
    "a {} on a background.",
)
TEMPLATES: tuple[str, ...] = OWN_TEMPLATES + tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)

# Templates that name the style of a picture; half of the captions in such a style use them.
STYLE_TEMPLATES: dict[str, tuple[str, ...]] = {
    "clean": (
        "a photo of a clean {}.",
        "a good photo of a {}.",
        "a photo of the large {}.",
        "a close-up photo of a {}.",
    ),
    "cartoon": ("a cartoon {}.", "the cartoon {}.", "a {} in a video game.", "a rendering of a {}."),
    "photo": ("a photo of a small {}.", "a blurry photo of a {}.", "a low resolution photo of a {}.", "itap of a {}."),
    "sketch": ("a sketch of a {}.", "a sketch of the {}.", "a drawing of a {}.", "a doodle of a {}."),
    "night": ("a dark photo of the {}.", "a dark photo of a {}.", "a bad photo of a {}."),
    "cluttered": ("a photo of a hard to see {}.", "a photo of the hard to see {}.", "a cropped photo of a {}."),
    "sign": ("graffiti of a {}.", "a photo of a dirty {}.", "a bad photo of the {}."),
}
STYLE_WORDS_SHARE = 0.5
PARTIAL_SHARE = 0.2  # captions without all attributes


def write_caption(subject: Subject, style: str, rng: np.random.Generator) -> str:
    """One caption for a picture of `subject` in the style of that name."""
    templates = TEMPLATES
    if style in STYLE_TEMPLATES and rng.random() < STYLE_WORDS_SHARE:
        templates = STYLE_TEMPLATES[style]
    template = templates[rng.integers(len(templates))]
    descriptions = _partial_descriptions(subject) if rng.random() < PARTIAL_SHARE else (subject.name,)
    return template.format(descriptions[rng.integers(len(descriptions))])


def _partial_descriptions(subject: Subject) -> tuple[str, ...]:
    kind = subject.form.split()[0] if subject.is_glyph else "shape"
    pattern = "" if subject.pattern == PLAIN else f"{subject.pattern} "
    return (f"{subject.colour} {subject.form}", f"{pattern}{subject.form}", f"{subject.colour} {pattern}{kind}")
