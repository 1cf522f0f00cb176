"""Data sets in CoOp's folder layout; importing this package registers all of them.

Each module is one reader and is found automatically; `layout` has their common code. `python -m datasets.check`
verifies data on disk, `python -m datasets.prepare` downloads it.
"""

from __future__ import annotations

import importlib
import pkgutil

from yacs.config import CfgNode

from dassl.command_line import end_imports_of_package_in_one_line, only_help_is_asked_for

end_imports_of_package_in_one_line()

__all__ = ["DRAW_KEY", "FILE_KEYS", "add_config"]

PROGRAMS = ("check", "prepare")
DRAW_KEY = "DATASET.FEWSHOT_SPLIT"
FILE_KEYS = (DRAW_KEY, "DATASET.PATH", "DATASET.CLASSNAMES")
"""Keys that may name a file which says what the images and classes are."""


def add_config(cfg: CfgNode) -> None:
    """Add this package's keys to `cfg.DATASET`; the readers also work without them."""
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"  # all, base or new
    cfg.DATASET.FEWSHOT_SPLIT = ""  # a draw file (JSON, or JSON lines) to use instead of drawing with the seed
    cfg.DATASET.SPLITS_DIR = ""  # folder for the split and draw files that a run writes; "": beside the data
    cfg.DATASET.PATH = ""  # custom data: the image folder (ImageFolder) or CSV file (ImageCSV)
    cfg.DATASET.CLASSNAMES = ""  # custom data: text file with a folder or label and its class name on each line


if not only_help_is_asked_for():
    for _module in pkgutil.iter_modules(__path__):
        if not _module.ispkg and _module.name not in PROGRAMS:
            importlib.import_module(f"{__name__}.{_module.name}")
