"""SUN397 (Xiao et al., 2010)."""

from __future__ import annotations

import os
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, Datum
from datasets.layout.base import CoOpDataset
from datasets.layout.files import lookup, read_lines
from datasets.layout.items import Item
from datasets.layout.sources import Counts, drive, web
from datasets.layout.splits import Parts, split_trainval


@DATASET_REGISTRY.register()
class SUN397(CoOpDataset):
    """Scenes; 397 classes. The first of the ten partitions."""

    dataset_dir = "sun397"
    image_folder = "SUN397"
    split_file = "split_zhou_SUN397.json"
    paper_name = "SUN397"
    pieces = (
        web(
            "SUN397", "http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz", "8ca2778205c41d23104230ba66911c7a"
        ),
        web(
            "ClassName.txt",
            "https://vision.princeton.edu/projects/2010/SUN/download/Partitions.zip",
            inside=".",
            to=".",
        ),
        drive("split_zhou_SUN397.json", "1y2RD81BYuiyvebdN-JymPfyWYcd8_MUq"),
    )
    counts = Counts(397, 15880, 3970, 19850)

    def read_annotations(self) -> Parts:
        scenes = read_lines(Path(self.dataset_dir, "ClassName.txt"))
        labels = {scene.removeprefix("/"): label for label, scene in enumerate(scenes)}
        trainval = self._read_list("Training_01.txt", labels)
        test = self._read_list("Testing_01.txt", labels)
        return Parts(*split_trainval(trainval), test)

    def _read_list(self, name: str, labels: dict[str, int]) -> list[Datum]:
        """Lines like "/c/casino/indoor/sun_abc.jpg"."""
        path = Path(self.dataset_dir, name)
        items = []
        for line in read_lines(path):
            image = line.removeprefix("/")
            scene = os.path.dirname(image)
            label = lookup(labels, scene, path, "scene")
            name = " ".join(reversed(scene.split("/")[1:]))  # c/casino/indoor is called "indoor casino"
            items.append(Item(os.path.join(self.image_dir, image), label, name))
        return items
