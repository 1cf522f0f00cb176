"""Mixup (Zhang et al., ICLR 2018)."""

from __future__ import annotations

import torch
from torch import Tensor


def mixup(
    x1: Tensor, x2: Tensor, y1: Tensor, y2: Tensor, beta: float, preserve_order: bool = False
) -> tuple[Tensor, Tensor]:
    """Mixtures lam * 1 + (1 - lam) * 2 with one lam ~ Beta(beta, beta) per image.

    Args:
        x1, x2: images [B, C, H, W].
        y1, y2: label distributions [B, K].
        preserve_order: take the larger of lam and 1 - lam, so that the first image dominates.

    Returns:
        Mixed images [B, C, H, W] and labels [B, K].
    """
    lam = torch.distributions.Beta(beta, beta).sample([len(x1), 1, 1, 1]).to(x1.device)
    if preserve_order:
        lam = torch.max(lam, 1 - lam)
    of_label = lam[:, :, 0, 0]  # [B, 1]
    return x1 * lam + x2 * (1 - lam), y1 * of_label + y2 * (1 - of_label)
