"""Split files (`split_zhou_*.json`) and the rules for making a split without one."""

from __future__ import annotations

import os
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from typing import Any, NamedTuple

from dassl.data.datasets import Datum
from dassl.utils.numerals import whole_number
from datasets.layout.errors import BadDataError
from datasets.layout.files import class_folders, image_names, is_plain_text, read_json_object, require_images
from datasets.layout.items import Item
from datasets.layout.store import JsonStore


class Parts(NamedTuple):
    """The three parts of a data set. `val is test` if a data set has no own validation part."""

    train: list[Datum]
    val: list[Datum]
    test: list[Datum]


PART_NAMES = Parts._fields


# ---------------------------------------------------------------- split files


def relative_path(impath: str, folder: str) -> str:
    """`impath` relative to `folder`, with forward slashes; unchanged if it is elsewhere."""
    prefix = os.path.join(folder, "")
    return impath[len(prefix) :].replace(os.sep, "/") if impath.startswith(prefix) else impath


def to_rows(items: Iterable[Datum], folder: str) -> list[list[Any]]:
    """[path relative to `folder`, label, class name] of each item."""
    return [[relative_path(item.impath, folder), item.label, item.classname] for item in items]


def parse_row(row: Any, where: str) -> tuple[str, int, str]:
    """Check one [path, label, class name] entry; labels may be written as strings."""
    if not isinstance(row, list) or len(row) != 3:
        raise BadDataError(f"{where} is {row!r}, not [path, label, class name]")
    path, label, classname = row
    if not isinstance(path, str) or not path or not isinstance(classname, str):
        raise BadDataError(f"{where}: path and class name must be text, not {path!r} and {classname!r}")
    if not (is_plain_text(path) and is_plain_text(classname)):
        raise BadDataError(f"{where}: {path!r} or {classname!r} has characters that a file or class name cannot have")
    number = whole_number(label) if isinstance(label, str) else label
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    if type(number) is not int or number < 0:  # True is not a label
        raise BadDataError(f"{where}: label {label!r} is not a whole number of at least 0")
    return path, number, classname


def read_split(filepath: str, path_prefix: str) -> Parts:
    """Read a split file.

    Args:
        filepath: JSON `{"train": [[path, label, class name], ...], "val": ..., "test": ...}`; other keys are ignored.
        path_prefix: folder that the paths are relative to.

    Raises:
        MissingDataError: the file or an image is missing.
        BadDataError: an entry is wrong; the file and the entry are named.
    """
    print(f"Reading split from {filepath}")
    content = read_json_object(filepath)
    parts = Parts(*(_read_part(content, part, filepath, path_prefix) for part in PART_NAMES))
    require_images([item.impath for part in parts for item in part], filepath)
    return parts


def listed_twice(parts: Parts, filepath: str) -> str:
    """The number and the first of the entries that give an image a second label or part; empty if there are none."""
    seen: dict[str, tuple[str, int]] = {}
    found = []
    for part, items in zip(PART_NAMES, parts, strict=True):
        for number, item in enumerate(items):
            known_part, label = seen.setdefault(os.path.normpath(item.impath), (part, item.label))
            where = f"entry {number} of {part} is {item.impath}"
            if label != item.label:
                found.append(f"{where} with label {item.label}, which has label {label} in {known_part}")
            elif known_part != part:
                found.append(f"{where}, which is also in {known_part}")
    if not found:
        return ""
    more = f" ({len(found):,} such entries)" if len(found) > 1 else ""
    return f"{filepath}: {found[0]}{more}"


def rows_of_part(content: dict[str, Any], part: str, filepath: str) -> Iterator[tuple[str, str, int, str]]:
    """Where it stands, path, label and class name of each entry of a part."""
    rows = content.get(part)
    if not isinstance(rows, list):
        raise BadDataError(f"{filepath} has no list {part!r}")
    for number, row in enumerate(rows):
        where = f"{filepath}: entry {number} of {part}"
        yield where, *parse_row(row, where)


def _read_part(content: dict[str, Any], part: str, filepath: str, path_prefix: str) -> list[Datum]:
    items = []
    for where, path, label, classname in rows_of_part(content, part, filepath):
        if os.path.isabs(path) or os.path.normpath(path).split(os.sep)[0] == os.pardir:
            raise BadDataError(f"{where}: path {path!r} leads out of the data set")
        items.append(Item(os.path.join(path_prefix, path), label, classname))
    return items


def split_content(parts: Parts, path_prefix: str) -> dict[str, list[list[Any]]]:
    """The content of a split file for `parts`."""
    return {name: to_rows(items, path_prefix) for name, items in zip(PART_NAMES, parts, strict=True)}


def save_split(
    train: Sequence[Datum], val: Sequence[Datum], test: Sequence[Datum], filepath: str, path_prefix: str
) -> None:
    """Write a split file for `read_split`; an existing one stays."""
    folder, name = os.path.split(os.path.abspath(filepath))
    content = split_content(Parts(list(train), list(val), list(test)), path_prefix)
    print(f"Saved split to {JsonStore(folder, folder).publish(name, content)}")


def check_labels(parts: Parts, source: str) -> None:
    """Check that train has labels 0..n-1, the others no more, and each label one class name.

    Raises:
        BadDataError: that is not so.
    """
    if not parts.train:
        raise BadDataError(f"{source}: the training part is empty")
    names: dict[int, str] = {}
    trained = 0  # classes with training images
    for part, items in zip(PART_NAMES, parts, strict=True):
        for item in items:
            known = names.setdefault(item.label, item.classname)
            if known != item.classname:
                raise BadDataError(f"{source}: label {item.label} has the names {known!r} and {item.classname!r}")
        if min(names, default=0) < 0:
            raise BadDataError(f"{source}: label {min(names)} is below 0; the annotations count classes from 1")
        if part == "train":
            absent = next(label for label in count() if label not in names)
            if absent < max(names):
                raise BadDataError(f"{source}: label {absent} has no training image, but label {max(names)} has")
            trained = len(names)
        elif len(names) > trained:
            raise BadDataError(f"{source}: label {max(names)} occurs in {part}, but has no training image")


# ---------------------------------------------------------------- making a split


def cut(items: Sequence[Any], p_trn: float, p_val: float, what: str, rng: Any = random) -> tuple[list, list, list]:
    """Shuffle the images of one class and cut them into three (sizes by `round`, halves to even; rest is test)."""
    shuffled = list(items)
    rng.shuffle(shuffled)
    n_train = round(len(shuffled) * p_trn)
    n_val = round(len(shuffled) * p_val)
    pieces = shuffled[:n_train], shuffled[n_train : n_train + n_val], shuffled[n_train + n_val :]
    if not all(pieces):
        raise BadDataError(f"{what} has {len(shuffled)} images, too few for a train, a val and a test part")
    return pieces


def cut_classes(
    classes: Iterable[tuple[int, str, Sequence[str]]], p_trn: float = 0.5, p_val: float = 0.2, rng: Any = random
) -> Parts:
    """Cut each class (label, class name, image paths) by `cut`, in the order given."""
    parts = Parts([], [], [])
    for label, classname, impaths in classes:
        for part, piece in zip(parts, cut(impaths, p_trn, p_val, f"class {classname!r}", rng), strict=True):
            part.extend(Item(impath, label, classname) for impath in piece)
    return parts


def read_and_split_data(
    image_dir: str,
    p_trn: float = 0.5,
    p_val: float = 0.2,
    ignored: Sequence[str] = (),
    new_cnames: dict[str, str] | None = None,
) -> Parts:
    """Cut a folder with one subfolder per class, labels by ascending folder name, images drawn with `random`."""
    new_cnames = new_cnames or {}
    folders = [name for name in class_folders(image_dir) if name not in ignored]
    print(f"Splitting into {p_trn:.0%} train, {p_val:.0%} val, and {1 - p_trn - p_val:.0%} test")
    return cut_classes(
        (
            (label, new_cnames.get(name, name), list_images(os.path.join(image_dir, name)))
            for label, name in enumerate(folders)
        ),
        p_trn,
        p_val,
    )


def list_images(folder: str) -> list[str]:
    """Paths of the images of a folder, ascending."""
    prefix = os.path.join(folder, "")
    return [prefix + name for name in image_names(folder)]


def split_trainval(trainval: Sequence[Datum], p_val: float = 0.2) -> tuple[list[Datum], list[Datum]]:
    """Move the first `round(p_val * n)` shuffled images of each class to val; classes in order of appearance."""
    print(f"Splitting trainval into {1 - p_val:.0%} train and {p_val:.0%} val")
    by_label: dict[int, list[int]] = defaultdict(list)
    for index, item in enumerate(trainval):
        by_label[item.label].append(index)
    train, val = [], []
    for indices in by_label.values():
        n_val = round(len(indices) * p_val)
        if n_val == 0:
            name = trainval[indices[0]].classname
            raise BadDataError(f"class {name!r} has {len(indices)} training images, too few for a val part")
        random.shuffle(indices)
        val.extend(trainval[index] for index in indices[:n_val])
        train.extend(trainval[index] for index in indices[n_val:])
    return train, val
