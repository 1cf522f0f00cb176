"""Counts of labels and predictions, and what follows from them alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Confusion:
    """How often each label was predicted as each class; only pairs that occur are kept."""

    labels: Tensor
    """[pairs]"""
    predicted: Tensor
    """[pairs]"""
    counts: Tensor
    """[pairs]"""

    @staticmethod
    def of(labels: Tensor, predicted: Tensor) -> Confusion:
        """Args:
        labels: of the images [N].
        predicted: classes [N].
        """
        size = int(max(labels.max(), predicted.max())) + 1
        pairs, counts = torch.unique(labels * size + predicted, return_counts=True)
        return Confusion(pairs // size, pairs % size, counts)

    @property
    def size(self) -> int:
        """The largest label or predicted class, plus 1."""
        return int(max(self.labels.max(), self.predicted.max())) + 1

    def _summed(self, of: Tensor, only: Tensor | None = None) -> Tensor:
        """Counts by class [size], float64."""
        counts = self.counts.double() if only is None else self.counts.double() * only
        return torch.bincount(of, counts, minlength=self.size)

    @property
    def hits(self) -> Tensor:
        """Number of right predictions of each label [size]."""
        return self._summed(self.labels, self.labels == self.predicted)

    @property
    def labelled(self) -> Tensor:
        """Number of images of each label [size]."""
        return self._summed(self.labels)

    def accuracies(self) -> dict[int, float]:
        """Accuracy in percent of each class that occurs as a label."""
        pairs = enumerate(zip(self.hits.tolist(), self.labelled.tolist(), strict=True))
        return {label: 100.0 * correct / total for label, (correct, total) in pairs if total}

    def macro_accuracy(self) -> float:
        """Mean of `accuracies`."""
        accuracies = self.accuracies()
        return sum(accuracies.values()) / len(accuracies)

    def macro_f1(self) -> float:
        """Mean of the F1 scores of the classes that occur as labels, from 0 to 1."""
        f1 = 2 * self.hits / (self.labelled + self._summed(self.predicted)).clamp(min=1)
        return f1[self.labelled > 0].mean().item()

    def most_confused(self, most: int) -> list[tuple[int, int, int]]:
        """Label, predicted class and count of the most frequent errors; of equal counts, the lower label first."""
        wrong = self.labels != self.predicted
        triples = zip(*(each[wrong].tolist() for each in (self.labels, self.predicted, self.counts)), strict=True)
        return sorted(triples, key=lambda triple: (-triple[2], *triple[:2]))[:most]

    def matrix(self) -> Tensor:
        """Rows divided by their sums [seen, seen], over the classes that occur as label or prediction."""
        seen = torch.cat([self.labels, self.predicted]).unique()
        matrix = torch.zeros(len(seen), len(seen), dtype=torch.float64)
        matrix[torch.searchsorted(seen, self.labels), torch.searchsorted(seen, self.predicted)] = self.counts.double()
        return matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)
