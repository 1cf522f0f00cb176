"""Gradient reversal (Ganin and Lempitsky, ICML 2015)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _ReverseGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, grad_scaling: float) -> Tensor:
        ctx.grad_scaling = grad_scaling
        return input.view_as(input)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (gradient,) = grad_outputs
        return -ctx.grad_scaling * gradient, None


class ReverseGrad(nn.Module):
    """Identity whose gradient is multiplied by `-grad_scaling`."""

    def forward(self, x: Tensor, grad_scaling: float = 1.0) -> Tensor:
        return _ReverseGrad.apply(x, grad_scaling)
