"""Diagnostics for runs stopped by NaN or infinite values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from dassl.utils.errors import UserError
from dassl.utils.names import listed

EXAMPLES = 2
"""Number of names of one kind in a message."""
DETAILS_NAME = "non_finite.txt"
"""File in the output folder with what stopped a run."""


class NonFiniteError(UserError, FloatingPointError):
    """A loss, a gradient, a learned tensor or a logit is infinite or NaN."""


def non_finite_tensors(models: Mapping[str, nn.Module | None], gradients: bool = True) -> list[str]:
    """`<model>/<parameter>` and the number of NaN or infinite values, of each parameter or gradient that has some."""
    found = []
    for model_name, model in models.items():
        for name, parameter in model.named_parameters() if model is not None else ():
            for kind, values in (("", parameter), ("gradient of ", parameter.grad if gradients else None)):
                if values is not None and not torch.isfinite(values).all():
                    bad = values.numel() - int(torch.isfinite(values).sum())
                    found.append(f"{kind}{model_name}/{name} ({bad:,} of {values.numel():,} values)")
    return found


def non_finite_losses(values: Mapping[str, Any] | None) -> list[str]:
    """`<name> = <value>` of each NaN or infinite loss among the values that a training step reports."""
    losses = {name: float(value) for name, value in (values or {}).items() if "loss" in name}
    return [f"{name} = {value}" for name, value in losses.items() if not math.isfinite(value)]


def details(losses: Sequence[str], tensors: Sequence[str], images: Sequence[str], before: Sequence[str]) -> str:
    """The text of `DETAILS_NAME`.

    Args:
        losses: as from `non_finite_losses`.
        tensors: as from `non_finite_tensors`.
        images: paths of the batch.
        before: paths of the batch before.
    """
    sections = {
        "losses": losses,
        "tensors": tensors,
        "images of the batch": images,
        "images of the batch before, whose update may have spoiled the tensors": before,
    }
    return "".join(f"{title}:\n" + "".join(f"  {name}\n" for name in names) for title, names in sections.items())


def check_logits(
    logits: torch.Tensor, images: Sequence[Any] = (), models: Mapping[str, nn.Module | None] | None = None
) -> None:
    """Check that logits are finite: the maximum of others is not a prediction.

    Args:
        logits: [B, C].
        images: the paths of the B images, if known.
        models: searched for tensors that are not finite.

    Raises:
        NonFiniteError: one is infinite or NaN; the message names the images and the tensors.
    """
    bad = (~torch.isfinite(logits)).flatten(1).any(dim=1)  # [B]
    if not bad.any():
        return
    rows = bad.nonzero().flatten().tolist()
    tensors = non_finite_tensors(models or {}, gradients=False)
    message = (
        "use another checkpoint, or TRAINER.<name>.PREC fp32 if the trainer has it: "
        f"the logits of {len(rows)} of {len(bad)} images in a batch are NaN or infinite"
    )
    if len(images) == len(bad):
        message += f"; images: {listed([str(images[row]) for row in rows], EXAMPLES)}"
    if tensors:
        message += f"; tensors: {listed(tensors, EXAMPLES)}"
    elif models:
        message += "; all of the model's parameters are finite"
    raise NonFiniteError(message)


def image_paths(batches: Iterable[Any]) -> list[str]:
    """The paths of all images in the batches of one training step, if the batches contain them."""
    return [str(path) for batch in batches if isinstance(batch, Mapping) for path in batch.get("impath", ())]
