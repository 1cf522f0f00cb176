"""Stanford Cars (Krause et al., 2013)."""

from __future__ import annotations

import os
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, Datum
from datasets.layout.base import CoOpDataset
from datasets.layout.errors import BadDataError
from datasets.layout.files import read_mat
from datasets.layout.items import Item
from datasets.layout.sources import Counts, by_hand, drive
from datasets.layout.splits import Parts, split_trainval

_CARS = "the Stanford addresses are gone; mirrors exist, for instance on Kaggle (Stanford Cars)"
_TEST_ANNOTATIONS = "cars_test_annos_withlabels.mat"


@DATASET_REGISTRY.register()
class StanfordCars(CoOpDataset):
    """Makes, models and years; 196 classes. Paths in the split file start with cars_train/ or cars_test/."""

    dataset_dir = "stanford_cars"
    image_folder = ""
    split_file = "split_zhou_StanfordCars.json"
    paper_name = "StanfordCars"
    pieces = (
        by_hand("cars_train", "cars_train.tgz", _CARS, md5="065e5b463ae28d29e77c1b4b166cfe61"),
        by_hand("cars_test", "cars_test.tgz", _CARS, md5="4ce7ebf6a94d07f1952d94dd34c4d501"),
        by_hand("devkit", "car_devkit.tgz", _CARS, md5="c3b158d763b6e2245038c8ad08e45376"),
        by_hand(_TEST_ANNOTATIONS, _TEST_ANNOTATIONS, _CARS, md5="b0a2b23655a3edd16d84508592a98d10"),
        drive("split_zhou_StanfordCars.json", "1ObCFbaAgVu0I-k_Au-gIUcefirdAuizT"),
    )
    counts = Counts(196, 6509, 1635, 8041)

    def read_annotations(self) -> Parts:
        meta = read_mat(Path(self.dataset_dir, "devkit", "cars_meta.mat"), "class_names")
        names = [year_first(str(name[0])) for name in meta]
        trainval = self._read_annotations_of("cars_train", "devkit/cars_train_annos.mat", names)
        test = self._read_annotations_of("cars_test", _TEST_ANNOTATIONS, names)
        return Parts(*split_trainval(trainval), test)

    def _read_annotations_of(self, image_folder: str, annotations: str, names: list[str]) -> list[Datum]:
        path = Path(self.dataset_dir, annotations)
        items = []
        for number, entry in enumerate(read_mat(path, "annotations")):
            try:
                label, image = int(entry["class"][0, 0]) - 1, str(entry["fname"][0])
            except (ValueError, IndexError, TypeError):
                raise BadDataError(f"{path}: entry {number} has no class and fname") from None
            if not 0 <= label < len(names):
                raise BadDataError(f"{path} has class {label + 1}, but cars_meta.mat names {len(names)} classes")
            impath = os.path.join(self.dataset_dir, image_folder, image)
            items.append(Item(impath, label, names[label]))
        return items


def year_first(name: str) -> str:
    """ "Acura RL Sedan 2012" -> "2012 Acura RL Sedan"."""
    *words, year = name.split(" ")
    return " ".join([year, *words])
