"""What a config file's name stands for: its settings over the defaults."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from dassl.config import leaves, merge_file, plain
from experiments.plan.runs import ROOT, default_config

CONFIGS = ROOT / "configs" / "trainers"


@cache
def declared(trainer: str, config: str) -> Mapping[str, Any]:
    """Settings by dotted key of a trainer's config file; empty where this project has no such file, or several.

    A name may have a variant's name behind an @, which is not part of the file's.

    Raises:
        UserError: the file cannot be read.
    """
    found = list(CONFIGS.glob("*/*.yaml"))
    found = [path for path in found if path.stem == config.partition("@")[0]]
    found = [path for path in found if path.parent.name == trainer] or found
    if len(found) != 1:
        return {}
    cfg = default_config().clone()
    merge_file(cfg, str(found[0]))
    return dict(leaves(plain(cfg)))
