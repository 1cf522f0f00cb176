"""What an evaluation keeps of each image, computed batch by batch: memory does not grow with the number of classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dassl.utils.errors import BadValueError

TOP = 5
"""Number of classes that are kept of each image."""


class Outcomes(NamedTuple):
    """N images with K = min(5, classes) of their classes. Probabilities are float64, everything lies on the CPU."""

    labels: Tensor
    """[N]"""
    top: Tensor
    """Classes of the K largest scores in descending order [N, K]; the first is the prediction."""
    scores: Tensor
    """Probabilities of `top` [N, K]."""
    label_scores: Tensor
    """Probability of the label [N]."""
    log_likelihood: Tensor
    """Natural logarithm of the label's probability [N]."""
    brier: Tensor
    """Sum over the classes of (probability - 1 for the label, 0 for others)^2 [N]."""

    @staticmethod
    def of_batch(scores: Tensor, log_probabilities: Tensor, labels: Tensor) -> Outcomes:
        """The outcomes of a batch.

        Args:
            scores: the model's scores [B, C].
            log_probabilities: as `log_probabilities` returns them [B, C].
            labels: [B].

        Raises:
            BadValueError: a label is not one of the C classes.
        """
        classes, on_cpu = scores.shape[1], labels.cpu()
        if len(on_cpu) and not 0 <= int(on_cpu.min()) <= int(on_cpu.max()) < classes:
            raise BadValueError(
                f"the labels go from {on_cpu.min()} to {on_cpu.max()}, but the model has {classes} classes"
            )
        column, probabilities = labels.long()[:, None], log_probabilities.exp()
        predicted = scores.argmax(dim=1, keepdim=True)  # [B, 1]
        # of equal scores, `topk` may take another class than `argmax`
        top = scores.scatter(1, predicted, float("inf")).topk(min(TOP, classes), dim=1).indices  # [B, K]
        label_scores = probabilities.gather(1, column)[:, 0]
        found = (
            top,
            probabilities.gather(1, top),
            label_scores,
            log_probabilities.gather(1, column)[:, 0],
            probabilities.square().sum(dim=1) - 2 * label_scores + 1,
        )
        return Outcomes(on_cpu.long(), *(tensor.cpu() for tensor in found))

    @property
    def predicted(self) -> Tensor:
        """[N]"""
        return self.top[:, 0]

    @property
    def correct(self) -> Tensor:
        """[N], bool"""
        return self.predicted == self.labels

    @property
    def confidence(self) -> Tensor:
        """Probability of the prediction [N]."""
        return self.scores[:, 0]


def are_probabilities(scores: Tensor) -> bool:
    """Whether every row of the scores [B, C] is a distribution over the classes already."""
    return bool((scores >= 0).all()) and bool(((scores.double().sum(dim=1) - 1).abs() < 1e-3).all())


def log_probabilities(scores: Tensor, probabilities: bool) -> Tensor:
    """Natural logarithms of the probabilities, float64 [B, C].

    Args:
        scores: logits [B, C]; or probabilities, of which those of 0 count as the smallest number of their type.
    """
    if probabilities:
        return scores.double().clamp(min=torch.finfo(scores.dtype).tiny).log()
    return scores.double().log_softmax(dim=1)
