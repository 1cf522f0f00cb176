"""The tokenizer gives OpenAI's ids.

Expected ids: tests/golden/tokenizer.json, recorded from CoOp's clip/simple_tokenizer.py with ftfy.
"""

from __future__ import annotations

import json

import pytest
from golden_data import COMPACT

from clip import clip
from clip.simple_tokenizer import SimpleTokenizer
from datasets.layout.classes import prompt_words

CASES = json.loads((COMPACT / "tokenizer.json").read_text())


@pytest.fixture(scope="module")
def tokenizer():
    return SimpleTokenizer()


def test_there_are_cases():
    assert len(CASES) == 69
    assert sum(case["too_long_error"] for case in CASES) >= 1


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case["text"][:20]))
def test_recorded_case(tokenizer, case):
    text, tokens = case["text"], case["tokens"]
    assert tokenizer.encode(text) == case["encode"]
    row = clip.tokenize(text, truncate=True)
    assert row.shape == (1, 77)
    assert row[0].tolist() == tokens + [0] * (77 - len(tokens))
    assert row.argmax() == case["eot_index"]
    assert tokenizer.decode(case["encode"]) == case["decoded"]
    if case["too_long_error"]:
        with pytest.raises(RuntimeError, match="is too long for context length 77"):
            clip.tokenize(text)
    else:
        assert clip.tokenize(text).equal(row)


def test_several_texts_and_another_length():
    rows = clip.tokenize(["a cat", "a dog"], context_length=5)
    assert rows.tolist() == [[49406, 320, 2368, 49407, 0], [49406, 320, 1929, 49407, 0]]
    with pytest.raises(RuntimeError, match="too long for context length 3"):
        clip.tokenize("a cat", context_length=3)


def test_names_of_the_lineage(tokenizer):
    """What prompt learners use of the class."""
    assert tokenizer.encoder["<|startoftext|>"] == 49406 and tokenizer.encoder["<|endoftext|>"] == 49407
    assert len(tokenizer.encoder) == len(tokenizer.decoder) == 49408
    assert len(tokenizer.encode("wild cat")) == 2


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("hot dog", "hot_dog"),
        ("hot dog", "Hot  Dog"),
        ("boeing 737", "boeing 7 37"),
        ("colt's foot", "colt\u2019s foot"),
        ("Q&A", "q&amp;a"),
        ("t-shirt", "t - shirt"),
        ("hot dog", "hotdog"),
        ("a.b", "a b"),
        ("cat", "cats"),
        ("café", "cafe"),
    ],
)
def test_class_names_have_one_text_where_the_tokens_are_the_same(one, other):
    tokens = [clip.tokenize(name.replace("_", " ")).tolist() for name in (one, other)]
    assert (prompt_words(one) == prompt_words(other)) == (tokens[0] == tokens[1])
