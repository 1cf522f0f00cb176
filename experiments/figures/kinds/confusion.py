"""What is predicted for the images of each class, in percent, from a run's predictions.

Up to 25 classes are shown in full. Of more, those that are confused most are shown, with one column for all others, and
beside them the pairs that are confused most often.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from dassl.evaluation.confusion import Confusion
from experiments.figures.drawing import ORANGE, Asked, Drawing, named_bars, shortened
from experiments.figures.predictions import Predictions, read_predictions

SHOWN_IN_FULL = 25
SHOWN = 20
OTHERS = "all others"


def draw(asked: Asked) -> Iterator[Drawing]:
    """A confusion matrix of each run."""
    for run in asked.runs:
        yield _drawing(run, read_predictions(run))


def confusion_counts(predictions: Predictions) -> NDArray[np.int64]:
    """[C, C] how often the images of a class (row) are taken for a class (column)."""
    size = len(predictions.classnames)
    pairs = np.ravel_multi_index((predictions.labels, predictions.predicted), (size, size))
    return np.bincount(pairs, minlength=size * size).reshape(size, size)


def confused_pairs(predictions: Predictions, most: int) -> list[tuple[int, int, int]]:
    """(true class, predicted class, number of images) of the most frequent mistakes, the most frequent first."""
    classes = (torch.from_numpy(each).long() for each in (predictions.labels, predictions.predicted))
    return Confusion.of(*classes).most_confused(most)


def most_confused(predictions: Predictions, most: int) -> list[int]:
    """Classes of the most frequent mistakes, in ascending order; as many as fit into `most`."""
    chosen: set[int] = set()
    for true, predicted, _ in confused_pairs(predictions, most * most):
        if len(chosen | {true, predicted}) <= most:
            chosen |= {true, predicted}
    return sorted(chosen)


def percentages(counts: NDArray[np.int64], shown: Sequence[int]) -> NDArray[np.float64]:
    """Rows of the shown classes in percent of their images, NaN for a class without images.

    Returns:
        [S, S + 1]; the last column is for all classes that are not shown.
    """
    rows = counts[list(shown)]
    images = rows.sum(axis=1, keepdims=True)  # [S, 1]
    inside = rows[:, list(shown)]
    both = np.concatenate([inside, images - inside.sum(axis=1, keepdims=True)], axis=1)
    return np.where(images > 0, 100.0 * both / np.maximum(images, 1), np.nan)


def _drawing(run: Path, predictions: Predictions) -> Drawing:
    counts = confusion_counts(predictions)
    size, names = len(counts), [shortened(name) for name in predictions.classnames]
    mistakes = int((~predictions.correct).sum())
    summary = f"{run}: {size:,} classes, {mistakes:,} of {len(predictions.labels):,} images are taken for another class"
    if size <= SHOWN_IN_FULL:
        inches = 0.27 * max(size, 6) + 0.06 * max(map(len, names))  # the matrix and the names on either side
        figure = Figure(figsize=(inches + 1, inches + 0.4))
        _matrix(figure.subplots(), percentages(counts, range(size))[:, :size], names, names)
        return Drawing(run, figure, summary)
    shown = most_confused(predictions, SHOWN)
    figure = Figure(figsize=(12.5, 6.3))
    left, right = figure.subplots(1, 2, width_ratios=(1.35, 1))
    if not shown:
        left.text(0.5, 0.5, "no image is taken for another class", ha="center")
    else:
        rows = [names[label] for label in shown]
        _matrix(left, percentages(counts, shown), rows, [*rows, OTHERS])
        left.set_title(f"the {len(shown)} of {size:,} classes with the most frequent mistakes", loc="left")
    _pairs(right, confused_pairs(predictions, SHOWN), predictions.classnames)
    return Drawing(run, figure, summary)


def _matrix(axes: Axes, percent: NDArray[np.float64], rows: Sequence[str], columns: Sequence[str]) -> None:
    image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(columns)), columns, rotation=90)
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel="predicted class", ylabel="true class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (row, column), value in np.ndenumerate(percent):
        if value >= 0.5:  # smaller shares would be a 0
            colour = "white" if value > 55 else "black"
            axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=6)
    for row in np.flatnonzero(np.isnan(percent).all(axis=1)):
        axes.text(0, float(row), "no images", va="center", fontsize=6)
    bar = axes.figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02)
    bar.set_label("share of the class (%)")
    bar.outline.set_visible(False)


def _pairs(axes: Axes, pairs: Sequence[tuple[int, int, int]], names: Sequence[str]) -> None:
    labels = [f"{shortened(names[true], 20)} → {shortened(names[other], 20)}" for true, other, _ in pairs]
    counts = [count for *_, count in pairs]
    named_bars(axes, counts, labels, [f"{count:,}" for count in counts], color=ORANGE)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("images")
    axes.set_title("the most frequent mistakes (true → predicted)", loc="left")
