"""Gradients of all learned tensors, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import vjp

Gradients = dict[str, Tensor]
Theta = Mapping[str, Tensor]
"""Learned tensors by name."""


def add(first: Theta, second: Theta, factor: float = 1.0) -> Gradients:
    """first + factor * second for each name; one operation for all of them."""
    others = [second[name] for name in first]
    sums = torch._foreach_add(list(first.values()), others, alpha=factor)  # pyright: ignore[reportPrivateImportUsage] - the only name it has
    return dict(zip(first, sums, strict=True))


def multiply(first: Theta, second: Theta | float) -> Gradients:
    """first * second for each name; one operation for all of them."""
    others = [second[name] for name in first] if isinstance(second, Mapping) else second
    products = torch._foreach_mul(list(first.values()), others)  # pyright: ignore[reportPrivateImportUsage] - the only name it has
    return dict(zip(first, products, strict=True))


def scaled(x: Tensor, forward: float, backward: float) -> Tensor:
    """forward * x, whose gradient arrives times `backward` instead; differentiable any number of times."""
    return _Scaled.apply(x, forward, backward)


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, forward: float, backward: float) -> Tensor:
        return x * forward

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, ctx.forward_factor, ctx.backward_factor = inputs

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor, None, None]:
        return _Scaled.apply(*cotangents, ctx.backward_factor, ctx.forward_factor), None, None


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
