"""ImageNet-Sketch (Wang et al., 2019)."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from datasets.imagenet import WnidTarget, absent_wnids
from datasets.layout.sources import CLASSNAMES, Counts, by_hand


@DATASET_REGISTRY.register()
class ImageNetSketch(WnidTarget):
    """Sketches of ImageNet's 1,000 classes."""

    dataset_dir = "imagenet-sketch"
    paper_name = "ImageNet-Sketch"
    pieces = (
        CLASSNAMES,
        by_hand("images", "ImageNet-Sketch.zip", "see https://github.com/HaohanWang/ImageNet-Sketch", inside="sketch"),
    )
    counts = Counts(1000, None, None, 50889)

    def absent_classes(self) -> list[str]:
        return absent_wnids(self.image_dir, self.classnames_path)
