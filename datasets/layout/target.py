"""Data sets for testing only: the targets of domain generalisation."""

from __future__ import annotations

from yacs.config import CfgNode

from datasets.layout import splits
from datasets.layout.base import CoOpLayout
from datasets.layout.errors import BadDataError, with_remedy
from datasets.layout.splits import Parts


class TargetDataset(CoOpLayout):
    """A data set without training part: `train_x` is the test list, which defines class names and counts.

    NUM_SHOTS, SEED and SUBSAMPLE_CLASSES have no effect, as in the lineage.
    """

    def __init__(self, cfg: CfgNode) -> None:
        self.open(self.folder_of(cfg), cfg.OUTPUT_DIR)
        with with_remedy(self.name, self.remedy):
            parts = self.read()
            self.check_names(parts)
        test = parts.test
        super().__init__(train_x=test, test=test)

    def check_parts(self, parts: Parts, source: str) -> None:
        if not parts.test:
            raise BadDataError(f"{source}: the test part is empty")
        splits.check_labels(Parts(parts.test, [], parts.test), source)
