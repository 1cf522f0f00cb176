"""Caltech101 (Fei-Fei et al., 2004)."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from datasets.layout.base import CoOpDataset
from datasets.layout.splits import Parts, read_and_split_data

IGNORED = ("BACKGROUND_Google", "Faces_easy")
NEW_CNAMES = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}


@DATASET_REGISTRY.register()
class Caltech101(CoOpDataset):
    """Objects; 100 classes."""

    dataset_dir = "caltech-101"
    image_folder = "101_ObjectCategories"
    split_file = "split_zhou_Caltech101.json"

    def read_annotations(self) -> Parts:
        return read_and_split_data(self.image_dir, ignored=IGNORED, new_cnames=NEW_CNAMES)
