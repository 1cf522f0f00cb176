"""What train.py writes into result.json, gathered from the command line, the configuration and the trainer."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from dassl.config import plain
from dassl.utils.errors import BadValueError
from experiments.provenance import draw_digest, git_state, peak_memory, versions, weights_digest
from experiments.results import PARTS, write_result


def setting_and_part(text: str) -> tuple[str, str]:
    """ "base2new/test_new" in its two parts. Raises BadValueError, which lists what there is."""
    setting, _, part = text.partition("/")
    if part not in PARTS.get(setting, ()):
        known = ", ".join(f"{setting}/{part}" for setting, parts in PARTS.items() for part in parts)
        raise BadValueError(f"unknown setting {text!r}: choose from {known}")
    return setting, part


class Recording:
    """Begun before the run, so that the commit is the one that ran; `finish` writes the file.

    Args:
        args: train.py's arguments.
        cfg: the run's configuration.

    Raises BadValueError for an unknown --setting.
    """

    def __init__(self, args: argparse.Namespace, cfg: CfgNode) -> None:
        self._args, self._cfg = args, cfg
        self._setting, self._part = setting_and_part(args.setting)
        self._git = git_state()

    def finish(self, trainer: Any) -> None:
        """Write ``<output folder>/result.json`` about a trainer that has done its work. Raises UnwritableFileError.

        With TEST.NO_TEST there is no result, and no file.
        """
        if getattr(trainer.evaluator, "results", None) is None:
            return
        write_result(Path(self._cfg.OUTPUT_DIR), self._what() | self._found(trainer) | self._how(trainer))

    def _what(self) -> dict[str, Any]:
        args, cfg = self._args, self._cfg
        return {
            "setting": self._setting,
            "part": self._part,
            "trainer": cfg.TRAINER.NAME,
            "config": args.config_name or Path(args.config_file).stem,
            "dataset": cfg.DATASET.NAME,
            "dataset_config": Path(args.dataset_config_file).stem,
            "subsample_classes": cfg.DATASET.SUBSAMPLE_CLASSES,
            "shots": cfg.DATASET.NUM_SHOTS,
            "seed": cfg.SEED,
            "backbone": cfg.MODEL.BACKBONE.NAME,
        }

    def _found(self, trainer: Any) -> dict[str, Any]:
        """Results as the evaluator gave them last."""
        trained = not self._args.eval_only
        return {
            "classes": trainer.num_classes,
            "results": dict(trainer.evaluator.results),
            "per_class": getattr(trainer.evaluator, "per_class", None),
            "epochs": self._cfg.OPTIM.MAX_EPOCH if trained else 0,
            "history": trainer.epoch_history.epochs if trained else [],
            "train_seconds": trainer.epoch_history.seconds if trained else None,
            "test_seconds": trainer.test_seconds,
        }

    def _how(self, trainer: Any) -> dict[str, Any]:
        cfg = self._cfg
        drawn = None if self._args.eval_only else draw_digest(trainer.dm.dataset.train_x, cfg.DATASET.ROOT)
        return {
            "peak_memory_bytes": peak_memory(),
            "device": trainer.device.type,
            "few_shot_sha256": drawn,
            "weights_sha256": weights_digest(cfg.MODEL.BACKBONE.NAME),
            "full_config": plain(cfg),
            "versions": versions(),
            **self._git,
        }
