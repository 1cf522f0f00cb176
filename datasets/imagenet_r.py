"""ImageNet-R (Hendrycks et al., 2021)."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from datasets.imagenet import WnidTarget


@DATASET_REGISTRY.register()
class ImageNetR(WnidTarget):
    """Renditions (art, cartoons, toys, ...); 200 of ImageNet's classes."""

    dataset_dir = "imagenet-rendition"
    image_folder = "imagenet-r"
