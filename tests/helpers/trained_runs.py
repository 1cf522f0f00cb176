"""Tiny finished runs to predict with and to export: seven classes, a tiny CLIP, one epoch."""

from __future__ import annotations

from pathlib import Path

import torch
from golden_data import write_backbones
from tiny_runs import build_trainer, make_cfg, write_data


class Runs:
    """Trains what is asked for, once each, on a data set of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        write_data(self.data)
        self.backbone = write_backbones(folder)["vit"]
        self._trainers = {}

    @property
    def images(self) -> Path:
        """Folder of all images."""
        return self.data / "eurosat" / "2750"

    def __call__(self, trainer: str, **options):
        """The trained trainer; its folder is `trainer.output_dir`."""
        key = (trainer, *sorted(options.items()))
        if key not in self._trainers:
            torch.manual_seed(0)
            output = self.folder / f"run{len(self._trainers)}"
            cfg = make_cfg(trainer, self.backbone, self.data, output, {"OPTIM.MAX_EPOCH": 1, **options})
            made = build_trainer(cfg)
            if trainer.startswith("Zeroshot"):
                made.test()
            else:
                made.train()
            self._trainers[key] = made
        return self._trainers[key]
