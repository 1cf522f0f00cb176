"""Data sets by name."""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

from dassl.utils.registry import Registry

DATASET_REGISTRY = Registry("DATASET")


def build_dataset(cfg: CfgNode) -> Any:
    """The data set `cfg.DATASET.NAME`.

    Raises:
        UnknownNameError: there is no such name; the available ones are listed.
    """
    dataset = DATASET_REGISTRY.get(cfg.DATASET.NAME)
    if cfg.VERBOSE:
        print(f"Loading dataset: {cfg.DATASET.NAME}")
    return dataset(cfg)
