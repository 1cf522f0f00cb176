"""ImageNet-A (Hendrycks et al., 2021)."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from datasets.imagenet import WnidTarget
from datasets.layout.sources import CLASSNAMES, Counts, by_hand


@DATASET_REGISTRY.register()
class ImageNetA(WnidTarget):
    """Natural adversarial examples; 200 of ImageNet's classes."""

    dataset_dir = "imagenet-adversarial"
    image_folder = "imagenet-a"
    paper_name = "ImageNet-A"
    pieces = (
        CLASSNAMES,
        by_hand("imagenet-a", "imagenet-a.tar", "see https://github.com/hendrycks/natural-adv-examples"),
    )
    counts = Counts(200, None, None, 7500)
