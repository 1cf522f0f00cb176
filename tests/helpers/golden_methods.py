"""The published options of the methods recorded later, as this project's settings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

WORDS = "a photo of a"
"""What a true CTX_INIT stands for in KgCoOp's code."""

Options = Mapping[str, Any]


def _coop(options: Options) -> dict[str, Any]:
    return {key.removeprefix("TRAINER.COOP."): value for key, value in options.items() if "TRAINER.COOP." in key}


def _kgcoop(options: Options) -> dict[str, Any]:
    coop = _coop(options)
    words = WORDS if coop["CTX_INIT"] else ""
    own = {"N_CTX": coop["N_CTX"], "CTX_INIT": words, "CSC": coop.get("CSC", False), "W": coop["W"], "PREC": "fp32"}
    return {f"TRAINER.KGCOOP.{key}": value for key, value in own.items()}


def _prograd(options: Options) -> dict[str, Any]:
    coop = _coop(options) | {"T": options["LOSS.T"], "LAMBDA": options["LOSS.LAMBDA"]}
    coop["CTX_INIT"] = "template" if coop["CTX_INIT"] else ""
    return {f"TRAINER.PROGRAD.{key}": value for key, value in coop.items()}


OURS: dict[str, Callable[[Options], Options]] = {"KgCoOp": _kgcoop, "ProGrad": _prograd, "PromptSRC": lambda own: own}
"""By trainer: published options -> ours. PromptSRC keeps its node."""


def our_options(trainer: str, options: list[Any]) -> list[Any]:
    """KEY VALUE pairs of this project for those of the published code."""
    ours = OURS[trainer](dict(zip(options[::2], options[1::2], strict=True)))
    return [word for pair in ours.items() for word in pair]
