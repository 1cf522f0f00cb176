"""The generated data sets, which need no download (see `shapes_world/`)."""

from __future__ import annotations

import shlex
from pathlib import Path

from dassl.data.datasets import DATASET_REGISTRY
from datasets.layout.base import CoOpDataset, CoOpLayout, TargetDataset
from datasets.layout.sources import Counts
from shapes_world.suites import SUITES


class GeneratedLayout(CoOpLayout):
    """A data set that is generated instead of downloaded, as the suite of its name says."""

    generated = True

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if suite := SUITES.get(cls.__name__):
            cls.dataset_dir, cls.split_file, classes = suite.folder, suite.split_file, len(suite.subjects)
            cls.counts = Counts(classes, *(classes * images for images in suite.images_per_class))

    @property
    def origin(self) -> str:
        root = shlex.quote(str(Path(self.dataset_dir).parent))
        return f"python -m shapes_world.generate --root {root} {self.name}"


@DATASET_REGISTRY.register()
class Shapes(GeneratedLayout, CoOpDataset):
    """Coloured and patterned shapes."""


@DATASET_REGISTRY.register()
class Glyphs(GeneratedLayout, CoOpDataset):
    """Coloured letters and digits."""


@DATASET_REGISTRY.register()
class ShapesSketch(GeneratedLayout, TargetDataset):
    """Shapes as line drawings."""


@DATASET_REGISTRY.register()
class ShapesNight(GeneratedLayout, TargetDataset):
    """Shapes in the dark."""


@DATASET_REGISTRY.register()
class ShapesCluttered(GeneratedLayout, TargetDataset):
    """Shapes among distractors."""
