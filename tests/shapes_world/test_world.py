"""The world's compositions and the downstream class lists. Expected numbers: the bounds the data sets were planned with
(40 to 100 classes, 16 or more training and 50 or more test pictures a class)."""

from __future__ import annotations

import numpy as np
import pytest

from shapes_world.captions import write_caption
from shapes_world.render import IMAGE_SIZE, render
from shapes_world.styles import STYLES
from shapes_world.suites import SUITES
from shapes_world.world import GLYPH_SUBJECTS, PATTERNS, SHAPE_SUBJECTS, SHAPES, Subject


def test_names_of_all_subjects_are_distinct():
    names = [subject.name for subject in SHAPE_SUBJECTS + GLYPH_SUBJECTS]
    assert len(names) > 1000
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        (Subject("red", "striped", "heart"), "red striped heart"),
        (Subject("blue", "plain", "ring"), "blue ring"),
        (Subject("green", "plain", "digit 7"), "green digit 7"),
    ],
)
def test_name_leaves_out_the_plain_pattern(subject, name):
    assert subject.name == name


def test_class_lists_are_small_parts_of_the_pretraining_world():
    for suite in SUITES.values():
        assert 40 <= len(suite.subjects) <= 100
        assert len(set(suite.class_names)) == len(suite.subjects)
        world = GLYPH_SUBJECTS if suite.name == "Glyphs" else SHAPE_SUBJECTS
        assert set(suite.subjects) < set(world)
        assert len(suite.subjects) * 4 < len(world)


def test_shapes_has_enough_pictures_and_its_variants_the_same_classes():
    train, val, test = SUITES["Shapes"].images_per_class
    assert train >= 16 and val >= 4 and test >= 50
    for name in ("ShapesSketch", "ShapesNight", "ShapesCluttered"):
        assert SUITES[name].subjects == SUITES["Shapes"].subjects
        assert SUITES[name].images_per_class[:2] == (0, 0)
        assert SUITES[name].count("test") >= 20


def test_glyphs_shares_no_class_with_shapes():
    assert not set(SUITES["Glyphs"].class_names) & set(SUITES["Shapes"].class_names)


def test_suites_draw_from_different_random_numbers():
    keys = [suite.key for suite in SUITES.values()]
    assert len(set(keys)) == len(keys)
    shapes, night = (np.asarray(SUITES[name].draw("test", 0, 0)) for name in ("Shapes", "ShapesNight"))
    assert not np.array_equal(shapes, night)


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_is_decided_by_its_random_numbers(style):
    subject = SHAPE_SUBJECTS[100]
    first, again, other = (render(subject, STYLES[style], np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert first.size == (IMAGE_SIZE, IMAGE_SIZE) and first.mode == "RGB"
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_every_form_and_pattern_looks_different():
    """From the same random numbers, so that only the subject differs."""
    subjects = [subject for subject in SHAPE_SUBJECTS if subject.colour == "red"]
    subjects += [subject for subject in GLYPH_SUBJECTS if subject.colour == "red"]
    assert len(subjects) > len(SHAPES) * len(PATTERNS) // 2
    pictures = {render(subject, STYLES["clean"], np.random.default_rng(3)).tobytes() for subject in subjects}
    assert len(pictures) == len(subjects)


def test_captions_name_the_subject_in_full_or_in_part():
    subject, rng = Subject("red", "striped", "heart"), np.random.default_rng(0)
    captions = [write_caption(subject, "sketch", rng) for _ in range(300)]
    full = sum("red striped heart" in caption for caption in captions)
    parts = sum(any(p in c for p in ("red heart", "red striped shape")) or "striped heart" in c for c in captions)
    assert 200 < full < 280  # PARTIAL_SHARE is a fifth: 240 expected, standard deviation 7
    assert parts == 300
    assert sum("sketch" in caption for caption in captions) > 50  # two of four sketch templates, half of the time
