"""Custom data listed in a CSV file."""

from __future__ import annotations

import csv
import io
import os
from typing import NamedTuple

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import is_image_name
from dassl.utils.numerals import whole_number
from datasets.custom_folder import part_called
from datasets.layout.custom_data import CustomData, complete
from datasets.layout.errors import BadDataError
from datasets.layout.files import read_data_text, require_images
from datasets.layout.items import Item
from datasets.layout.splits import PART_NAMES, Parts

COLUMNS: tuple[str, ...] = ("path", "label", "split")


@DATASET_REGISTRY.register()
class ImageCSV(CustomData):
    """DATASET.PATH is a CSV file with the columns path, label and, optionally, split (train, val or test).

    Paths are absolute or relative to the file; labels are class names, or the keys of DATASET.CLASSNAMES. Without split
    column the images are cut 50/20/30 with a fixed seed, so the same file always gives the same split.
    """

    def open(self, folder: str, output_dir: str = "") -> None:
        """Here `folder` is the CSV file."""
        self.csv_path = folder
        self.fewshot_folder = f"split_fewshot_{self.display_name}"  # several CSV files may share a folder
        super().open(os.path.dirname(folder), output_dir)

    @property
    def display_name(self) -> str:
        return os.path.splitext(os.path.basename(self.csv_path))[0]

    def parts_are_given(self) -> bool:
        return len({row.part for row in read_table(self.csv_path).rows}) > 1

    @property
    def source(self) -> str:
        return self.csv_path

    def read_annotations(self) -> Parts:
        table = read_table(self.csv_path)
        if table.unused_columns:
            self._refuse_other_split(table)
            unused = ", ".join(repr(column) for column in table.unused_columns)
            self.note(f"left out in {self.csv_path}: the columns {unused} (used: {', '.join(COLUMNS)})")
        rows = self._each_once(table.rows)
        labels = {name: label for label, name in enumerate(sort_labels({row.label for row in rows}))}
        parts = Parts([], [], [])
        for row in rows:
            parts[PART_NAMES.index(row.part)].append(Item(row.path, labels[row.label], row.label))
        require_images([item.impath for part in parts for item in part], self.csv_path)
        return complete(parts)

    def _refuse_other_split(self, table: Table) -> None:
        """Check that no unused column assigns the images to parts, if there is no split column.

        Raises:
            BadDataError: one does.
        """
        if table.has_split:
            return
        for column, values in table.unused_columns.items():
            parts = {part_called(value) for value in values}
            if "train" in parts and None not in parts:
                raise BadDataError(
                    f"{self.csv_path}: the column {column!r} names parts: call it split, with the values "
                    f"{', '.join(PART_NAMES)}, or remove it"
                )

    def _each_once(self, rows: list[CsvRow]) -> list[CsvRow]:
        """The rows with full paths, without repetitions.

        Raises:
            BadDataError: an image has two labels or is in two parts.
        """
        seen: dict[str, CsvRow] = {}
        repeated = []
        for row in rows:
            path = os.path.normpath(os.path.join(self.dataset_dir, row.path))  # an absolute path is unchanged
            first = seen.setdefault(path, row._replace(path=path))
            for what, before, now in (("labels", first.label, row.label), ("parts", first.part, row.part)):
                if before != now:
                    raise BadDataError(
                        f"{self.csv_path}: line {row.line} gives {row.path} the {what[:-1]} {now!r}, "
                        f"line {first.line} {before!r}; an image cannot have two {what}"
                    )
            if first.line != row.line:
                repeated.append(row.line)
        if repeated:
            self.note(
                f"{len(repeated):,} lines of {self.csv_path} repeat an earlier one (first line {repeated[0]}); "
                "each image is counted once"
            )
        return list(seen.values())


class CsvRow(NamedTuple):
    """One image of the file."""

    line: int
    path: str
    label: str
    part: str


class Table(NamedTuple):
    """The content of a CSV file."""

    rows: list[CsvRow]
    has_split: bool
    unused_columns: dict[str, set[str]]
    """The values of each column that is not used."""


def read_table(path: str) -> Table:
    """The rows of the file; a header line may give another order of the columns.

    Raises:
        BadDataError: a line is not a path and a label (and a part, if the first line has it).
    """
    reader = csv.reader(io.StringIO(read_data_text(path), newline=""), strict=True)
    rows = []
    try:
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any("\n" in cell or "\r" in cell for cell in cells):
                raise BadDataError(f"{path}: a quoted cell that ends in line {reader.line_num} has a line break in it")
            if any(cells):
                rows.append((reader.line_num, cells))
    except csv.Error as error:
        raise BadDataError(f"{path}: line {reader.line_num} is not valid CSV ({error})") from None
    if not rows:
        raise BadDataError(f"{path} lists no images")
    first = [cell.lower() for cell in rows[0][1]]
    if {"path", "label"} <= set(first):
        order, has_header = first, True
    else:
        order, has_header = [*COLUMNS[: len(first)]], False
        _refuse_other_header(rows[0][1], path)
    if len(set(order)) < len(order):
        raise BadDataError(f"{path}: the header {','.join(first)!r} names a column twice")
    rows = rows[has_header:]
    if not rows:
        raise BadDataError(f"{path} lists no images")
    parsed = [_parse_row(line, cells, order, path) for line, cells in rows]
    unused = {
        column: {cells[place] for _, cells in rows} for place, column in enumerate(order) if column not in COLUMNS
    }
    return Table(parsed, "split" in order, unused)


def _refuse_other_header(cells: list[str], path: str) -> None:
    """Refuse a first line that is neither a header nor an image; it would be reported as a missing image."""
    name = cells[0]
    if not is_image_name(name) and not os.path.isfile(os.path.join(os.path.dirname(path), name)):
        raise BadDataError(
            f"{path}: line 1 is {','.join(cells)!r}, not a path and a label (separated by a comma), nor a header "
            "with the columns path,label and, optionally, split"
        )


def _parse_row(line: int, cells: list[str], order: list[str], path: str) -> CsvRow:
    where = f"{path}: line {line}"
    named = dict(zip(order, cells, strict=False))
    impath, label, part = named.get("path", ""), named.get("label", ""), named.get("split", "train").lower()
    if not impath or not label:
        raise BadDataError(f"{where} is {','.join(cells)!r}, not a path and a label (separated by a comma)")
    if len(cells) != len(order):
        raise BadDataError(f"{where} has {len(cells)} columns, not {len(order)} ({','.join(order)})")
    if part not in PART_NAMES:
        raise BadDataError(f"{where}: split {part!r} is not one of {', '.join(PART_NAMES)}")
    return CsvRow(line, impath, label, part)


def sort_labels(names: set[str]) -> list[str]:
    """Ascending: as numbers if all are numbers, else as text."""
    numbers = {name: whole_number(name) for name in names}
    return sorted(names) if None in numbers.values() else sorted(names, key=lambda name: (numbers[name], name))
