"""Gradients of all learned tensors, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import vjp

Gradients = dict[str, Tensor]


def for_each(
    function: Callable[..., tuple[Tensor, ...]],
    first: Mapping[str, Tensor],
    other: Mapping[str, Tensor] | float,
    **options: float,
) -> Gradients:
    """A function of two lists of tensors (`torch._foreach_add` and the like: one operation for all) of named tensors.

    Args:
        function: takes a list of tensors, and a list or a number.
        first: tensors by name.
        other: tensors of the same names, or a number.
        options: passed on to the function.

    Returns:
        The results by the names of `first`.
    """
    second = [other[name] for name in first] if isinstance(other, Mapping) else other
    return dict(zip(first, function(list(first.values()), second, **options), strict=True))


def vjp_with_aux(function: Callable[..., tuple[Any, Any]], *inputs: Any) -> tuple[Any, Callable[..., Any], Any]:
    """`torch.func.vjp` of a function that returns what is differentiated, and something else.

    Returns:
        The first; the function that pulls its cotangents back to `inputs`; and the second.
    """
    return cast("tuple[Any, Callable[..., Any], Any]", vjp(function, *inputs, has_aux=True))


def unstacked(stacked: Mapping[str, Tensor]) -> tuple[Gradients, ...]:
    """K times tensors [...] by name, from tensors [K, ...] by name."""
    count = len(next(iter(stacked.values())))
    return tuple({name: tensor[k] for name, tensor in stacked.items()} for k in range(count))


def descend(optimizer: torch.optim.Optimizer, module: nn.Module, gradients: Mapping[str, Tensor]) -> None:
    """One optimiser step of a module's parameters along the given gradients."""
    for name, parameter in module.named_parameters():
        parameter.grad = gradients[name].to(parameter.dtype)
    optimizer.step()
    optimizer.zero_grad()
