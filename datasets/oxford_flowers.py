"""Oxford Flowers 102 (Nilsback and Zisserman, 2008)."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY
from datasets.layout.base import CoOpDataset
from datasets.layout.files import lookup, read_json_object, read_mat
from datasets.layout.sources import VGG, Counts, drive, web
from datasets.layout.splits import Parts, cut_classes


@DATASET_REGISTRY.register()
class OxfordFlowers(CoOpDataset):
    """Flowers; 102 classes."""

    dataset_dir = "oxford_flowers"
    image_folder = "jpg"
    split_file = "split_zhou_OxfordFlowers.json"
    paper_name = "Flowers102"
    template = "a photo of a {}, a type of flower."
    pieces = (
        web("jpg", f"{VGG}/flowers/102/102flowers.tgz", "52808999861908f626f3c1f4e79d11fa"),
        web("imagelabels.mat", f"{VGG}/flowers/102/imagelabels.mat", "e0620be6f572b9609742df49c70aed4d"),
        drive("cat_to_name.json", "1AkcxCXeK_RCGCEC_GvmWxjcjaNhu-at0"),
        drive("split_zhou_OxfordFlowers.json", "1Pp0sRXzZFZq15zVOzKjKBu4A9i01nozT"),
    )
    counts = Counts(102, 4093, 1633, 2463)

    def read_annotations(self) -> Parts:
        """`imagelabels.mat` has a class from 1 for image_00001.jpg, image_00002.jpg, ..."""
        names_path = Path(self.dataset_dir, "cat_to_name.json")
        labels = read_mat(Path(self.dataset_dir, "imagelabels.mat"), "labels")
        names = read_json_object(names_path)
        images = defaultdict(list)
        for number, label in enumerate(labels, start=1):
            images[int(label)].append(f"{self.image_dir}/image_{number:05d}.jpg")
        return cut_classes(
            (label - 1, lookup(names, str(label), "imagelabels.mat", f"class (not in {names_path})"), impaths)
            for label, impaths in images.items()
        )
