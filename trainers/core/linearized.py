"""Both towers' features as functions of a method's prompts, with their derivatives for several vectors at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.func import vjp

from trainers.core.prompts import Prompts, Theta

Gradients = dict[str, Tensor]
Kept = TypeVar("Kept")


class Linearized:
    """Features of prompts theta, not normalised, with their derivatives with respect to every prompt tensor."""

    def __init__(self, prompts: Prompts, theta: Theta, images: Tensor) -> None:
        self.names = tuple(theta)
        sides = prompts.text_prompts, prompts.image_prompts
        self.sides = tuple(self.names if side is None else side for side in sides)
        self.traces = prompts.text_trace(theta), prompts.image_trace(theta, images)
        self.text, self.image = (trace.output for trace in self.traces)

    @torch.no_grad()
    def pull(self, on_text: Tensor, on_image: Tensor) -> Gradients:
        """Cotangents of the features, [K, C, e] and [K, B, e] -> of every prompt tensor, [K, n, d]"""
        pulled = [trace.pull(each) for trace, each in zip(self.traces, (on_text, on_image), strict=True)]
        self._pulled = [kept for _, kept in pulled]
        return self._by_name(gradients for gradients, _ in pulled)

    @torch.no_grad()
    def push(self, tangents: Gradients) -> tuple[Tensor, Tensor]:
        """Tangents of every prompt tensor [K, n, d] -> of the features, [K, C, e] and [K, B, e]"""
        pushed = [
            trace.push(*(tangents[name] for name in names))
            for trace, names in zip(self.traces, self.sides, strict=True)
        ]
        self._pushed = [kept for _, kept in pushed]
        count = len(next(iter(tangents.values())))
        return tuple(features.expand(count, *features.shape[1:]) for features, _ in pushed)

    @torch.no_grad()
    def second(self, on_text: Tensor, on_image: Tensor) -> Gradients:
        """Derivative of what `pull` gave along what was pushed, plus the pull of these cotangents [C, e] and [B, e]"""
        each = zip(self.traces, (on_text, on_image), self._pulled, self._pushed, strict=True)
        return self._by_name(trace.second(*arguments) for trace, *arguments in each)

    def _by_name(self, sides: Iterable[Sequence[Tensor]]) -> Gradients:
        """Tensors of each side, in the order of theta; those that both sides depend on are summed"""
        found: Gradients = {}
        for names, tensors in zip(self.sides, sides, strict=True):
            for name, tensor in zip(names, tensors, strict=True):
                found[name] = found[name] + tensor if name in found else tensor
        return {name: found[name] for name in self.names}


def feature_cotangents(
    losses: Callable[..., tuple[Sequence[Tensor], Kept]], *features: Tensor, scale: Tensor | None = None
) -> tuple[tuple[Tensor, ...], Sequence[Tensor], Kept]:
    """Gradients of several losses with respect to features; as a function of these it can be differentiated again.

    Args:
        losses: of the features; gives K scalars, and what else is wanted of them.
        features: what the losses are differentiated by.
        scale: factor of the gradients; None: 1.

    Returns:
        the gradients with respect to each of `features`, [K, ...]; the K scalars; what else `losses` gave.
    """
    values, pullback, kept = vjp(losses, *features, has_aux=True)
    one, zero = torch.ones_like(values[0]) if scale is None else scale, torch.zeros_like(values[0])
    rows = [pullback(tuple(one if row == k else zero for row in range(len(values)))) for k in range(len(values))]
    return tuple(torch.stack(gradients) for gradients in zip(*rows, strict=True)), values, kept


def each(stacked: Gradients) -> tuple[Gradients, ...]:
    """Tensors [K, ...] by name -> K times tensors [...] by name"""
    count = len(next(iter(stacked.values())))
    return tuple({name: tensor[k] for name, tensor in stacked.items()} for k in range(count))
