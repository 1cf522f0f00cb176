"""Own images as a CSV file."""

from __future__ import annotations

import csv
import os

from dassl.data.datasets import DATASET_REGISTRY
from datasets.errors import BadDataError
from datasets.files import read_text, require_images
from datasets.items import Item
from datasets.own_data import OwnData, complete
from datasets.splits import PART_NAMES, Parts

COLUMNS = ("path", "label", "split")


@DATASET_REGISTRY.register()
class ImageCSV(OwnData):
    """DATASET.PATH is a CSV file with the columns path, label and, optionally, split (train, val or test).

    Paths are absolute or relative to the file; labels are class names (or what DATASET.CLASSNAMES translates). Without
    split column the images are cut 50/20/30 with a fixed seed; so the same file always gives the same split.
    """

    @classmethod
    def folder_of(cls, cfg) -> str:
        return cls.own_path(cfg)

    def open(self, folder: str, output_dir: str = "") -> None:
        """Here ``folder`` is the CSV file."""
        self.csv_path = folder
        self.fewshot_folder = f"split_fewshot_{self.display_name}"  # several CSV files may lie in one folder
        super().open(os.path.dirname(folder), output_dir)

    @property
    def display_name(self) -> str:
        return os.path.splitext(os.path.basename(self.csv_path))[0]

    def read_annotations(self) -> Parts:
        rows = read_rows(self.csv_path)
        labels = {name: label for label, name in enumerate(sort_labels({name for _, name, _ in rows}))}
        parts = Parts([], [], [])
        for path, name, part in rows:
            impath = os.path.join(self.dataset_dir, path)  # an absolute path stays as it is
            parts[PART_NAMES.index(part)].append(Item(impath, labels[name], name))
        require_images([item.impath for part in parts for item in part], self.csv_path)
        return complete(parts)


def read_rows(path: str) -> list[tuple[str, str, str]]:
    """(path, label, split) of each line; a first line that names the columns may put them in another order."""
    reader = csv.reader(read_text(path).splitlines())
    rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(cell.strip() for cell in row)]
    order = COLUMNS
    if rows and {"path", "label"} <= {cell.lower() for cell in rows[0][1]}:
        order = tuple(cell.lower() for cell in rows.pop(0)[1])
    if not rows:
        raise BadDataError(f"{path} lists no images")
    return [_parse_row(row, order, f"{path}: line {number}") for number, row in rows]


def _parse_row(row: list[str], order: tuple[str, ...], where: str) -> tuple[str, str, str]:
    cells = {column: cell for column, cell in zip(order, row, strict=False) if column in COLUMNS}
    path, label, part = cells.get("path", ""), cells.get("label", ""), cells.get("split", "train").lower()
    if not path or not label:
        raise BadDataError(f"{where} is {','.join(row)!r}, not a path and a label (separated by a comma)")
    if part not in PART_NAMES:
        raise BadDataError(f"{where}: split {part!r} is not one of {', '.join(PART_NAMES)}")
    return path, label, part


def sort_labels(names: set[str]) -> list[str]:
    """Ascending: as numbers if all are, else as text."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
