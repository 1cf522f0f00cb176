"""Food-101 (Bossard et al., 2014)."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from datasets.layout.base import CoOpDataset
from datasets.layout.sources import Counts, drive, web
from datasets.layout.splits import Parts, read_and_split_data


@DATASET_REGISTRY.register()
class Food101(CoOpDataset):
    """Dishes; 101 classes. All images are cut 50/20/30; the data set's own 750/250 split is not used."""

    dataset_dir = "food-101"
    split_file = "split_zhou_Food101.json"
    paper_name = "Food101"
    template = "a photo of {}, a type of food."
    pieces = (
        web(
            "images",
            "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
            "85eeb15f3717b99a5da872d97d918f87",
            inside="food-101",
            to=".",
        ),
        drive("split_zhou_Food101.json", "1QK0tGi096I0Ba6kggatX1ee6dJFIcEJl"),
    )
    counts = Counts(101, 50500, 20200, 30300)

    def read_annotations(self) -> Parts:
        return read_and_split_data(self.image_dir)
