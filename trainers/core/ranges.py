"""Which numbers make sense in the methods' settings."""

from __future__ import annotations

import math

from yacs.config import CfgNode

from dassl.config.ranges import BELOW_ONE, POSITIVE, Range, at_least, between, check_values
from dassl.config.ranges import check_ranges as check_ranges_of_dassl

MOST_TOKENS = 10_000
"""Far more than any tower takes; a slip of the keyboard shall not ask for terabytes."""

IN_FLOAT32 = Range(lambda value: 2.0**-126 <= value <= 2.0**127, "above 0, and within the range of float32")
"""Parameters of a Beta distribution, which draws in float32."""

_RANGES = {
    "N_CTX": between(1, MOST_TOKENS),
    "N_CTX_TEXT": between(1, MOST_TOKENS),
    "N_CTX_VISION": between(0, MOST_TOKENS),  # with visual prompts, at least 1
    "PROMPT_DEPTH": at_least(1),
    "PROMPT_DEPTH_TEXT": at_least(1),
    "PROMPT_DEPTH_VISION": at_least(0),
    "TEXT_LOSS_WEIGHT": at_least(0),
    "IMAGE_LOSS_WEIGHT": at_least(0),
    "ADAPT_LR": at_least(0),
    "LR_RATIO": at_least(0),
    "MIXUP_ALPHA": IN_FLOAT32,
    "MIXUP_BETA": IN_FLOAT32,
    "DIM_RATE": at_least(1),
    "W": at_least(0),
    "T": POSITIVE,
    "LAMBDA": at_least(0),
    "GPA_MEAN": Range(math.isfinite, "a finite number"),
    "GPA_STD": POSITIVE,
    "CLASS_LAYER": at_least(1),
    "ADAPTER_START": at_least(0),
    "ADAPTER_END": at_least(0),
    "ADAPTER_DIM": between(1, MOST_TOKENS),
    "ADAPTER_SCALE": POSITIVE,
    "CLAP_WEIGHT": at_least(0),
    "RANK": between(1, MOST_TOKENS),
    "LORA_ALPHA": POSITIVE,
    "DROPOUT": BELOW_ONE,
}
"""By the key's name, which means the same in every method."""


def check_all_ranges(cfg: CfgNode) -> None:
    """Check the numbers of all keys.

    Raises:
        BadValueError: a number is out of its range; the message names the key.
    """
    check_ranges_of_dassl(cfg, optimisers=("OPTIM", "OPTIM_VNET"))
    check_values(cfg, {"TRAINER.TEXT_CHUNK": at_least(0)})
    for node, settings in cfg.TRAINER.items():
        if isinstance(settings, CfgNode):
            check_values(cfg, {f"TRAINER.{node}.{key}": range_ for key, range_ in _RANGES.items()})
