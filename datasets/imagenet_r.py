"""ImageNet-R (Hendrycks et al., 2021)."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from datasets.imagenet import WnidTarget
from datasets.layout.sources import CLASSNAMES, Counts, by_hand


@DATASET_REGISTRY.register()
class ImageNetR(WnidTarget):
    """Renditions (art, cartoons, toys, ...); 200 of ImageNet's classes."""

    dataset_dir = "imagenet-rendition"
    image_folder = "imagenet-r"
    paper_name = "ImageNet-R"
    pieces = (CLASSNAMES, by_hand("imagenet-r", "imagenet-r.tar", "see https://github.com/hendrycks/imagenet-r"))
    counts = Counts(200, None, None, 30000)
