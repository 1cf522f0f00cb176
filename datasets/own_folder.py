"""Own images as a folder."""

from __future__ import annotations

import os

from dassl.data.datasets import DATASET_REGISTRY, Datum
from datasets.errors import BadDataError
from datasets.files import class_folders, images_below
from datasets.items import Item
from datasets.own_data import OwnData, complete
from datasets.splits import PART_NAMES, Parts


@DATASET_REGISTRY.register()
class ImageFolder(OwnData):
    """DATASET.PATH holds ``train/<class>/...`` with, optionally, ``val`` and ``test``; or just ``<class>/...``.

    The latter (or train alone) is cut 50/20/30 once; the split is kept in ``split_folder.json`` inside the folder.
    """

    split_file = "split_folder.json"

    @classmethod
    def folder_of(cls, cfg) -> str:
        return cls.own_path(cfg)

    def open(self, folder: str, output_dir: str = "") -> None:
        self.part_dirs = {part: os.path.join(folder, part) for part in PART_NAMES}
        if not holds_folders(self.part_dirs["train"]):  # a class that is called train holds images
            self.part_dirs = {"train": folder}
        if any(os.path.isdir(self.part_dirs.get(part, "")) for part in ("val", "test")):
            self.split_file = None  # the folders are the split
        super().open(folder, output_dir)

    def read(self) -> Parts:
        parts = super().read()
        if self.split_in_use():
            self._mention_new_images(parts)
        return parts

    def read_annotations(self) -> Parts:
        labels = {name: label for label, name in enumerate(self._classes_in(self.part_dirs["train"]))}
        return complete(Parts(*(self._read_part(part, labels) for part in PART_NAMES)))

    def _classes_in(self, folder: str) -> list[str]:
        return [name for name in class_folders(folder) if name != self.fewshot_folder]

    def _read_part(self, part: str, labels: dict[str, int]) -> list[Datum]:
        folder = self.part_dirs.get(part, "")
        if not os.path.isdir(folder):
            return []
        items = []
        for name in self._classes_in(folder):
            if name not in labels:
                raise BadDataError(f"{folder} has the class folder {name!r}, which train lacks")
            impaths = images_below(os.path.join(folder, name))
            if not impaths:
                raise BadDataError(f"class folder {os.path.join(folder, name)} holds no images")
            items += [Item(impath, labels[name], name) for impath in impaths]
        return items

    def _mention_new_images(self, parts: Parts) -> None:
        known = {item.impath for part in parts for item in part}
        new = sum(impath not in known for impath in images_below(self.part_dirs["train"]))
        if new:
            print(f"{new:,} images are not in {self.split_in_use()} and are left out; delete it to make a new split")


def holds_folders(folder: str) -> bool:
    """Whether ``folder`` exists and holds visible folders."""
    if not os.path.isdir(folder):
        return False
    with os.scandir(folder) as entries:
        return any(entry.is_dir() and not entry.name.startswith(".") for entry in entries)
