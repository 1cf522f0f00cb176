"""ImageNet (Deng et al., 2009), and the common parts of its variants: `classnames.txt` and folders named by wnid."""

from __future__ import annotations

import re
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils.files import StrPath
from datasets.layout.base import CoOpDataset, CoOpLayout, TargetDataset
from datasets.layout.errors import BadDataError, MissingDataError
from datasets.layout.files import class_folders, image_names, lookup, read_lines
from datasets.layout.items import Item
from datasets.layout.sources import CLASSNAMES, Counts, Download, Piece
from datasets.layout.splits import Parts, list_images

_NEEDS_ACCOUNT = "ImageNet needs an account at https://image-net.org (ILSVRC2012, task 1 and 2)"
_TRAIN, _VAL, _DEVKIT = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", "ILSVRC2012_devkit_t12.tar.gz"

_WNID = re.compile(r"n\d{8}")
_NUMBER_FIRST = re.compile(r"\d+\b")


def read_wnids(path: StrPath) -> dict[str, str]:
    """wnid -> class name of `classnames.txt` (lines like "n01440764 tench"), in the order of the file.

    Raises:
        BadDataError: the list has another form. Labels are positions, so the wnids must ascend; in the form
            "wnid number name" the number would become part of the name, in "wnid name, synonym" the synonyms.
    """
    classnames: dict[str, str] = {}
    latest = ""
    for number, line in enumerate(read_lines(path), start=1):
        wnid, _, classname = line.partition(" ")
        if not classname:
            raise BadDataError(f"{path}: line {number} is {line!r}, not a wnid and a class name")
        if not _WNID.fullmatch(wnid):
            raise BadDataError(f"{path}: line {number} is {line!r}; {wnid!r} is not a wnid (n and eight digits)")
        if wnid in classnames:
            raise BadDataError(f"{path}: line {number} names {wnid} a second time")
        if _NUMBER_FIRST.match(classname):
            raise BadDataError(f"{path}: line {number} is {line!r}; a class name cannot start with a number")
        if "," in classname:
            raise BadDataError(f"{path}: line {number} is {line!r}; a class has one name here, not several with commas")
        if wnid < latest:
            raise BadDataError(f"{path}: line {number} has {wnid} after {latest}; the wnids must ascend")
        classnames[wnid], latest = classname, wnid
    return classnames


def read_class(folder: str, label: int, classname: str) -> list[Datum]:
    """The images of one class folder, which may not be empty."""
    impaths = list_images(folder)
    if not impaths:
        raise MissingDataError(f"class folder {folder} has no images")
    return [Item(impath, label, classname) for impath in impaths]


def absent_wnids(image_dir: str, classnames_path: StrPath) -> list[str]:
    """The wnids of `classnames.txt` that have no folder."""
    present = set(class_folders(image_dir))
    return [wnid for wnid in read_wnids(classnames_path) if wnid not in present]


def read_wnid_folders(image_dir: str, classnames_path: StrPath) -> list[Datum]:
    """All images of a folder of wnid folders; a label is the position of the folder among those present."""
    classnames = read_wnids(classnames_path)
    items = []
    for label, wnid in enumerate(class_folders(image_dir)):
        classname = lookup(classnames, wnid, image_dir, f"class folder (not in {classnames_path})")
        items += read_class(f"{image_dir}/{wnid}", label, classname)
    return items


class WnidLayout(CoOpLayout):
    """A data set of wnid folders with `classnames.txt` beside them."""

    @property
    def classnames_path(self) -> Path:
        return Path(self.dataset_dir, "classnames.txt")


class WnidTarget(WnidLayout, TargetDataset):
    """A data set of wnid folders for testing."""

    def read_annotations(self) -> Parts:
        return Parts([], [], read_wnid_folders(self.image_dir, self.classnames_path))


@DATASET_REGISTRY.register()
class ImageNet(WnidLayout, CoOpDataset):
    """1,000 classes. The validation images are both val and test set; val is never reduced by NUM_SHOTS."""

    dataset_dir = "imagenet"
    paper_name = "ImageNet"
    pieces = (
        CLASSNAMES,
        Piece("images/train", (Download(_TRAIN, by_hand=_NEEDS_ACCOUNT, imagenet="train"),)),
        Piece("images/val", (Download(_VAL, by_hand=_NEEDS_ACCOUNT, imagenet="val", companion=_DEVKIT),)),
    )
    counts = Counts(1000, 1281167, None, 50000)

    def read_annotations(self) -> Parts:
        train_dir, val_dir = (f"{self.image_dir}/{part}" for part in ("train", "val"))
        check_same_folders(train_dir, val_dir)
        train = read_wnid_folders(train_dir, self.classnames_path)
        test = read_wnid_folders(val_dir, self.classnames_path)
        absent = self.absent_classes()
        if absent:
            print(f"Note: {len(absent):,} classes of {self.classnames_path} have no folder, first {absent[0]}")
        return Parts(train, test, test)

    def absent_classes(self) -> list[str]:
        return absent_wnids(f"{self.image_dir}/train", self.classnames_path)


def check_same_folders(train_dir: str, val_dir: str) -> None:
    """Labels are positions among the class folders, so train and val must have the same ones."""
    in_train = set(class_folders(train_dir))
    if Path(val_dir).is_dir() and image_names(val_dir):
        raise BadDataError(f"{val_dir} has images outside of wnid folders: sort them into one folder per wnid")
    in_val = set(class_folders(val_dir))
    for absent, folder in ((in_train - in_val, val_dir), (in_val - in_train, train_dir)):
        if absent:
            raise MissingDataError(f"{len(absent)} class folders are missing in {folder}, first {min(absent)}")
