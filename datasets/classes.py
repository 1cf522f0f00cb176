"""Base and new classes."""

from __future__ import annotations

from collections.abc import Sequence

from dassl.data.datasets import Datum
from dassl.utils import BadValueError
from datasets.items import Item

SUBSAMPLES = ("all", "base", "new")


def check_subsample(value: str) -> str:
    """Return ``value`` if DATASET.SUBSAMPLE_CLASSES may have it."""
    if value not in SUBSAMPLES:
        raise BadValueError(f"DATASET.SUBSAMPLE_CLASSES is {value!r}; it can be {', '.join(SUBSAMPLES)}")
    return value


def subsample_classes(*args: Sequence[Datum], subsample: str = "all") -> Sequence[Sequence[Datum]]:
    """Keep the base or the new classes of each list and relabel them from 0.

    Base classes are the first ceil(n/2) of the ascending labels of the first list (train), new ones the others.
    """
    if check_subsample(subsample) == "all":
        return args
    labels = sorted({item.label for item in args[0]})
    half = (len(labels) + 1) // 2
    print(f"SUBSAMPLE {subsample.upper()} CLASSES!")
    kept = labels[:half] if subsample == "base" else labels[half:]
    if not kept:
        raise BadValueError(f"a data set of {len(labels)} class has no new classes; set DATASET.SUBSAMPLE_CLASSES all")
    relabelled = {label: new_label for new_label, label in enumerate(kept)}
    return [
        [Item(item.impath, relabelled[item.label], item.classname) for item in items if item.label in relabelled]
        for items in args
    ]
