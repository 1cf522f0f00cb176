"""Base and new classes, and classes with the same prompt."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence

from dassl.data.datasets import Datum
from dassl.utils import BadValueError
from datasets.layout.items import Item

_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"
"""How CLIP's tokenizer splits a text; blanks only separate words."""

SUBSAMPLES = ("all", "base", "new")


def check_subsample(value: str) -> str:
    """Return `value` if it is valid for DATASET.SUBSAMPLE_CLASSES.

    Raises:
        BadValueError: it is not.
    """
    if value not in SUBSAMPLES:
        raise BadValueError(f"DATASET.SUBSAMPLE_CLASSES is {value!r}; it can be {', '.join(SUBSAMPLES)}")
    return value


def subsample_classes(*args: list[Datum], subsample: str = "all") -> Sequence[list[Datum]]:
    """Keep the base or the new classes of each list and relabel them from 0.

    Base and new classes are those of `base_and_new` of the first list (train).
    """
    if check_subsample(subsample) == "all":
        return args
    base, new = base_and_new(args[0])
    print(f"SUBSAMPLE {subsample.upper()} CLASSES!")
    labels, kept = [*base, *new], base if subsample == "base" else new
    if not kept:
        raise BadValueError(f"a data set of {len(labels)} class has no new classes; set DATASET.SUBSAMPLE_CLASSES all")
    relabelled = {label: new_label for new_label, label in enumerate(kept)}
    return [
        [Item(item.impath, relabelled[item.label], item.classname) for item in items if item.label in relabelled]
        for items in args
    ]


def base_and_new(items: Iterable[Datum]) -> tuple[list[int], list[int]]:
    """The base labels, which are the first ceil(n/2) of the n ascending labels of `items`, and the other ones."""
    labels = sorted({item.label for item in items})
    half = (len(labels) + 1) // 2
    return labels[:half], labels[half:]


def prompt_words(classname: str) -> tuple[str, ...]:
    """The words of a class name as CLIP's tokenizer reads them: case, blanks and `_` make no difference."""
    import regex  # as the tokenizer does, for letters of all scripts

    text = classname.replace("_", " ")
    if not text.isascii():
        import ftfy

        text = ftfy.fix_text(text)
    return tuple(regex.findall(_WORDS, html.unescape(html.unescape(text)).lower()))


def describe_same_text(classnames: Sequence[str]) -> str:
    """A clause that pairs each name with the earliest that gives the same prompt; empty if all prompts differ."""
    first: dict[tuple[str, ...], int] = {}
    pairs = []
    for position, name in enumerate(classnames):
        earlier = first.setdefault(prompt_words(name), position)
        if earlier != position:
            pairs.append(f"{classnames[earlier]!r} and {name!r} (classes {earlier} and {position})")
    return f"the same prompt text, so no model can tell them apart: {', '.join(pairs)}" if pairs else ""
