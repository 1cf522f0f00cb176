"""ImageNet-Sketch (Wang et al., 2019)."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from datasets.imagenet import WnidTarget, absent_wnids


@DATASET_REGISTRY.register()
class ImageNetSketch(WnidTarget):
    """Sketches of ImageNet's 1,000 classes."""

    dataset_dir = "imagenet-sketch"

    def absent_classes(self) -> list[str]:
        return absent_wnids(self.image_dir, self.classnames_path)
