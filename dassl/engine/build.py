"""Trainers by name."""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

from dassl.utils.registry import Registry

TRAINER_REGISTRY = Registry("TRAINER", "Loading trainer")


def build_trainer(cfg: CfgNode) -> Any:
    """The trainer `cfg.TRAINER.NAME`.

    Raises:
        UnknownNameError: there is no such name; the available ones are listed.
    """
    return TRAINER_REGISTRY.build(cfg.TRAINER.NAME, cfg.VERBOSE, cfg)
