"""Data sets in CoOp's folder layout; importing this package registers all of them.

Each module holds one reader, which states only what is its own; ``base`` holds what they share.
``python -m datasets.check`` verifies data on disk, ``python -m datasets.prepare`` gets it.
"""

from dassl.command_line import end_imports_of_package_in_one_line

end_imports_of_package_in_one_line()

from datasets import (
    caltech101,
    dtd,
    eurosat,
    fgvc_aircraft,
    food101,
    imagenet,
    imagenet_a,
    imagenet_r,
    imagenet_sketch,
    imagenetv2,
    own_csv,
    own_folder,
    oxford_flowers,
    oxford_pets,
    shapes,
    stanford_cars,
    sun397,
    ucf101,
)
from datasets.config import add_config

__all__ = [
    "add_config",
    "caltech101",
    "dtd",
    "eurosat",
    "fgvc_aircraft",
    "food101",
    "imagenet",
    "imagenet_a",
    "imagenet_r",
    "imagenet_sketch",
    "imagenetv2",
    "oxford_flowers",
    "oxford_pets",
    "own_csv",
    "own_folder",
    "shapes",
    "stanford_cars",
    "sun397",
    "ucf101",
]
