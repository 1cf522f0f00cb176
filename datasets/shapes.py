"""The generated data sets, which need no download (see `shapes_world/`)."""

from __future__ import annotations

import os
import shlex

from dassl.data.datasets import DATASET_REGISTRY
from datasets.layout.base import CoOpDataset, CoOpLayout
from datasets.layout.target import TargetDataset


class GeneratedLayout(CoOpLayout):
    """A data set that is generated instead of downloaded."""

    generated = True

    @property
    def origin(self) -> str:
        root = os.path.dirname(self.dataset_dir)
        return f"python -m shapes_world.generate --root {shlex.quote(root)} {self.name}"


@DATASET_REGISTRY.register()
class Shapes(GeneratedLayout, CoOpDataset):
    """Coloured and patterned shapes."""

    dataset_dir = "shapes"
    split_file = "split_zhou_Shapes.json"


@DATASET_REGISTRY.register()
class Glyphs(GeneratedLayout, CoOpDataset):
    """Coloured letters and digits."""

    dataset_dir = "glyphs"
    split_file = "split_zhou_Glyphs.json"


@DATASET_REGISTRY.register()
class ShapesSketch(GeneratedLayout, TargetDataset):
    """Shapes as line drawings."""

    dataset_dir = "shapes_sketch"
    split_file = "split_zhou_ShapesSketch.json"


@DATASET_REGISTRY.register()
class ShapesNight(GeneratedLayout, TargetDataset):
    """Shapes in the dark."""

    dataset_dir = "shapes_night"
    split_file = "split_zhou_ShapesNight.json"


@DATASET_REGISTRY.register()
class ShapesCluttered(GeneratedLayout, TargetDataset):
    """Shapes among distractors."""

    dataset_dir = "shapes_cluttered"
    split_file = "split_zhou_ShapesCluttered.json"
