"""Valid values of the settings in `cfg.INPUT`, checked before the first image is read.

Those whose range is all that matters are in `dassl.config.ranges`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from yacs.config import CfgNode

from dassl.config.ranges import INPUT_RANGES, check_values
from dassl.utils.errors import BadValueError

_USED_BY = {
    "random_crop": ("CROP_PADDING",),
    "random_resized_crop": ("RRCROP_SCALE",),
    "randaugment": ("RANDAUGMENT_N", "RANDAUGMENT_M"),
    "randaugment_fixmatch": ("RANDAUGMENT_N",),
    "randaugment2": ("RANDAUGMENT_N",),
    "colorjitter": ("COLORJITTER_B", "COLORJITTER_C", "COLORJITTER_S", "COLORJITTER_H"),
    "gaussian_blur": ("GB_K",),
    "cutout": ("CUTOUT_N", "CUTOUT_LEN"),
    "normalize": ("PIXEL_MEAN", "PIXEL_STD"),
    "gaussian_noise": ("GN_MEAN", "GN_STD"),
}

_MAX_LENGTH = 10_000


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (int, float)) and math.isfinite(value) and low <= value <= high


def _whole(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _each(rule: Callable[[Any], bool], count: int) -> Callable[[Any], bool]:
    return lambda values: len(values) == count and all(map(rule, values))


_TINY = 1e-6
_RULES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "SIZE": (_each(_whole(1, _MAX_LENGTH), 2), f"height and width, from 1 to {_MAX_LENGTH}"),
    "CROP_PADDING": (_whole(0, _MAX_LENGTH), "a number of pixels"),
    "RRCROP_SCALE": (
        lambda value: _each(_number(_TINY, 100), 2)(value) and value[0] <= value[1],
        "the smallest and the largest part of the area, such as (0.08, 1.0)",
    ),
    "RANDAUGMENT_N": (_whole(0, 100), "a number of operations"),
    "RANDAUGMENT_M": (_whole(0, 30), "a strength from 0 to 30"),
    **{f"COLORJITTER_{part}": (_number(0, 100), "a strength of at least 0") for part in "BCS"},
    "COLORJITTER_H": (_number(0, 0.5), "a strength from 0 to 0.5"),
    "GB_K": (lambda value: _whole(1, _MAX_LENGTH)(value) and value % 2 == 1, "an odd number of pixels"),
    "CUTOUT_N": (_whole(0, 10_000), "a number of holes"),
    "CUTOUT_LEN": (_whole(0, _MAX_LENGTH), "a number of pixels"),
    "PIXEL_MEAN": (_each(_number(-1e6, 1e6), 3), "three numbers, one for each colour"),
    "PIXEL_STD": (_each(_number(_TINY, 1e6), 3), "three positive numbers, one for each colour"),
    "GN_MEAN": (_number(-1e6, 1e6), "a number"),
    "GN_STD": (_number(0, 1e6), "a number of at least 0"),
}


def check_input_settings(settings: CfgNode, choices: Iterable[str]) -> None:
    """Check the settings of `cfg.INPUT` that the chosen transforms use.

    Raises:
        BadValueError: one is invalid.
    """
    check_values(CfgNode({"INPUT": settings}), INPUT_RANGES)
    used = {key for choice in choices for key in _USED_BY.get(choice, ())}
    for key in ("SIZE", *sorted(used)):
        fits, expected = _RULES[key]
        if not fits(settings[key]):
            raise BadValueError(f"INPUT.{key} should be {expected}, not {settings[key]!r}")
