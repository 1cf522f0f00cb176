"""Reliability diagrams and risk-coverage curves, from the predictions of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from experiments.figures.kinds.reliability import reliability_bins
from experiments.figures.predictions import Predictions

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """The curves of one method; the images of all seeds are pooled. All values are from 0 to 1.

    Args:
        confidence: mean confidence of each bin with images.
        accuracy: accuracy in that bin.
        coverage: share of the images that are kept, the most confident ones.
        risk: share of errors among them.
    """

    confidence: Float
    accuracy: Float
    coverage: Float
    risk: Float


def curves(evaluations: Sequence[Predictions]) -> Curves:
    """The curves of the evaluations together, in the bins of `reliability_bins`.

    Images of equal confidence are kept or dropped together, so the risk does not
    depend on their order.
    """
    confidence = np.concatenate([each.confidence for each in evaluations]).astype(np.float64)
    correct = np.concatenate([each.correct for each in evaluations])
    bins = reliability_bins(confidence, correct).dropna()
    order = np.argsort(-confidence, kind="stable")
    errors, kept = np.cumsum(~correct[order]), np.arange(1, len(order) + 1)
    ends = np.append(np.diff(confidence[order]) != 0, True)  # last image of each group of equal confidence
    return Curves(
        bins["confidence"].to_numpy(), bins["accuracy"].to_numpy(), kept[ends] / len(order), errors[ends] / kept[ends]
    )
