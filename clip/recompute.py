"""Activation checkpointing for functions that are differentiated more than once.

`torch.utils.checkpoint` works through saved-tensor hooks, which `torch.func` does not allow, and keeps what a
differentiable backward pass saves. Here the derivative of a recomputed function is itself a recomputed function, so at
every order only the inputs are kept:

    f(x)  ->  f'(x, dy) = vjp of f  ->  f''(x, dy, ddx) = vjp of f'  ->  ...

The price is a forward pass for each backward pass, and a backward pass for each pass back through that.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import torch
from torch import Tensor
from torch.func import vjp
from torch.nn.attention import SDPBackend, sdpa_kernel

Tensors = tuple[Tensor, ...]
Function = Callable[..., Tensors]


def recomputed(function: Function, *inputs: Tensor) -> Tensors:
    """function(*inputs), of which only the inputs are kept for derivatives of any order.

    Args:
        function: maps floating-point tensors to a tuple of tensors and depends on nothing else that is differentiated.
    """
    return _Recomputed.apply(_with_current_autocast(function, inputs[0].device.type), *inputs)


class _Recomputed(torch.autograd.Function):
    @staticmethod
    def forward(function: Function, *inputs: Tensor) -> Tensors:
        return function(*inputs)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensors) -> None:
        ctx.function, *tensors = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        gradients = _Recomputed.apply(_gradient_of(ctx.function, len(tensors)), *tensors, *cotangents)
        return None, *gradients


def _gradient_of(function: Function, inputs: int) -> Function:
    """(inputs, cotangents of the outputs) -> cotangents of the inputs"""

    def gradient(*tensors: Tensor) -> Tensors:
        _, pullback = cast("tuple[Tensors, Callable[..., Tensors]]", vjp(function, *tensors[:inputs]))
        return pullback(tensors[inputs:])

    return gradient


def _with_current_autocast(function: Function, device: str) -> Function:
    """`function` under the autocast state of this moment, with attention that can be differentiated again."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

    def run(*tensors: Tensor) -> Tensors:
        with torch.autocast(device, dtype, enabled), twice_differentiable_attention():
            return function(*tensors)

    return run


def twice_differentiable_attention() -> AbstractContextManager:
    """Fused attention kernels do not have a second derivative: use plain matrix products."""
    return sdpa_kernel(SDPBackend.MATH)
