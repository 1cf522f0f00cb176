"""Oxford Flowers 102 (Nilsback and Zisserman, 2008)."""

from __future__ import annotations

import os
from collections import defaultdict

from dassl.data.datasets import DATASET_REGISTRY
from datasets.layout.base import CoOpDataset
from datasets.layout.files import lookup, read_json_object, read_mat
from datasets.layout.splits import Parts, cut_classes


@DATASET_REGISTRY.register()
class OxfordFlowers(CoOpDataset):
    """Flowers; 102 classes."""

    dataset_dir = "oxford_flowers"
    image_folder = "jpg"
    split_file = "split_zhou_OxfordFlowers.json"

    def read_annotations(self) -> Parts:
        """``imagelabels.mat`` holds a class from 1 for image_00001.jpg, image_00002.jpg, ..."""
        names_path = os.path.join(self.dataset_dir, "cat_to_name.json")
        labels = read_mat(os.path.join(self.dataset_dir, "imagelabels.mat"), "labels")
        names = read_json_object(names_path)
        images = defaultdict(list)
        for number, label in enumerate(labels, start=1):
            images[int(label)].append(os.path.join(self.image_dir, f"image_{number:05d}.jpg"))
        return cut_classes(
            (label - 1, lookup(names, str(label), "imagelabels.mat", f"class (not in {names_path})"), impaths)
            for label, impaths in images.items()
        )
