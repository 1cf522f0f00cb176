"""Oxford-IIIT Pets (Parkhi et al., 2012)."""

from __future__ import annotations

import os
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils.numerals import whole_number
from datasets.layout.base import CoOpDataset
from datasets.layout.errors import BadDataError
from datasets.layout.files import read_lines
from datasets.layout.items import Item
from datasets.layout.sources import VGG, Counts, drive, web
from datasets.layout.splits import Parts, split_trainval


@DATASET_REGISTRY.register()
class OxfordPets(CoOpDataset):
    """Breeds of cats and dogs; 37 classes."""

    dataset_dir = "oxford_pets"
    split_file = "split_zhou_OxfordPets.json"
    paper_name = "OxfordPets"
    template = "a photo of a {}, a type of pet."
    pieces = (
        web("images", f"{VGG}/pets/data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"),
        web("annotations", f"{VGG}/pets/data/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"),
        drive("split_zhou_OxfordPets.json", "1501r8Ber4nNKvmlFVQZ8SeUHTcdTTEqs"),
    )
    counts = Counts(37, 2944, 736, 3669)

    def read_annotations(self) -> Parts:
        trainval = self._read_list("trainval.txt")
        test = self._read_list("test.txt")
        return Parts(*split_trainval(trainval), test)

    def _read_list(self, name: str) -> list[Datum]:
        """Lines like "british_shorthair_12 5 1 3": image, class from 1, species, breed within the species."""
        path = Path(self.dataset_dir, "annotations", name)
        items = []
        for line in read_lines(path):
            fields = line.split()
            number = whole_number(fields[1]) if len(fields) == 4 else None
            if number is None:
                raise BadDataError(f"{path}: line {line!r} is not an image, a class, a species and a breed")
            image, label = fields[0], number - 1
            breed = image.rpartition("_")[0].lower()
            items.append(Item(os.path.join(self.image_dir, f"{image}.jpg"), label, breed))
        return items
