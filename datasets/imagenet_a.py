"""ImageNet-A (Hendrycks et al., 2021)."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from datasets.imagenet import WnidTarget


@DATASET_REGISTRY.register()
class ImageNetA(WnidTarget):
    """Natural adversarial examples; 200 of ImageNet's classes."""

    dataset_dir = "imagenet-adversarial"
    image_folder = "imagenet-a"
