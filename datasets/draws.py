"""Few-shot draws as JSON files: which images were chosen, so that every later run uses the same ones."""

from __future__ import annotations

import os
from typing import Any

from dassl.data.datasets import Datum
from datasets.errors import BadDataError
from datasets.files import read_json_object
from datasets.splits import parse_row, to_rows

Sources = dict[str, list[Datum]]  # "train" and, unless val is the test part, "val": the items to draw from


def encode_draw(dataset: str, num_shots: int, seed: int, drawn: Sources, folder: str) -> dict[str, Any]:
    """The content of a draw file; paths are relative to ``folder``, the data set's."""
    head = {"dataset": dataset, "num_shots": num_shots, "seed": seed}
    return head | {part: to_rows(items, folder) for part, items in drawn.items()}


def read_draw(path: str, dataset: str, num_shots: int, sources: Sources, folder: str) -> Sources:
    """Read a draw file.

    Items are looked up in ``sources`` by (path, label), so that a draw made from another split, or one that would
    train on test images, is an error.

    Raises:
        MissingDataError, BadDataError: naming the file and the entry.
    """
    content = read_json_object(path)
    for key, expected in (("dataset", dataset), ("num_shots", num_shots)):
        if content.get(key, expected) != expected:
            raise BadDataError(f"{path} is a draw with {key} {content[key]!r}, but the run asks for {expected!r}")
    return {part: _read_part(content, part, path, items, folder) for part, items in sources.items()}


def _read_part(content: dict[str, Any], part: str, path: str, source: list[Datum], folder: str) -> list[Datum]:
    rows = content.get(part)
    if not isinstance(rows, list):
        raise BadDataError(f"{path} has no list {part!r}")
    known = {(item.impath, item.label): item for item in source}
    items = []
    for number, row in enumerate(rows):
        where = f"{path}: entry {number} of {part}"
        impath, label, _ = parse_row(row, where)
        item = known.get((os.path.join(folder, impath), label))
        if item is None:
            where = f"{where} ({impath!r}, label {label})"
            raise BadDataError(f"{where} is not in the {part} part; the draw was made from another split")
        items.append(item)
    return items
