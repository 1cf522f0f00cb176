"""The published settings of the methods recorded later, as this project's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

WORDS = "a photo of a"
"""What a true CTX_INIT stands for in the code of KgCoOp and TCP."""

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


def _tcp(options: Options) -> dict[str, Any]:
    """W and CLASS_LAYER are literals in the published code."""
    coop = _coop(options)
    own = {"N_CTX": coop["N_CTX"], "CTX_INIT": WORDS if coop["CTX_INIT"] else "", "W": 8.0, "CLASS_LAYER": 8}
    return {f"TRAINER.TCP.{key}": value for key, value in (own | {"PREC": "fp32"}).items()}


def _coprompt(options: Options) -> dict[str, Any]:
    """W and DISTILL stand outside of the published node."""
    return {f"TRAINER.COPROMPT.{key.rpartition('.')[2]}": value for key, value in options.items()}


def _unchanged(options: Options) -> Options:
    return options


OURS: dict[str, Callable[[Options], Options]] = {
    "KgCoOp": _kgcoop,
    "ProGrad": _prograd,
    "PromptSRC": _unchanged,
    "TCP": _tcp,
    "MultiModalAdapter": _unchanged,
    "CoPrompt": _coprompt,
}
"""By trainer: published options -> ours. PromptSRC and MultiModalAdapter keep their nodes."""


def our_options(trainer: str, options: list[Any]) -> list[Any]:
    """KEY VALUE pairs of this project for those of the published code."""
    ours = OURS[trainer](dict(zip(options[::2], options[1::2], strict=True)))
    return [word for pair in ours.items() for word in pair]


def our_settings(settings: dict) -> dict:
    """The settings of a recording, with this project's options; Adam's epsilon is one of the optimiser's."""
    epsilon = {"ADAM_EPS": settings["adam_eps"]} if settings.get("adam_eps") else {}
    options = our_options(settings["trainer"], settings["options"])
    return settings | {"options": options, "optim": settings["optim"] | epsilon}
