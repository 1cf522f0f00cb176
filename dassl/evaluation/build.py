"""Evaluators by name."""

from __future__ import annotations

from typing import Any

from yacs.config import CfgNode

from dassl.utils.registry import Registry

EVALUATOR_REGISTRY = Registry("EVALUATOR", "Loading evaluator")


def build_evaluator(cfg: CfgNode, **kwargs: Any) -> Any:
    """The evaluator `cfg.TEST.EVALUATOR`.

    Raises:
        UnknownNameError: there is no such name; the available ones are listed.
    """
    return EVALUATOR_REGISTRY.build(cfg.TEST.EVALUATOR, cfg.VERBOSE, cfg, **kwargs)
