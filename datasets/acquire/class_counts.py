"""The number of images of each class, as text for a terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from datasets.layout.base import class_names
from datasets.layout.splits import Parts

LINE_WIDTH = 90  # characters; a longer name has its own line


class ClassCount(NamedTuple):
    """The number of images of a class in each part."""

    name: str
    train: int
    val: int
    test: int


def count_classes(parts: Parts) -> list[ClassCount]:
    """One entry for each class, in ascending order of label."""
    counted = [Counter(item.label for item in items) for items in parts]
    labels = sorted({item.label for items in parts for item in items})
    names = class_names(parts)
    return [ClassCount(name, *(part[label] for part in counted)) for label, name in zip(labels, names, strict=True)]


def table_lines(counts: Sequence[ClassCount]) -> list[str]:
    """One line per class, such as "cat: train 16, val 4, test 20"."""
    return [f"{name}: train {train:,}, val {val:,}, test {test:,}" for name, train, val, test in counts]


def compact_lines(counts: Sequence[ClassCount]) -> list[str]:
    """Several classes per line, such as "cat 16/4/20; dog 16/4/19", below a line with the names of the parts."""
    lines: list[str] = []
    for name, train, val, test in counts:
        cell = f"{name} {train:,}/{val:,}/{test:,}"
        if lines and len(lines[-1]) + len("; ") + len(cell) <= LINE_WIDTH:
            lines[-1] += f"; {cell}"
        else:
            lines.append(cell)
    return ["images of each class (train/val/test):", *lines] if lines else []
