"""Top-k accuracy."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def compute_accuracy(
    output: torch.Tensor | Sequence[torch.Tensor], target: torch.Tensor, topk: tuple[int, ...] = (1,)
) -> list[torch.Tensor]:
    """Percentage of rows whose target is among the `k` largest scores, for each `k`.

    Args:
        output: scores [batch, classes]; of a list or tuple the first entry.
        target: labels [batch].

    Returns:
        One tensor of shape [1] per entry of `topk`, in percent.
    """
    scores = output[0] if isinstance(output, Sequence) else output
    hits = scores.topk(max(topk), dim=1).indices == target.view(-1, 1)  # [batch, max k]
    return [hits[:, :k].any(dim=1).float().mean().mul(100.0).view(1) for k in topk]
