"""Custom data in a folder."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, Datum
from datasets.layout.custom_data import CustomData, complete
from datasets.layout.errors import BadDataError, MissingDataError
from datasets.layout.files import class_folders, image_names, left_out, usable_images_below
from datasets.layout.items import Item
from datasets.layout.splits import PART_NAMES, Parts

SPELLINGS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "validate", "dev", "development"),
    "test": ("test", "testing", "tst"),
}
"""Usual names of the folders of the parts, in upper or lower case, also as in `train_set` and `test-images`."""

_TRAILER = re.compile(r"[ _.-]?(set|images|imgs|data|split)$")

_EXPECTED = "expected: <class>/<images>, or train/<class>/<images> with val and test beside it"


@DATASET_REGISTRY.register()
class ImageFolder(CustomData):
    """DATASET.PATH has `train/<class>/...` with, optionally, `val` and `test`; or just `<class>/...`.

    The parts may have other usual names (`SPELLINGS`). Classes without parts (or train alone) are cut 50/20/30 once;
    the split is kept in `split_folder.json` inside the folder.
    """

    split_file = "split_folder.json"

    @property
    def display_name(self) -> str:
        return Path(self.dataset_dir).name

    def open(self, folder: str, output_dir: str = "") -> None:
        self._part_folders = find_parts(folder)
        if "val" in self._part_folders or "test" in self._part_folders:
            self.split_file = None  # the folders are the split
        super().open(folder, output_dir)

    def parts_are_given(self) -> bool:
        return self.split_file is None

    def read(self) -> Parts:
        self._unused = self._beside_parts()
        parts = super().read()
        path = self.split_in_use()
        if path:
            self._check_classes(parts, path)
            known = {item.impath for part in parts for item in part}
            new = sum(impath not in known for impath in self._images_of_classes())
            if new:
                self.note(f"{new:,} images are not in {path} and are left out; delete it to make a new split")
        if self._unused:
            self.note(left_out(sorted(set(self._unused)), self.dataset_dir))
        return parts

    def read_annotations(self) -> Parts:
        part_dirs = self._part_dirs()
        labels = {name: label for label, name in enumerate(self._classes_in(part_dirs["train"]))}
        return complete(Parts(*(self._read_part(part_dirs.get(part), labels) for part in PART_NAMES)))

    def _part_dirs(self) -> dict[str, str]:
        """Folder of each existing part; the whole folder for train if there are no parts."""
        for part, names in self._part_folders.items():
            if len(names) > 1:
                raise BadDataError(f"{self.dataset_dir} has {' and '.join(names)}, which both mean {part}")
        if self._part_folders and "train" not in self._part_folders:
            names = ", ".join(name for names in self._part_folders.values() for name in names)
            raise MissingDataError(f"{self.dataset_dir} has {names} but no folder train; {_EXPECTED}")
        found = {part: os.path.join(self.dataset_dir, names[0]) for part, names in self._part_folders.items()}
        for folder in found.values():
            images = image_names(folder)
            if images:
                raise BadDataError(f"{folder} has the image {images[0]} outside of a class folder; {_EXPECTED}")
        if found and "test" not in found:
            self._check_unnamed_test(found["train"])
        return found or {"train": self.dataset_dir}

    def _check_unnamed_test(self, train: str) -> None:
        """Check that no folder has classes of train where val would serve as the test set.

        Raises:
            BadDataError: one has.
        """
        classes = set(self._classes_in(train))
        for path in self._beside_parts():
            if path.endswith("/") and classes.intersection(self._classes_in(path)):
                raise BadDataError(
                    f"{path} has class folders of train, and there is no test: rename it to test if it is that, "
                    "else move it elsewhere"
                )

    def _classes_in(self, folder: str) -> list[str]:
        return [name for name in class_folders(folder) if name != self.fewshot_folder]

    def _read_part(self, folder: str | None, labels: dict[str, int]) -> list[Datum]:
        if folder is None:
            return []
        items = []
        for name in self._classes_in(folder):
            if name not in labels:
                raise BadDataError(f"{folder} has the class folder {name!r}, which train does not have")
            items += [Item(impath, labels[name], name) for impath in self._read_class(os.path.join(folder, name))]
        self._unused += [os.path.join(folder, name) for name in self._beside_classes(folder)]
        return items

    def _read_class(self, folder: str) -> list[str]:
        images, others = usable_images_below(folder)
        if not images:
            kinds = f" but {left_out(others, folder)}" if others else ""
            raise BadDataError(f"class folder {folder} has no images{kinds}")
        if all(os.path.dirname(path) != folder for path in images):
            raise BadDataError(f"{folder} has only folders, so it is not a class; {_EXPECTED}")
        self._unused += others
        return images

    def _check_classes(self, parts: Parts, path: str) -> None:
        """Check that the classes in the split file exist.

        Raises:
            BadDataError: one does not: the file is old, or folders were moved.
        """
        folder = self._part_dirs()["train"]
        gone = {item.classname for item in parts.train}.difference(self._classes_in(folder))
        if gone:
            raise BadDataError(
                f"{path} has the class {min(gone)!r}, but {folder} has no such folder; delete it to make a new split"
            )

    def _images_of_classes(self) -> list[str]:
        """All images in the folders, for a comparison with the split file."""
        folder = self._part_dirs()["train"]
        images = []
        for name in self._classes_in(folder):
            found, others = usable_images_below(os.path.join(folder, name))
            images += found
            self._unused += others
        self._unused += [os.path.join(folder, name) for name in self._beside_classes(folder)]
        return images

    def _beside_classes(self, folder: str) -> list[str]:
        """Names in a folder of classes that are not classes; without those that this reader wrote."""
        names = _names_in(folder, {self.fewshot_folder, self.split_file})
        return [name for name in names if name.startswith(".") or not name.endswith("/")]

    def _beside_parts(self) -> list[str]:
        """Paths beside the folders of the parts."""
        if not self._part_folders:
            return []
        used = {name for names in self._part_folders.values() for name in names}
        used |= {self.fewshot_folder, type(self).split_file}
        return [os.path.join(self.dataset_dir, name) for name in _names_in(self.dataset_dir, used)]


def find_parts(folder: str) -> dict[str, list[str]]:
    """The folders of the parts below `folder`, by part; empty if it contains classes.

    A folder with the name of a part is a part if it contains folders, because a class may be called train. If there is
    one part, all other folders with such names are parts as well.
    """
    named: dict[str, list[str]] = {}
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    all_folders = [name for name in names if os.path.isdir(os.path.join(folder, name))]
    for name in all_folders:
        part = part_called(name)
        if part:
            named.setdefault(part, []).append(name)
    all_names = [name for names in named.values() for name in names]
    visible = [name for name in all_folders if not name.startswith(".")]
    if "train" in named and len(named) > 1 and len(all_names) == len(visible):
        return named  # only parts; one without class folders is refused when it is read
    return named if any(_has_folders(os.path.join(folder, name)) for name in all_names) else {}


def part_called(name: str) -> str | None:
    """The part that a folder of this name contains; None if it is not a usual name."""
    stem = _TRAILER.sub("", name.lower())
    return next((part for part, spellings in SPELLINGS.items() if stem in spellings), None)


def _has_folders(folder: str) -> bool:
    """Whether a folder contains visible folders."""
    return any(name.endswith("/") and not name.startswith(".") for name in _names_in(folder))


def _names_in(folder: str, without: Collection[str | None] = ()) -> list[str]:
    """What is in a folder, with a slash behind the names of folders."""
    with os.scandir(folder) as entries:
        return [entry.name + "/" * entry.is_dir() for entry in entries if entry.name not in without]
