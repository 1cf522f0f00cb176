"""Few-shot draws as JSON files, so that every later run uses the same images."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Mapping
from typing import Any

from dassl.data.datasets import Datum
from dassl.utils.files import parse_json
from datasets.layout.classes import prompt_words
from datasets.layout.errors import BadDataError
from datasets.layout.files import read_data_text, read_json_object
from datasets.layout.splits import parse_row, rows_of_part, to_rows

Sources = dict[str, list[Datum]]  # "train" and, unless val is the test part, "val": the items to draw from

MAX_VAL_SHOTS = 4


def shots_of(part: str, num_shots: int) -> int:
    """Number of images per class that are drawn for a part."""
    return num_shots if part == "train" else min(num_shots, MAX_VAL_SHOTS)


def encode_draw(
    dataset: str, num_shots: int, seed: int, drawn: Sources, folder: str, names_in_data: Mapping[int, str]
) -> dict[str, Any]:
    """The content of a draw file.

    Args:
        folder: the data set's; paths are relative to it.
        names_in_data: the names in the data of renamed classes, by label. The file has the data's names.
    """
    content: dict[str, Any] = {"dataset": dataset, "num_shots": num_shots, "seed": seed}
    for part, items in drawn.items():
        rows = to_rows(items, folder)
        content[part] = [[impath, label, names_in_data.get(label, name)] for impath, label, name in rows]
    return content | {"digest": _digest(content)}


def _digest(content: dict[str, Any]) -> str:
    """SHA-256 of a draw file's content without its digest."""
    rest = {key: value for key, value in content.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_draw(
    path: str,
    dataset: str,
    num_shots: int,
    sources: Sources,
    folder: str,
    seed: int | None = None,
    names_in_data: Mapping[int, str] | None = None,
) -> Sources:
    """Read a draw file: our own, or one of the two published forms (`_published_content`).

    Items are looked up in `sources` by (path, label). So a draw from another split, or one that would train on test
    images, is an error, and so is another class name. Each class must have `num_shots` images, or all that exist.

    Args:
        seed: the seed that the file must have; None: any.
        names_in_data: further names that classes may have in the file, by label (see `encode_draw`).

    Returns:
        The drawn items of each part; without "val" if a published file names none of its images.

    Raises:
        MissingDataError: there is no such file.
        BadDataError: an entry is wrong; the file and the entry are named.
    """
    other_names = names_in_data or {}
    published = _published_content(path, sources, folder)
    if published is not None:
        return _read_parts(published, path, num_shots, {part: sources[part] for part in published}, folder, other_names)
    content = read_json_object(path)
    for key, expected in (("dataset", dataset), ("num_shots", num_shots), ("seed", seed)):
        if expected is not None and key not in content:
            raise BadDataError(f"{path} does not have the key {key}; delete it to draw again")
        if expected is not None and content[key] != expected:
            raise BadDataError(f"{path} is a draw with {key} {content[key]!r}, but the run needs {expected!r}")
    drawn = _read_parts(content, path, num_shots, sources, folder, other_names)
    if "digest" not in content:
        print(f"Note: {path} has no digest (a draw of an earlier version), so changes of the file cannot be noticed")
    elif content["digest"] != _digest(content):
        raise BadDataError(f"{path} was edited: its content does not match its digest")
    return drawn


def _read_parts(
    content: dict[str, Any], path: str, num_shots: int, sources: Sources, folder: str, other_names: Mapping[int, str]
) -> Sources:
    """The items of all parts of `sources`, checked as described in `read_draw`."""
    drawn = {}
    for part, source in sources.items():
        drawn[part] = _read_part(content, part, path, source, folder, other_names)
        _check_shots(drawn[part], source, shots_of(part, num_shots), f"{path}: {part}")
    return drawn


def _read_part(
    content: dict[str, Any], part: str, path: str, source: list[Datum], folder: str, other_names: Mapping[int, str]
) -> list[Datum]:
    # by label as well: an entry with another label was drawn from another split
    known = {(item.impath, item.label): item for item in source}
    items = []
    for where, impath, label, name in rows_of_part(content, part, path):
        item = known.get((os.path.join(folder, impath), label))
        where = f"{where} ({impath!r}, label {label})"
        if item is None:
            raise BadDataError(f"{where} is not in the {part} part; the draw is from another split")
        if not _is_name_of(name, item, other_names):
            raise BadDataError(f"{where} has the class name {name!r}, but the name of this class is {item.classname!r}")
        items.append(item)
    return items


def _is_name_of(name: str, item: Datum, other_names: Mapping[int, str]) -> bool:
    """Whether `name` is a valid name of the item's class; case, and blanks or `_`, make no difference."""
    known = [item.classname, other_names.get(item.label, item.classname)]
    return name in known or prompt_words(name) in map(prompt_words, known)


def _check_shots(items: list[Datum], source: list[Datum], shots: int, where: str) -> None:
    """Check that a draw has the wanted number of images of each class.

    Raises:
        BadDataError: an image is repeated, a class is missing, or the number of shots is another.
    """
    # a split may list an image several times; the draw may then do so as well
    repeated = Counter(item.impath for item in items) - Counter(item.impath for item in source)
    if repeated:
        raise BadDataError(f"{where} names {min(repeated)} more than once")
    # over the labels of the source, so that missing classes are found as well
    available, drawn = (Counter(item.label for item in some) for some in (source, items))
    names = {item.label: item.classname for item in source}
    for label, count in sorted(available.items()):
        expected = min(shots, count)
        if drawn[label] != expected:
            raise BadDataError(f"{where} has {drawn[label]} images of class {names[label]!r}, not {expected}")


# ---------------------------------------------------------------- draws of other projects


def _published_content(path: str, sources: Sources, folder: str) -> dict[str, Any] | None:
    """The rows of each part of a draw in one of two published forms; None for other files.

    The form of cross_modal_adaptation is one object, whose `train` and `val` have a list `data` of objects with
    `impath`, `label` and `classname`; a `val` without any image of the val part is left out. The other form has one
    such object on each line. A line belongs to the part that has its image (to train if both have it).
    """
    known = {item.impath for items in sources.values() for item in items}
    lines = _objects_of_lines(path)
    if lines is not None:
        rows = [_row(entry, f"{path}: line {number}", known, folder) for number, entry in lines]
        in_train = {item.impath for item in sources["train"]}
        content = {"train": [row for row in rows if os.path.join(folder, row[0]) in in_train]}
        if len(content["train"]) < len(rows):
            content["val"] = [row for row in rows if os.path.join(folder, row[0]) not in in_train]
        return content
    content = read_json_object(path)
    if not isinstance(content.get("train"), dict):
        return None
    rows_of = {part: _rows_of_data(content.get(part), part, path, known, folder) for part in sources}
    in_val = {item.impath for item in sources.get("val", ())}
    if not any(os.path.join(folder, row[0]) in in_val for row in rows_of.get("val", ())):
        rows_of.pop("val", None)
    return rows_of


def _objects_of_lines(path: str) -> list[tuple[int, Any]] | None:
    """Line number and object of each line; None if the first line is not an object with an image."""
    lines = [(number, line) for number, line in enumerate(read_data_text(path).split("\n"), start=1) if line.strip()]
    objects: list[tuple[int, Any]] = []
    for number, line in lines:
        try:
            entry = parse_json(line)
        except (ValueError, RecursionError) as error:
            if not objects:
                return None
            raise BadDataError(f"{path}: line {number} is not valid JSON ({error})") from None
        if not objects and not (isinstance(entry, dict) and "impath" in entry):
            return None
        objects.append((number, entry))
    return objects or None


def _rows_of_data(content: Any, part: str, path: str, known: set[str], folder: str) -> list[list[Any]]:
    data = content.get("data") if isinstance(content, dict) else None
    if not isinstance(data, list):
        raise BadDataError(f"{path} has no list 'data' in {part!r}")
    return [_row(entry, f"{path}: entry {number} of {part}", known, folder) for number, entry in enumerate(data)]


def _row(entry: Any, where: str, known: set[str], folder: str) -> list[Any]:
    """[path below `folder`, label, class name] of an object whose `impath` starts with folders of another machine."""
    if not (isinstance(entry, dict) and {"impath", "label", "classname"} <= set(entry)):
        raise BadDataError(f"{where} is not an object with impath, label and classname")
    impath, label, classname = parse_row([entry["impath"], entry["label"], entry["classname"]], where)
    pieces = [piece for piece in impath.replace("\\", "/").split("/") if piece not in ("", ".")]
    for start in range(len(pieces)):
        below = "/".join(pieces[start:])  # without the first `start` folders
        if os.path.join(folder, below) in known:
            return [below, label, classname]
    raise BadDataError(f"{where}: the path {impath!r} does not end with that of a train or val image below {folder}")
