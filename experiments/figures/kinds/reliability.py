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
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from experiments.figures.drawing import BLUE, GREY, LIGHT, ORANGE, Asked, Drawing
from experiments.figures.predictions import Predictions, read_predictions

BINS = 15


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
    places = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)  # [N], a bin holds its end
    images = np.bincount(places, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = {
            name: np.bincount(places, weights=values, minlength=BINS) / images
            for name, values in (("accuracy", correct.astype(float)), ("confidence", confidence))
        }
    return pd.DataFrame({"images": images, **means})


def calibration_error(bins: pd.DataFrame) -> float:
    """ECE of bins, from 0 to 1."""
    accuracy, confidence, images = (bins[name].to_numpy() for name in ("accuracy", "confidence", "images"))
    filled = images > 0
    return float(np.average(np.abs(accuracy - confidence)[filled], weights=images[filled]))


def _drawing(run: Path, predictions: Predictions) -> Drawing:
    bins = reliability_bins(predictions.confidence, predictions.correct)
    error, accuracy = calibration_error(bins), predictions.correct.mean()
    confidence = predictions.confidence.mean()
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
