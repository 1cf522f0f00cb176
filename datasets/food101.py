"""Food-101 (Bossard et al., 2014)."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from datasets.layout.base import CoOpDataset
from datasets.layout.splits import Parts, read_and_split_data


@DATASET_REGISTRY.register()
class Food101(CoOpDataset):
    """Dishes; 101 classes. All images are cut 50/20/30; the data set's own 750/250 split is not used."""

    dataset_dir = "food-101"
    split_file = "split_zhou_Food101.json"

    def read_annotations(self) -> Parts:
        return read_and_split_data(self.image_dir)
