"""Describable Textures (Cimpoi et al., 2014)."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from datasets.layout.base import CoOpDataset
from datasets.layout.sources import VGG, Counts, drive, web
from datasets.layout.splits import Parts, read_and_split_data


@DATASET_REGISTRY.register()
class DescribableTextures(CoOpDataset):
    """Textures; 47 classes. All images are cut 50/20/30; the data set's own ten splits are not used."""

    dataset_dir = "dtd"
    split_file = "split_zhou_DescribableTextures.json"
    paper_name = "DTD"
    template = "{} texture."
    pieces = (
        web(
            "images", f"{VGG}/dtd/download/dtd-r1.0.1.tar.gz", "fff73e5086ae6bdbea199a49dfb8a4c1", inside="dtd", to="."
        ),
        drive("split_zhou_DescribableTextures.json", "1u3_QfB467jqHgNXC00UIzbLZRQCg2S7x"),
    )
    counts = Counts(47, 2820, 1128, 1692)

    def read_annotations(self) -> Parts:
        return read_and_split_data(self.image_dir)
