"""Valid ranges of the numbers in the configuration, checked before a run starts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from yacs.config import CfgNode

from dassl.utils.errors import BadValueError

from .node import find

MAX_WORKERS = 1024


class Range(NamedTuple):
    """The valid numbers of a key, as a test and in words."""

    includes: Callable[[float], bool]
    words: str


def at_least(lowest: int) -> Range:
    """Finite numbers that are not below `lowest`."""
    return Range(lambda value: lowest <= value and math.isfinite(value), f"at least {lowest}")


def between(lowest: int, highest: int) -> Range:
    """From `lowest` to `highest`, both included."""
    return Range(lambda value: lowest <= value <= highest, f"between {lowest} and {highest}")


FINITE = Range(math.isfinite, "a finite number")
POSITIVE = Range(lambda value: value > 0 and math.isfinite(value), "above 0")
BELOW_ONE = Range(lambda value: 0 <= value < 1, "at least 0 and below 1")
_BATCH = between(1, 2**31 - 1)

INPUT_RANGES = {
    "INPUT.MAX_PIXELS": between(1, 2**31),
    "INPUT.MAX_ASPECT_RATIO": between(1, 10_000),  # resized to a height of 224, such a strip takes 2 GB
    "INPUT.PIXEL_STD": POSITIVE,
    "INPUT.CROP_PADDING": at_least(0),
    "INPUT.RRCROP_SCALE": POSITIVE,
    "INPUT.GN_STD": at_least(0),
    "INPUT.RGS_P": between(0, 1),
    "INPUT.GB_P": between(0, 1),
}
_RANGES = INPUT_RANGES | {
    "DATASET.NUM_SHOTS": Range(lambda value: value >= -1, "at least 1 (-1 for all images, 0 for an evaluation only)"),
    "DATALOADER.NUM_WORKERS": between(0, MAX_WORKERS),
    "DATALOADER.K_TRANSFORMS": at_least(1),
    "DATALOADER.TRAIN_X.BATCH_SIZE": _BATCH,
    "DATALOADER.TRAIN_U.BATCH_SIZE": _BATCH,
    "DATALOADER.TEST.BATCH_SIZE": _BATCH,
    "TRAIN.CHECKPOINT_FREQ": at_least(0),
    "TRAIN.CHECKPOINT_SECONDS": at_least(0),
    "TRAIN.PRINT_FREQ": at_least(1),
}
_RANGES_OF_OPTIMISERS = {
    "LR": at_least(0),
    "WEIGHT_DECAY": at_least(0),
    "MOMENTUM": BELOW_ONE,
    "RMSPROP_ALPHA": between(0, 1),
    "ADAM_BETA1": BELOW_ONE,
    "ADAM_BETA2": BELOW_ONE,
    "ADAM_EPS": POSITIVE,
    "BASE_LR_MULT": at_least(0),
    "GAMMA": POSITIVE,
    "MAX_EPOCH": at_least(1),
    "WARMUP_CONS_LR": at_least(0),
    "WARMUP_MIN_LR": at_least(0),
}


def check_ranges(cfg: CfgNode, optimisers: tuple[str, ...] = ("OPTIM",)) -> None:
    """Check the numbers of Dassl's keys.

    Args:
        optimisers: nodes with the keys of OPTIM.

    Raises:
        BadValueError: a number is outside its range; the key is named.
    """
    check_values(cfg, _RANGES)
    for node in optimisers:
        check_values(cfg, {f"{node}.{key}": values for key, values in _RANGES_OF_OPTIMISERS.items()})


def check_values(cfg: CfgNode, ranges: Mapping[str, Range]) -> None:
    """Check the numbers, or lists of numbers, of those keys that `cfg` has.

    Raises:
        BadValueError: a number is outside its range; the key is named.
    """
    for key, range_ in ranges.items():
        value = find(cfg, key)
        if value is None:
            continue
        for number in value if isinstance(value, (list, tuple)) else [value]:
            if not isinstance(number, (int, float)) or not range_.includes(number):
                raise BadValueError(f"{key} is {value}, but should be {range_.words}")
