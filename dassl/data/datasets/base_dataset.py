"""Base class of data sets: lists of images with labels."""

from __future__ import annotations

import os.path as osp
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import Any

from dassl.utils.archives import unpack_archive
from dassl.utils.downloads import download_url
from dassl.utils.errors import BadValueError, MissingFileError


def _read_only(attribute: str) -> Any:
    return property(attrgetter(attribute))


class Datum:
    """One image. Upstream's private names stay: files of other people set them, to relabel an image for example.

    Args:
        impath: path of the image file, which must exist.
        label: class, from 0.
        domain: domain, from 0.
        classname: name of the class.

    Raises:
        MissingFileError: there is no such file.
        TypeError: an argument has another type.
    """

    impath: str = _read_only("_impath")
    label: int = _read_only("_label")
    domain: int = _read_only("_domain")
    classname: str = _read_only("_classname")

    def __init__(self, impath: str = "", label: int = 0, domain: int = 0, classname: str = "") -> None:
        for name, value, wanted in (
            ("impath", impath, str),
            ("label", label, int),
            ("domain", domain, int),
            ("classname", classname, str),
        ):
            if not isinstance(value, wanted):
                raise TypeError(f"{name} of {impath!r} should be {wanted.__name__}, not {value!r}")
        if not osp.isfile(impath):
            raise MissingFileError(f"a listed image does not exist: {impath}")
        self._impath = impath
        self._label = label
        self._domain = domain
        self._classname = classname

    def __repr__(self) -> str:
        return f"Datum({self._impath!r}, label={self._label}, domain={self._domain}, classname={self._classname!r})"


class DatasetBase:
    """Labelled and unlabelled training images, validation and test images.

    `lab2cname`, `classnames` and `num_classes` come from the labelled training images.

    Args:
        train_x: labelled training images.
        train_u: unlabelled training images (label ignored).
        val: validation images, may be empty.
        test: test images.
    """

    dataset_dir = ""  # folder below DATASET.ROOT
    domains: Sequence[str] = []  # names of all domains

    train_x: list[Datum] | None = _read_only("_train_x")
    train_u: list[Datum] | None = _read_only("_train_u")
    val: list[Datum] | None = _read_only("_val")
    test: list[Datum] | None = _read_only("_test")
    lab2cname: dict[int, str] = _read_only("_lab2cname")  # class name of each label
    classnames: list[str] = _read_only("_classnames")  # in ascending order of label
    num_classes: int = _read_only("_num_classes")  # largest label plus one

    def __init__(
        self,
        train_x: list[Datum] | None = None,
        train_u: list[Datum] | None = None,
        val: list[Datum] | None = None,
        test: list[Datum] | None = None,
    ) -> None:
        self._train_x = train_x  # upstream's private names, which readers of other people set
        self._train_u = train_u
        self._val = val
        self._test = test
        self._num_classes = self.get_num_classes(train_x)
        self._lab2cname, self._classnames = self.get_lab2cname(train_x)

    @staticmethod
    def get_num_classes(data_source: Iterable[Datum] | None) -> int:
        """Largest label plus one.

        Raises:
            BadValueError: there are no images.
        """
        labels = {item.label for item in data_source or ()}
        if not labels:
            raise BadValueError("the data set has no training images, so its classes are unknown")
        return max(labels) + 1

    @staticmethod
    def get_lab2cname(data_source: Iterable[Datum] | None) -> tuple[dict[int, str], list[str]]:
        """Class name of each label (the first that occurs), and the names in ascending order of label."""
        found: dict[int, str] = {}
        for item in data_source or ():
            found.setdefault(item.label, item.classname)
        mapping = {label: found[label] for label in sorted(found)}
        return mapping, list(mapping.values())

    def check_input_domains(self, source_domains: Sequence[str], target_domains: Sequence[str]) -> None:
        """Check that all domains are the data set's.

        Raises:
            BadValueError: one is not.
        """
        self.is_input_domain_valid(source_domains)
        self.is_input_domain_valid(target_domains)

    def is_input_domain_valid(self, input_domains: Sequence[str]) -> None:
        """Check that all domains are the data set's.

        Raises:
            BadValueError: one is not.
        """
        for domain in input_domains:
            if domain not in self.domains:
                raise BadValueError(f'unknown domain "{domain}" of {type(self).__name__}; it has {list(self.domains)}')

    def download_data(self, url: str, dst: str, from_gdrive: bool = True) -> None:
        """Download an archive to the file `dst` and unpack it into the same folder."""
        download_url(url, dst, from_gdrive=from_gdrive)
        unpack_archive(dst, osp.dirname(osp.abspath(dst)))

    def generate_fewshot_dataset(self, *data_sources: list[Datum], num_shots: int = -1, repeat: bool = False) -> Any:
        """A few images of each class, drawn with Python's global generator.

        Classes are visited in the order in which they first occur. A class with fewer images keeps all, without a draw.

        Args:
            data_sources: lists of images.
            num_shots: images per class; below 1 for all.
            repeat: draw with replacement if a class has fewer.

        Returns:
            One list for one source, otherwise a list (without drawing: a tuple) of lists.
        """
        if num_shots < 1:
            return data_sources[0] if len(data_sources) == 1 else data_sources
        print(f"Creating a {num_shots}-shot dataset")
        drawn = [self._draw(source, num_shots, repeat) for source in data_sources]
        return drawn[0] if len(drawn) == 1 else drawn

    def _draw(self, data_source: list[Datum], num_shots: int, repeat: bool) -> list[Datum]:
        dataset: list[Datum] = []
        for items in self.split_dataset_by_label(data_source).values():
            if len(items) >= num_shots:
                items = random.sample(items, num_shots)
            elif repeat:
                items = random.choices(items, k=num_shots)
            dataset.extend(items)
        return dataset

    @staticmethod
    def split_dataset_by_label(data_source: Iterable[Datum]) -> dict[int, list[Datum]]:
        """Images of each label, labels in order of first occurrence."""
        return _grouped(data_source, "label")

    @staticmethod
    def split_dataset_by_domain(data_source: Iterable[Datum]) -> dict[int, list[Datum]]:
        """Images of each domain, domains in order of first occurrence."""
        return _grouped(data_source, "domain")


def _grouped(data_source: Iterable[Datum], attribute: str) -> dict[int, list[Datum]]:
    groups: dict[int, list[Datum]] = defaultdict(list)
    for item in data_source:
        groups[getattr(item, attribute)].append(item)
    return groups
