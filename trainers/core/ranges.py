"""Which numbers make sense in the methods' settings."""

from __future__ import annotations

from yacs.config import CfgNode

from dassl.config.ranges import Range, at_least, between, check_values
from dassl.config.ranges import check_ranges as check_ranges_of_dassl

MOST_TOKENS = 10_000
"""Far more than any tower takes: a typing error must not ask for terabytes."""

IN_FLOAT32 = Range(lambda value: 2.0**-126 <= value <= 2.0**127, "above 0, and within the range of float32")
"""Parameters of a Beta distribution, which draws in float32."""

_SHARED_RANGES = {
    "N_CTX": between(1, MOST_TOKENS),
    "N_CTX_TEXT": between(1, MOST_TOKENS),
    "N_CTX_VISION": between(0, MOST_TOKENS),  # with visual prompts, at least 1
    "PROMPT_DEPTH": at_least(1),
    "PROMPT_DEPTH_TEXT": at_least(1),
    "PROMPT_DEPTH_VISION": at_least(0),
    "TEXT_LOSS_WEIGHT": at_least(0),
    "IMAGE_LOSS_WEIGHT": at_least(0),
    "W": at_least(0),
}
"""By key: sizes and weights that have one name in several methods. A method states its other ones (`ranges`)."""


RANGES_OF_METHODS: dict[str, dict[str, Range]] = {}
"""By config node: what the methods state, also those that a plug-in has replaced."""


def ranges_of(node: str) -> dict[str, Range]:
    """The ranges of all keys that a node below TRAINER may have."""
    return _SHARED_RANGES | RANGES_OF_METHODS.get(node, {})


def check_all_ranges(cfg: CfgNode) -> None:
    """Check the numbers of all keys.

    Raises:
        BadValueError: a number is out of its range; the message names the key.
    """
    check_ranges_of_dassl(cfg, optimisers=("OPTIM", "OPTIM_VNET"))
    check_values(cfg, {"TRAINER.TEXT_CHUNK": at_least(0)})
    for node, settings in cfg.TRAINER.items():
        if isinstance(settings, CfgNode):
            check_values(cfg, {f"TRAINER.{node}.{key}": range_ for key, range_ in ranges_of(node).items()})
