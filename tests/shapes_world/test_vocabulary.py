"""The restricted token table knows every word that is needed. Token ids come from CLIP's own tokenizer."""

from __future__ import annotations

import pytest
import torch
from open_clip import OPENAI_IMAGENET_TEMPLATES

import clip
from shapes_world.captions import STYLE_TEMPLATES, TEMPLATES
from shapes_world.suites import SUITES
from shapes_world.vocabulary import RestrictedTokenizer, known_token_ids
from shapes_world.world import GLYPH_SUBJECTS, SHAPE_SUBJECTS

CLASS_NAMES = sorted({name for suite in SUITES.values() for name in suite.class_names})
OTHER_TEXTS = ["X X X X X red heart.", "a photo of a", "0123456789", "A!?.,;:-'()", "abcdefghijklmnopqrstuvwxyz"]


@pytest.fixture(scope="module")
def token_ids() -> torch.Tensor:
    return known_token_ids()


def test_ids_ascend_and_are_a_small_part_of_the_vocabulary(token_ids):
    assert (token_ids[1:] > token_ids[:-1]).all()
    assert 512 < len(token_ids) < 1000
    assert token_ids[-2:].tolist() == [49406, 49407]  # start and end of text


def test_class_names_templates_and_characters_are_covered(token_ids):
    templates = [template("shape") for template in OPENAI_IMAGENET_TEMPLATES]
    templates += [t.format("letter") for options in (TEMPLATES, *STYLE_TEMPLATES.values()) for t in options]
    assert len(CLASS_NAMES) > 80 and len(templates) > 160
    characters = [character for text in OTHER_TEXTS for character in text if character != " "]
    needed = clip.tokenize(CLASS_NAMES + templates + OTHER_TEXTS[:2] + characters).long()
    missing = needed[~torch.isin(needed, token_ids)]
    assert missing.numel() == 0, missing.tolist()


def test_all_of_openais_templates_occur_in_captions():
    assert {template("{}") for template in OPENAI_IMAGENET_TEMPLATES} <= set(TEMPLATES)


def test_rows_stand_for_clips_own_ids(token_ids):
    texts = ["a photo of a red striped heart.", "ring"] + [s.name for s in (*SHAPE_SUBJECTS[:5], *GLYPH_SUBJECTS[:5])]
    rows = RestrictedTokenizer(token_ids)(texts)
    ids = clip.tokenize(texts).long()
    length = int((ids == 49407).nonzero()[:, 1].max()) + 1
    assert rows.shape == (len(texts), length)
    inside = ids[:, :length] != 0
    assert torch.equal(token_ids[rows][inside], ids[:, :length][inside])
    assert torch.equal(rows.argmax(1), ids.argmax(1))


def test_unknown_word_is_named(token_ids):
    with pytest.raises(KeyError, match="an aardvark"):
        RestrictedTokenizer(token_ids)(["an aardvark"])
