"""Custom data, in a folder or listed in a CSV file."""

from __future__ import annotations

import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from dassl.data.datasets import Datum
from dassl.utils import BadValueError
from dassl.utils.numerals import whole_number
from datasets.layout.base import CoOpDataset, class_names, full_path
from datasets.layout.classes import describe_same_text
from datasets.layout.errors import BadDataError, Remedy
from datasets.layout.files import read_lines
from datasets.layout.items import Item
from datasets.layout.splits import Parts, cut_classes

FOLDER_READER, CSV_READER = "ImageFolder", "ImageCSV"
"""Names of the two readers of custom data."""
SPLIT_SEED = 1  # fixed, so that the test images do not depend on SEED


class CustomData(CoOpDataset):
    """Images below DATASET.PATH, class names from the data or from the file DATASET.CLASSNAMES."""

    image_folder = ""
    is_own = True

    def __init__(self, cfg: CfgNode) -> None:
        self.classnames_file = full_path(cfg.DATASET.CLASSNAMES) if cfg.DATASET.get("CLASSNAMES", "") else None
        super().__init__(cfg)

    @classmethod
    def folder_of(cls, cfg: CfgNode) -> str:
        """DATASET.PATH as an absolute path.

        Raises:
            BadValueError: it is not set.
        """
        if not cfg.DATASET.get("PATH", ""):
            raise BadValueError(f"{cls.__name__}: DATASET.PATH is not set; append: DATASET.PATH my_images/")
        return full_path(cfg.DATASET.PATH)

    @property
    def display_name(self) -> str:
        """The name of the data in tables: the folder's name, or the CSV file's without its suffix."""
        raise NotImplementedError

    def use_listed_twice(self, description: str) -> None:
        """Refuse it, because the user can correct the file.

        Raises:
            BadDataError: always.
        """
        raise BadDataError(description)

    def tell_of_new_file(self, what: str, path: str) -> None:
        is_beside = Path(path).is_relative_to(self.dataset_dir)
        print(f"{what} to {path}" + " (DATASET.SPLITS_DIR chooses another folder)" * is_beside)

    @property
    def remedy(self) -> Remedy:
        return Remedy("check DATASET.PATH (see docs/datasets.md, own data)", "see docs/datasets.md, own data")

    def name_classes(self, parts: Parts) -> Parts:
        if self.classnames_file is None:
            return parts
        self.names_in_data = {item.label: item.classname for item in parts.train}
        names = read_names(self.classnames_file, sorted(self.names_in_data.values()))
        renamed: list[list[Datum]]
        renamed = [[Item(each.impath, each.label, names[each.classname]) for each in items] for items in parts]
        train, val, test = renamed
        return Parts(train, test if parts.val is parts.test else val, test)

    def check_names(self, parts: Parts) -> None:
        described = describe_same_text(class_names(parts))
        if described:
            raise BadDataError(f"{self.source}: classes have {described}; rename or merge them (DATASET.CLASSNAMES)")

    def parts_are_given(self) -> bool:
        """Whether the user assigns the images to parts."""
        raise NotImplementedError

    @property
    def source(self) -> str:
        """What DATASET.PATH names."""
        return self.dataset_dir


def read_names(path: str, keys: Sequence[str]) -> dict[str, str]:
    """Folder (or label) -> class name, one pair per line, separated by a tab or by the first blank.

    Raises:
        BadDataError: the file does not name exactly `keys`.
    """
    names: dict[str, str] = {}
    for line in read_lines(path):
        key, _, name = line.partition("\t" if "\t" in line else " ")
        key, name = key.strip(), name.strip()
        if not name:
            raise BadDataError(f"{path}: line {line!r} is not a folder and its class name")
        if key in names:
            raise BadDataError(f"{path} names {key!r} twice")
        names[key] = name
    found = [whole_number(name.partition(" ")[0]) for name in names.values()]
    numbers = {number for number in found if number is not None}
    if len(found) > 1 and len(numbers) == len(found) == max(numbers) - min(numbers) + 1:  # consecutive
        raise BadDataError(f"{path}: class names start with a number ({next(iter(names.values()))!r}); leave it out")
    unnamed = [key for key in keys if key not in names]
    unknown = [key for key in names if key not in set(keys)]
    if unnamed or unknown:
        wrong = (
            f"no class name for {unnamed[0]!r}" if unnamed else f"a name for {unknown[0]!r}, which the data do not have"
        )
        raise BadDataError(f"{path} does not match the data: it has {wrong}")
    return names


def complete(parts: Parts) -> Parts:
    """Add the missing parts: test is val if there is one; a single train part is cut 50/20/30."""
    if not parts.train:
        raise BadDataError("the training part is empty")
    if parts.test:
        return parts
    if parts.val:
        print("No test images given: the val images are also the test images")
        return Parts(parts.train, parts.val, parts.val)
    print(f"Neither val nor test images given: cutting the images 50/20/30 with seed {SPLIT_SEED}")
    classes: dict[tuple[int, str], list[str]] = {}
    for item in parts.train:
        classes.setdefault((item.label, item.classname), []).append(item.impath)
    triples = [(label, name, impaths) for (label, name), impaths in classes.items()]
    return cut_classes(triples, rng=random.Random(SPLIT_SEED))


def custom_data_path(settings: Mapping[str, Any]) -> str | None:
    """DATASET.PATH in its normal form.

    Args:
        settings: the node DATASET of a configuration.

    Returns:
        The path as given, absolute or relative; None for other data sets, or without a path.
    """
    path = settings.get("PATH")
    if settings.get("NAME") not in (FOLDER_READER, CSV_READER) or not isinstance(path, str) or not path:
        return None
    return os.path.normpath(os.path.expanduser(path))


def custom_data_name(settings: Mapping[str, Any]) -> str | None:
    """The folder's name, or the CSV file's without its suffix; None for other data sets, or without a name."""
    path = custom_data_path(settings)
    if path is None:
        return None
    name = os.path.basename(path)
    if name in ("", os.curdir, os.pardir):
        name = os.path.basename(os.path.abspath(path))
    return (os.path.splitext(name)[0] if settings["NAME"] == CSV_READER else name) or None
