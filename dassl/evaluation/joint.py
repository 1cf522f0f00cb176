"""Known (base) and new classes evaluated together, in one label space."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from dassl.metrics import auroc, harmonic_mean, openworld_auc
from dassl.utils.errors import BadValueError

from .growing import GrowingTensors

MEASURES = ("base_accuracy", "new_accuracy", "harmonic_mean", "auroc", "openworld_auc")


class JointSpace:
    """Collects the joint measures batch by batch.

    An image's score for being of a base class is the largest probability of a base class, in the softmax over all
    classes.

    Args:
        base: the labels of the base classes; all other classes are new.
    """

    def __init__(self, base: Iterable[int]) -> None:
        self._labels = sorted(base)
        self.reset()

    def reset(self) -> None:
        """Forget what was added."""
        # of each image: whether its label is a base class; the log-probability of the most probable base class; whether
        # the best class of the label's own group, base or new, is the label
        self._kept = GrowingTensors()

    def add(self, scores: Tensor, log_probabilities: Tensor, labels: Tensor) -> None:
        """Add a batch: scores [B, C], logarithms of their probabilities [B, C], labels [B]."""
        is_base = torch.zeros(scores.shape[1], dtype=torch.bool, device=scores.device)  # [C]
        is_base[self._labels] = True
        base = is_base[labels]  # [B]
        elsewhere = is_base[None] != base[:, None]  # [B, C], classes of the other group
        best = scores.masked_fill(elsewhere, -float("inf")).argmax(dim=1)
        score = log_probabilities.masked_fill(~is_base, -float("inf")).amax(dim=1)
        self._kept.append(base, score, best == labels)

    def results(self, correct: Tensor) -> dict[str, float]:
        """The measures of `MEASURES`, in percent.

        Args:
            correct: whether each image is classified right among all classes [N], in the order of the batches.

        Raises:
            BadValueError: there are no base or no new images.
        """
        base, score, own = self._kept.columns()
        if base.all() or not base.any():
            raise BadValueError(
                f"a joint evaluation needs base and new images; here {int(base.sum())} of {len(base)} are base"
            )
        on_base, on_new = (correct[group].double().mean().item() for group in (base, ~base))
        measured = (
            on_base,
            on_new,
            harmonic_mean(on_base, on_new),
            auroc(score[base], score[~base]),
            openworld_auc(score[base], score[~base], own[base], own[~base]),
        )
        return {name: 100.0 * value for name, value in zip(MEASURES, measured, strict=True)}
