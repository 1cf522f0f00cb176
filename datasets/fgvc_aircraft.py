"""FGVC Aircraft (Maji et al., 2013)."""

from __future__ import annotations

import os
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY, Datum
from datasets.layout.base import CoOpDataset
from datasets.layout.files import lookup, read_lines, require_images
from datasets.layout.items import Item
from datasets.layout.sources import VGG, Counts, web
from datasets.layout.splits import Parts


@DATASET_REGISTRY.register()
class FGVCAircraft(CoOpDataset):
    """Aircraft variants; 100 classes. The annotations are the split, so there is no split file."""

    dataset_dir = "fgvc_aircraft"
    paper_name = "FGVCAircraft"
    template = "a photo of a {}, a type of aircraft."
    pieces = (
        web(
            "images",
            f"{VGG}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz",
            inside="fgvc-aircraft-2013b/data",
            to=".",
        ),
    )
    counts = Counts(100, 3334, 3333, 3333)

    def read_annotations(self) -> Parts:
        variants = read_lines(Path(self.dataset_dir, "variants.txt"))
        labels = {variant: label for label, variant in enumerate(variants)}
        return Parts(*(self._read_list(f"images_variant_{part}.txt", labels) for part in ("train", "val", "test")))

    def _read_list(self, name: str, labels: dict[str, int]) -> list[Datum]:
        """Lines like "1025794 Cessna 172": image and variant."""
        path = Path(self.dataset_dir, name)
        items = []
        for line in read_lines(path):
            image, _, variant = line.partition(" ")
            label = lookup(labels, variant, path, "variant")
            items.append(Item(os.path.join(self.image_dir, f"{image}.jpg"), label, variant))
        require_images([item.impath for item in items], path)
        return items
