"""The configuration keys that the data sets add to Dassl's tree."""

from __future__ import annotations

from yacs.config import CfgNode

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
