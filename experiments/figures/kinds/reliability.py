"""Accuracy against confidence in 15 bins, with the expected calibration error, from a run's predictions.

Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. Bin m holds the images whose confidence (the largest
probability) lies in ((m - 1) / M, m / M], and

    ECE = sum over m of |B_m| / N * |accuracy(B_m) - mean confidence(B_m)|
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dassl.metrics.calibration import BINS, expected_calibration_error
from experiments.figures.drawing import BLUE, GREY, LIGHT, ORANGE, Asked, Drawing
from experiments.figures.predictions import Predictions, read_predictions


def draw(asked: Asked) -> Iterator[Drawing]:
    """A reliability diagram of each run, above the histogram of its confidence."""
    for run in asked.runs:
        yield _drawing(run, read_predictions(run))


def reliability_bins(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> pd.DataFrame:
    """Bins of equal width, lowest first.

    Args:
        confidence: [N] the largest probability.
        correct: [N] whether the prediction is right.

    Returns:
        Columns `images`, `accuracy` and `confidence` (means, NaN in an empty bin), all as numbers from 0 to 1 but the
        number of images.
    """
    edges = np.arange(BINS + 1) / BINS
    bins = pd.cut(confidence, edges, labels=False, include_lowest=True)  # [N]; a bin contains its upper end
    by_bin: Any = pd.DataFrame({"accuracy": correct.astype(float), "confidence": confidence}).groupby(bins)
    return by_bin.mean().reindex(range(BINS)).assign(images=by_bin.size().reindex(range(BINS), fill_value=0))


def _drawing(run: Path, predictions: Predictions) -> Drawing:
    confidences, correct = predictions.confidence.astype(np.float64), predictions.correct
    bins = reliability_bins(confidences, correct)
    error = expected_calibration_error(torch.from_numpy(confidences), torch.from_numpy(correct))
    accuracy, confidence = correct.mean(), confidences.mean()
    figure = Figure(figsize=(3.3, 4.4))
    diagram, histogram = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    _diagram(diagram, bins, f"ECE {error:.1%}")
    _histogram(histogram, bins, accuracy, confidence)
    summary = (
        f"{run}: {len(predictions.labels):,} images, accuracy {accuracy:.1%}, mean confidence {confidence:.1%}, "
        f"ECE {error:.1%} ({BINS} bins)"
    )
    return Drawing(run, figure, summary)


def _diagram(axes: Axes, bins: pd.DataFrame, error: str) -> None:
    middle, width = (np.arange(len(bins)) + 0.5) / len(bins), 1 / len(bins)
    accuracy, gap = bins["accuracy"].fillna(0), (bins["confidence"] - bins["accuracy"]).fillna(0)
    axes.bar(middle, accuracy, width, color=BLUE, edgecolor="white", linewidth=0.5, label="accuracy")
    gap_style: dict[str, Any] = {"facecolor": "none", "edgecolor": ORANGE, "hatch": "//////", "linewidth": 0.8}
    axes.bar(middle, gap, width * 0.92, bottom=accuracy, label="gap to the confidence", **gap_style)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1)
    axes.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    axes.legend(loc="upper left", frameon=True, framealpha=0.9, edgecolor="white")
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": LIGHT}
    axes.text(0.96, 0.06, error, transform=axes.transAxes, ha="right", fontsize=9, bbox=box)


def _histogram(axes: Axes, bins: pd.DataFrame, accuracy: float, confidence: float) -> None:
    middle = (np.arange(len(bins)) + 0.5) / len(bins)
    share = 100 * bins["images"] / bins["images"].sum()
    axes.bar(middle, share, width=1 / len(bins), color=LIGHT, edgecolor="white", linewidth=0.5)
    for value, colour, name in ((accuracy, BLUE, "accuracy"), (confidence, ORANGE, "confidence")):
        axes.axvline(value, color=colour, linewidth=1.2, label=f"mean {name} {value:.1%}")
    axes.set(xlabel="confidence", ylabel="images (%)")
    axes.legend(loc="upper left")
