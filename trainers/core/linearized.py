"""Both towers' features as functions of a method's prompts, with their derivatives for several vectors at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from trainers.core.gradients import Gradients, unstacked, vjp_with_aux
from trainers.core.prompts import Prompts, Theta

Kept = TypeVar("Kept")
FeatureLosses = Callable[[Tensor, Tensor], tuple[Sequence[Tensor], Any]]
"""Features text [C, e] and image [B, e], not normalised -> K scalars, and anything else the caller needs."""


class Linearized:
    """Features of prompts theta, not normalised, with their derivatives with respect to every prompt tensor."""

    def __init__(self, prompts: Prompts, theta: Theta, images: Tensor) -> None:
        self.names = tuple(theta)
        sides = prompts.text_prompts, prompts.image_prompts
        self.sides = tuple(self.names if side is None else side for side in sides)
        self.traces = prompts.text_trace(theta), prompts.image_trace(theta, images)
        self.text, self.image = (trace.output for trace in self.traces)

    def gradients(
        self, losses: FeatureLosses, scale: Tensor | float | None = None
    ) -> tuple[tuple[Gradients, ...], Any]:
        """Gradients of K losses with respect to every prompt tensor.

        Args:
            losses: of the features.
            scale: factor of the gradients; None: 1.

        Returns:
            K gradients by name, and what else `losses` gave.
        """
        on_features, kept = feature_cotangents(losses, self.text, self.image, scale=scale)
        return unstacked(self.pull(*on_features)), kept

    def gradients_and_hessians(self, losses: FeatureLosses) -> tuple[tuple[Gradients, ...], Callable[..., Gradients]]:
        """As `gradients`; and second derivatives, which are computed on demand.

        Returns:
            K gradients by name; and a function of v_1 .. v_K, each tensors by name, that gives the sum of H_k v_k, with
            H_k the Hessian of loss k.
        """
        # the pullback of a gradient is the product with a Hessian, here that of the losses by the features
        on_features, curvature, _ = vjp_with_aux(partial(feature_cotangents, losses), self.text, self.image)
        gradients = unstacked(self.pull(*on_features))

        def hessians(*vectors: Gradients) -> Gradients:
            # H_k is symmetric, so H_k v_k is the change of gradient k along v_k: forward over reverse.
            # Forward along v through the towers, through the losses' own Hessian by the features, and back through the
            # towers, plus the change of the towers' derivatives along v
            along = {name: torch.stack([vector[name] for vector in vectors]) for name in self.names}  # [K, n, d]
            return self.second(*curvature(self.push(along)))

        return gradients, hessians

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
        text, image = (features.expand(count, *features.shape[1:]) for features, _ in pushed)
        return text, image

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
    losses: Callable[..., tuple[Sequence[Tensor], Kept]], *features: Tensor, scale: Tensor | float | None = None
) -> tuple[tuple[Tensor, ...], Kept]:
    """Gradients of several losses with respect to features; as a function of these it can be differentiated again.

    Args:
        losses: of the features; gives K scalars, and anything else the caller needs.
        features: what the losses are differentiated by.
        scale: factor of the gradients; None: 1.

    Returns:
        the gradients with respect to each of `features`, [K, ...]; what else `losses` gave.
    """
    values, pullback, kept = vjp_with_aux(losses, *features)
    one = scale if isinstance(scale, Tensor) else torch.full_like(values[0], 1.0 if scale is None else scale)
    if len(values) == 1:  # needs neither a zero nor a copy
        return tuple(gradient[None] for gradient in pullback((one,))), kept
    zero = torch.zeros_like(one)
    rows = [pullback(tuple(one if row == k else zero for row in range(len(values)))) for k in range(len(values))]
    return tuple(torch.stack(gradients) for gradients in zip(*rows, strict=True)), kept
