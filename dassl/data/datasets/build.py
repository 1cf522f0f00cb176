"""Data sets by name."""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

from dassl.utils.registry import Registry

DATASET_REGISTRY = Registry("DATASET", "Loading dataset")


def build_dataset(cfg: CfgNode) -> Any:
    """The data set `cfg.DATASET.NAME`.

    Raises:
        UnknownNameError: there is no such name; the available ones are listed.
    """
    return DATASET_REGISTRY.build(cfg.DATASET.NAME, cfg.VERBOSE, cfg)
