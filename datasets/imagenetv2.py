"""ImageNetV2, matched frequency (Recht et al., 2019)."""

from __future__ import annotations

from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY
from datasets.imagenet import read_class, read_wnids
from datasets.layout.base import TargetDataset
from datasets.layout.errors import BadDataError
from datasets.layout.files import require_folder
from datasets.layout.sources import CLASSNAMES, Counts, web
from datasets.layout.splits import Parts

NUM_CLASSES = 1000


@DATASET_REGISTRY.register()
class ImageNetV2(TargetDataset):
    """ImageNet's 1,000 classes; the folders are named by label, in the order of `classnames.txt`."""

    dataset_dir = "imagenetv2"
    image_folder = "imagenetv2-matched-frequency-format-val"
    paper_name = "ImageNetV2"
    pieces = (
        CLASSNAMES,
        web(
            "imagenetv2-matched-frequency-format-val",
            "https://s3-us-west-2.amazonaws.com/imagenetv2public/imagenetv2-matched-frequency.tar.gz",
        ),
    )
    counts = Counts(1000, None, None, 10000)

    def read_annotations(self) -> Parts:
        path = Path(self.dataset_dir, "classnames.txt")
        names = list(read_wnids(path).values())
        if len(names) != NUM_CLASSES:
            raise BadDataError(f"{path} names {len(names):,} classes, not {NUM_CLASSES:,}")
        folders = [f"{self.image_dir}/{label}" for label in range(NUM_CLASSES)]
        items = []
        for label, (folder, classname) in enumerate(zip(folders, names, strict=True)):
            items += read_class(require_folder(folder, "class folder"), label, classname)
        return Parts([], [], items)
