"""Two groups of images, known and new, told apart by a score; exact, by counting pairs."""

from __future__ import annotations

import torch
from torch import Tensor


def _pairs(known: Tensor, new: Tensor) -> tuple[int, int]:
    """Number of pairs (known image, new image) in which the known one has the higher score, and an equal score."""
    new = new.sort().values
    # for each known score, how many new ones are lower, and how many are not higher
    lower = int(torch.searchsorted(new, known).sum())
    not_higher = int(torch.searchsorted(new, known, right=True).sum())
    return lower, not_higher - lower


def auroc(known: Tensor, new: Tensor) -> float:
    """Area under the ROC curve: the probability that a known image has a higher score than a new one.

    Equal scores count one half.

    Args:
        known: scores of the known images [N].
        new: scores of the new images [M].

    Returns:
        From 0 to 1.
    """
    higher, equal = _pairs(known, new)
    return (higher + equal / 2) / (len(known) * len(new))


def openworld_auc(known: Tensor, new: Tensor, known_correct: Tensor, new_correct: Tensor) -> float:
    """OpenworldAUC of Hua et al., "OpenworldAUC: Towards Unified Evaluation and Optimization for Open-world Prompt
    Tuning", ICML 2025: the probability that a known image has a strictly higher score than a new one, and both are
    classified right in their own group.

    Args:
        known: scores of the known images [N].
        new: scores of the new images [M].
        known_correct: whether each known image is classified right among the known classes [N].
        new_correct: whether each new image is classified right among the new classes [M].

    Returns:
        From 0 to 1; never more than `auroc`.
    """
    higher, _ = _pairs(known[known_correct.bool()], new[new_correct.bool()])
    return higher / (len(known) * len(new))


def harmonic_mean(first: float, second: float) -> float:
    """0 if both are 0."""
    return 2 * first * second / (first + second) if first + second else 0.0
