"""UCF101 (Soomro et al., 2012), the middle frame of each video."""

from __future__ import annotations

import os
import re
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, Datum
from dassl.utils.files import StrPath
from dassl.utils.numerals import whole_number
from datasets.layout.base import CoOpDataset
from datasets.layout.errors import BadDataError
from datasets.layout.files import lookup, read_lines
from datasets.layout.items import Item
from datasets.layout.sources import Counts, drive
from datasets.layout.splits import Parts, split_trainval


@DATASET_REGISTRY.register()
class UCF101(CoOpDataset):
    """Actions; 101 classes. The first of the three partitions."""

    dataset_dir = "ucf101"
    image_folder = "UCF-101-midframes"
    split_file = "split_zhou_UCF101.json"
    paper_name = "UCF101"
    template = "a photo of a person doing {}."
    pieces = (
        drive("UCF-101-midframes", "10Jqome3vtUA2keJkNanAiFpgbyC9Hc2O", "UCF-101-midframes.zip"),
        drive("split_zhou_UCF101.json", "1I0S0q91hJfsV9Gf4xDIjgDq4AqBNJb1y"),
    )
    counts = Counts(101, 7639, 1898, 3783)

    def read_annotations(self) -> Parts:
        lists = Path(self.dataset_dir, "ucfTrainTestlist")
        labels = read_class_index(lists / "classInd.txt")
        trainval = self._read_list(lists / "trainlist01.txt", labels)
        test = self._read_list(lists / "testlist01.txt", labels)
        return Parts(*split_trainval(trainval), test)

    def _read_list(self, path: StrPath, labels: dict[str, int]) -> list[Datum]:
        """Lines like "TaiChi/v_TaiChi_g01_c01.avi 91": video and, in the train lists, class."""
        items = []
        for line in read_lines(path):
            action, _, video = line.split(" ")[0].partition("/")
            name = "_".join(re.findall("[A-Z][^A-Z]*", action))  # TaiChi is called Tai_Chi
            impath = os.path.join(self.image_dir, name, video.replace(".avi", ".jpg"))
            items.append(Item(impath, lookup(labels, action, path, "action"), name))
        return items


def read_class_index(path: StrPath) -> dict[str, int]:
    """Action -> label from 0; lines like "1 ApplyEyeMakeup"."""
    labels = {}
    for line in read_lines(path):
        text, _, action = line.partition(" ")
        number = whole_number(text)
        if number is None or not action:
            raise BadDataError(f"{path}: line {line!r} is not a number and an action")
        labels[action] = number - 1
    return labels
