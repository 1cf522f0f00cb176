"""Caltech101 (Fei-Fei et al., 2004)."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from datasets.layout.base import CoOpDataset
from datasets.layout.sources import Counts, by_hand, drive, either, web
from datasets.layout.splits import Parts, read_and_split_data

IGNORED = ("BACKGROUND_Google", "Faces_easy")
NEW_CNAMES = {"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"}


@DATASET_REGISTRY.register()
class Caltech101(CoOpDataset):
    """Objects; 100 classes."""

    dataset_dir = "caltech-101"
    image_folder = "101_ObjectCategories"
    split_file = "split_zhou_Caltech101.json"
    paper_name = "Caltech101"
    pieces = (
        either(
            web(
                "101_ObjectCategories",
                "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                "3138e1922a9193bfa496528edbbc45d0",
                inside="caltech-101/101_ObjectCategories",
                inner="caltech-101/101_ObjectCategories.tar.gz",
            ),
            by_hand(
                "101_ObjectCategories",
                "101_ObjectCategories.tar.gz",
                "the address in CoOp's DATASETS.md is dead",
                "b224c7392d521a49829488ab0f1120d9",
            ),
        ),
        drive("split_zhou_Caltech101.json", "1hyarUivQE36mY6jSomru6Fjd-JzwcCzN"),
    )
    counts = Counts(100, 4128, 1649, 2465)

    def read_annotations(self) -> Parts:
        return read_and_split_data(self.image_dir, ignored=IGNORED, new_cnames=NEW_CNAMES)
