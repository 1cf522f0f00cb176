"""Describable Textures (Cimpoi et al., 2014)."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from datasets.layout.base import CoOpDataset
from datasets.layout.splits import Parts, read_and_split_data


@DATASET_REGISTRY.register()
class DescribableTextures(CoOpDataset):
    """Textures; 47 classes. All images are cut 50/20/30; the data set's own ten splits are not used."""

    dataset_dir = "dtd"
    split_file = "split_zhou_DescribableTextures.json"

    def read_annotations(self) -> Parts:
        return read_and_split_data(self.image_dir)
