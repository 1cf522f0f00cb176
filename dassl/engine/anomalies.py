"""What a run that must stop, since its numbers are no longer numbers, can say about the cause."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from dassl.utils.errors import UserError

_SHOWN = 32


class NonFiniteLossError(UserError, FloatingPointError):
    """A loss, a gradient or a learned tensor became infinite or NaN."""


def non_finite_tensors(models: Mapping[str, nn.Module | None], gradients: bool = True) -> list[str]:
    """``<model>/<parameter>`` of each that holds NaN or infinite values, with how many; or whose gradient does."""
    found = []
    for model_name, model in models.items():
        for name, parameter in model.named_parameters() if model is not None else ():
            for kind, values in (("", parameter), ("gradient of ", parameter.grad if gradients else None)):
                if values is not None and not torch.isfinite(values).all():
                    bad = values.numel() - int(torch.isfinite(values).sum())
                    found.append(f"{kind}{model_name}/{name} ({bad:,} of {values.numel():,} values)")
    return found


def non_finite_losses(values: Mapping[str, Any] | None) -> list[str]:
    """``<name> = <value>`` of each loss in what a training step reports that is NaN or infinite."""
    losses = {name: float(value) for name, value in (values or {}).items() if "loss" in name}
    return [f"{name} = {value}" for name, value in losses.items() if not math.isfinite(value)]


def image_paths(batches: Iterable[Any]) -> list[str]:
    """The paths of all images in the batches of one training step, as far as these say them."""
    return [str(path) for batch in batches if isinstance(batch, Mapping) for path in batch.get("impath", ())]


def listed(names: Iterable[str]) -> str:
    """The names in one line, the rest of a long list as a number."""
    names = list(names)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
