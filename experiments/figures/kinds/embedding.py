"""Image and class features before training (zero-shot CLIP) and after it, by their principal components.

Both panels have the same axes, so that positions can be compared: the first two principal components of the image
features of both. In each panel, image and class features are centred on their own means, because CLIP keeps the two far
apart. Up to 18 classes have a colour and a name; of more, 18 evenly spaced ones have, and all others are grey.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from experiments.figures.drawing import GREY, LIGHT, Asked, Drawing, shortened, spread
from experiments.figures.trained import UNKNOWN, Features, Labelled, TrainedRun, load_run

TAKES_IMAGES = True
COLOURS = [
    matplotlib.colormaps["tab20"](place) for place in (*range(0, 20, 2), *range(1, 20, 2)) if place not in (14, 15)
]
"""Without the two greys."""
NAMED = len(COLOURS)
MOST_IN_COLOUR, MOST_IN_GREY = 1000, 1000
"""Images of all named classes together, and of all others."""


def draw(asked: Asked) -> Iterator[Drawing]:
    """The features of each run.

    Raises:
        UserError: the model cannot be loaded, or there are no images.
    """
    for folder in asked.runs:
        run = load_run(folder, asked.root)
        named = spread(len(run.classnames), NAMED)
        yield _drawing(run, named, images_to_project(run.images(asked.images), named))


def images_to_project(images: Sequence[Labelled], named: Sequence[int]) -> list[Labelled]:
    """Evenly spaced images of each class: more of the named ones, at least one of each other."""
    by_label: defaultdict[int, list[Labelled]] = defaultdict(list)
    for image in images:
        by_label[image.label].append(image)
    in_colour = max(1, MOST_IN_COLOUR // len(named))
    others = max(1, len(by_label.keys() - set(named)))
    in_grey = max(1, MOST_IN_GREY // others)
    return [
        of_class[place]
        for label, of_class in sorted(by_label.items())
        for place in spread(len(of_class), in_colour if label in named else in_grey)
    ]


class Plane(NamedTuple):
    """The two directions of the largest variance of some rows.

    Args:
        axes: [2, e] unit vectors, the first of the largest variance; their largest entry is positive.
        shares: [2] of the variance.
    """

    axes: Tensor
    shares: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """Coordinates [N, 2] of centred rows [N, e]."""
        return rows.to(self.axes.dtype) @ self.axes.t()


def principal_plane(rows: Tensor) -> Plane:
    """The plane of two or more rows [N, e] that are centred already. If they are along one line, the second is any."""
    _, lengths, axes = torch.linalg.svd(rows.double(), full_matrices=False)  # [K], [K, e]
    axes, variances = axes[:2], lengths.square()
    signs = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()  # [2, 1]; the decomposition leaves it open
    return Plane(axes * signs, variances[:2] / variances.sum().clamp(min=1e-300))


def centred_rows(rows: Tensor) -> Tensor:
    """Rows [N, e] less their mean."""
    rows = rows.double()
    return rows - rows.mean(dim=0)


def planar(before: Features, after: Features) -> tuple[Plane, list[tuple[Tensor, Tensor | None]]]:
    """The common plane, and coordinates of images [N, 2] and classes [C, 2] before and after."""
    images = [centred_rows(features.images) for features in (before, after)]
    plane = principal_plane(torch.cat(images))
    classes = [None if each.classes is None else plane(centred_rows(each.classes)) for each in (before, after)]
    return plane, [(plane(rows), words) for rows, words in zip(images, classes, strict=True)]


def _drawing(run: TrainedRun, named: Sequence[int], images: Sequence[Labelled]) -> Drawing:
    plane, panels = planar(*run.features(images))
    labels = torch.tensor([image.label for image in images])
    figure = Figure(figsize=(8.6, 4.1))
    axes = figure.subplots(1, 2, sharex=True, sharey=True)
    for panel, title, (points, words) in zip(axes, ("zero-shot CLIP", run.name), panels, strict=True):
        _panel(panel, points, labels, words, named)
        panel.set_title(title if words is not None else f"{title} (class features depend on the image)")
        panel.set_xlabel(f"component 1 ({plane.shares[0]:.0%} of the variance)")
    axes[0].set_ylabel(f"component 2 ({plane.shares[1]:.0%})")
    _legend(figure, axes[1], run, named)
    known = int((labels != UNKNOWN).sum())
    summary = f"{run.folder}: {len(images):,} images, {known:,} of a known class; {len(run.classnames):,} classes"
    if len(named) < len(run.classnames):
        summary += f", {len(named)} of them in colour"
    return Drawing(run.folder, figure, summary)


def _colours(named: Sequence[int]) -> dict[int, Any]:
    """Colour of each named class."""
    return dict(zip(named, COLOURS, strict=False))


def _panel(axes: Axes, points: Tensor, labels: Tensor, words: Tensor | None, named: Sequence[int]) -> None:
    colours = _colours(named)
    other = ~torch.isin(labels, torch.tensor(list(named)))
    axes.scatter(*points[other].t().numpy(), s=5, color=LIGHT, linewidths=0)
    for label, colour in colours.items():
        axes.scatter(*points[labels == label].t().numpy(), s=8, color=colour, alpha=0.7, linewidths=0)
    if words is not None:
        rest = torch.ones(len(words), dtype=torch.bool)
        rest[list(named)] = False
        axes.scatter(*words[rest].t().numpy(), s=12, marker="*", color=GREY, alpha=0.4, linewidths=0, zorder=3)
        star: dict[str, Any] = {"s": 110, "marker": "*", "edgecolors": "black", "linewidths": 0.7, "zorder": 4}
        axes.scatter(*words[list(named)].t().numpy(), c=list(colours.values()), **star)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)


def _legend(figure: Figure, axes: Axes, run: TrainedRun, named: Sequence[int]) -> None:
    """Names of the classes in colour, and what dots and stars are."""
    dot: dict[str, Any] = {"linestyle": "", "markersize": 4}
    handles = [
        axes.plot([], [], marker="o", color=colour, label=shortened(run.classnames[label]), **dot)[0]
        for label, colour in _colours(named).items()
    ]
    if len(named) < len(run.classnames):
        label = f"{len(run.classnames) - len(named):,} other classes"
        handles.append(axes.plot([], [], marker="o", color=LIGHT, label=label, **dot)[0])
    dot["markersize"] = 8
    handles.append(
        axes.plot([], [], marker="*", color="white", markeredgecolor="black", label="class feature", **dot)[0]
    )
    figure.legend(handles=handles, loc="outside right center")
