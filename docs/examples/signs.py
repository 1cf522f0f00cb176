"""Signs: an example of a data set with annotations of its own.

Its files:

    DATA/signs/classes.txt          one class name on each line, labels in this order
    DATA/signs/labels.txt           lines like "0001.png 3 train": image, label, part (train, val or test)
    DATA/signs/images/0001.png
"""

from __future__ import annotations

import os

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils.numerals import whole_number
from datasets.layout.base import CoOpDataset
from datasets.layout.errors import BadDataError
from datasets.layout.files import read_lines, require_images
from datasets.layout.items import Item
from datasets.layout.sources import Counts, by_hand
from datasets.layout.splits import PART_NAMES, Parts


@DATASET_REGISTRY.register()
class Signs(CoOpDataset):
    """Signs. The annotations are the split, so there is no split file."""

    dataset_dir = "signs"  # below DATASET.ROOT
    image_folder = "images"  # below that
    pieces = (by_hand("images", "signs.zip", "ask its authors"),)  # what `datasets.prepare` gets, and how
    counts = Counts(classes=8, train=32, val=8, test=40)  # what `datasets.check` expects

    def read_annotations(self) -> Parts:
        """All images with their labels.

        Raises:
            MissingDataError: a file is missing; it is named.
            BadDataError: a file is damaged; it is named.
        """
        names = read_lines(os.path.join(self.dataset_dir, "classes.txt"))
        path = os.path.join(self.dataset_dir, "labels.txt")
        parts = Parts([], [], [])
        for line in read_lines(path):
            image, text, part = (*line.split(), "", "", "")[:3]
            label = whole_number(text)
            if part not in PART_NAMES or label is None or label >= len(names):
                raise BadDataError(f"{path}: line {line!r} is not an image, a label and a part")
            item = Item(os.path.join(self.image_dir, image), label, names[label])
            getattr(parts, part).append(item)
        require_images([item.impath for items in parts for item in items], path)
        return parts
