"""Probabilities, labels, ramps and moving averages for semi-supervised trainers."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def sharpen_prob(p: Tensor, temperature: float = 2) -> Tensor:
    """Probabilities [B, K] to the power of `temperature`, with sum 1 again."""
    powers = p.pow(temperature)
    return powers / powers.sum(1, keepdim=True)


def reverse_index(data: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the first dimension in reverse order."""
    return data.flip(0), label.flip(0)


def shuffle_index(data: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Both with the first dimension in the same random order."""
    order = torch.randperm(len(data)).to(data.device)
    return data[order], label[order.to(label.device)]


def create_onehot(label: Tensor, num_classes: int) -> Tensor:
    """Labels [B] -> float32 [B, num_classes], 1 at the label."""
    return torch.zeros(len(label), num_classes, device=label.device).scatter_(1, label.long().unsqueeze(1), 1.0)


def sigmoid_rampup(current: float, rampup_length: float) -> float:
    """From exp(-5) at 0 to 1 at `rampup_length` and after (Laine and Aila, ICLR 2017); 1 for a length of 0."""
    if rampup_length == 0:
        return 1.0
    phase = 1 - min(max(current, 0.0), rampup_length) / rampup_length
    return math.exp(-5 * phase * phase)


def linear_rampup(current: float, rampup_length: float) -> float:
    """From 0 at 0 to 1 at `rampup_length` and after; 1 for a length of 0."""
    return min(max(current / rampup_length, 0.0), 1.0) if rampup_length else 1.0


@torch.no_grad()
def ema_model_update(model: nn.Module, ema: nn.Module, decay: float) -> None:
    """ema <- decay * ema + (1 - decay) * model, over the parameters; `model` stays as it is."""
    for average, current in zip(ema.parameters(), model.parameters(), strict=True):
        average.lerp_(current.to(average), 1 - decay)
