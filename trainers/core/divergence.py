"""How far the class probabilities of a prompted CLIP are from those of the frozen one."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

REDUCTIONS = ("mean", "batchmean")


def divergence(teacher_logits: Tensor, logits: Tensor, reduction: str) -> Tensor:
    """KL(p0 || p), summed over images and classes and then divided.

    Args:
        teacher_logits: [B, C], of p0.
        logits: [B, C], of p.
        reduction: What to divide by: images times classes (mean, as PromptSRC published it), or images (batchmean).

    Returns:
        A scalar.
    """
    log_p0, log_p = teacher_logits.log_softmax(dim=-1), logits.log_softmax(dim=-1)
    total = F.kl_div(log_p, log_p0, reduction="sum", log_target=True)
    return total / (logits.numel() if reduction == "mean" else len(logits))
