"""Oxford-IIIT Pets (Parkhi et al., 2012)."""

from __future__ import annotations

import os

from dassl.data.datasets import DATASET_REGISTRY, Datum
from datasets.layout.base import CoOpDataset
from datasets.layout.errors import BadDataError
from datasets.layout.files import read_lines
from datasets.layout.items import Item
from datasets.layout.splits import Parts, split_trainval


@DATASET_REGISTRY.register()
class OxfordPets(CoOpDataset):
    """Breeds of cats and dogs; 37 classes."""

    dataset_dir = "oxford_pets"
    split_file = "split_zhou_OxfordPets.json"

    def read_annotations(self) -> Parts:
        trainval = self._read_list("trainval.txt")
        test = self._read_list("test.txt")
        return Parts(*split_trainval(trainval), test)

    def _read_list(self, name: str) -> list[Datum]:
        """Lines like "british_shorthair_12 5 1 3": image, class from 1, species, breed within the species."""
        path = os.path.join(self.dataset_dir, "annotations", name)
        items = []
        for line in read_lines(path):
            fields = line.split()
            if len(fields) != 4 or not fields[1].isdecimal():
                raise BadDataError(f"{path}: line {line!r} is not an image, a class, a species and a breed")
            image, label = fields[0], int(fields[1]) - 1
            breed = image.rpartition("_")[0].lower()
            items.append(Item(os.path.join(self.image_dir, f"{image}.jpg"), label, breed))
        return items
