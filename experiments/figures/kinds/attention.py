"""Attention rollout of the prompted image tower beside that of the frozen one, over images.

What is drawn is the share of each patch in the class token at the end of the tower; both towers of an image have the
same colour scale. The share that the visual prompts take is written below.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dassl.utils import UserError
from experiments.figures.drawing import Asked, Drawing, shortened, spread
from experiments.figures.rollout import Shares, attention_shares
from experiments.figures.trained import Labelled, TrainedRun, load_run

TAKES_IMAGES = True
MOST_IMAGES = 8


def draw(asked: Asked) -> Iterator[Drawing]:
    """The rollouts of each run, over the given images or over test images of evenly spaced classes.

    Raises:
        UserError: the model cannot be loaded, there are no images, or the image tower is the frozen one.
    """
    for folder in asked.runs:
        run = load_run(folder, asked.root)
        images = run.images(asked.images)
        yield _drawing(run, images_to_draw(images, by_class=asked.images is None), len(images))


def images_to_draw(images: Sequence[Labelled], by_class: bool) -> list[Labelled]:
    """Up to eight evenly spaced images, or the first ones of up to eight evenly spaced classes."""
    if by_class:
        first = {image.label: image for image in reversed(images)}
        images = [first[label] for label in sorted(first)]
    return [images[place] for place in spread(len(images), MOST_IMAGES)]


def _drawing(run: TrainedRun, images: Sequence[Labelled], found: int) -> Drawing:
    pixels = torch.cat(list(run.pixels(images)))
    with run.precision.autocast():
        frozen = attention_shares(run.prompts.clip, run.prompts.clip.encode_image, pixels)
        prompted = attention_shares(run.prompts.clip, partial(run.prompts.image_features, run.theta()), pixels)
    if all(torch.equal(*pair) for pair in zip(frozen, prompted, strict=True)):
        raise UserError(f"{run.folder}: {run.name} leaves the image tower as it is, there is nothing to compare")
    figure = Figure(figsize=(4.6, 1.62 * len(images) + 0.3))
    axes = figure.subplots(len(images), 3, squeeze=False)
    for place, (row, image, shown) in enumerate(zip(axes, images, run.shown(pixels), strict=True)):
        _row(row, shown, [Shares(*(part[place] for part in each)) for each in (frozen, prompted)])
        name = Path(image.path).name if image.label < 0 else run.classnames[image.label]
        row[0].set_ylabel(shortened(name, 22))
    for panel, title in zip(axes[0], ("image", "zero-shot CLIP", run.name), strict=True):
        panel.set_title(title)
    share = prompted.prompts.mean()
    summary = f"{run.folder}: {len(images)} of {found:,} images; visual prompts take {share:.1%} of the class token"
    return Drawing(run.folder, figure, summary)


def _row(axes: Sequence[Axes], image: Tensor, towers: Sequence[Shares]) -> None:
    """An image [H, W, 3], and the patches' shares in each tower over it."""
    height, width = image.shape[:2]
    top = max(float(shares.patches.max()) for shares in towers)
    for panel in axes:
        panel.imshow(image.numpy(), extent=(0, width, height, 0))
        panel.set(xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
    for panel, shares in zip(axes[1:], towers, strict=True):
        heat = {"cmap": "jet", "vmin": 0, "vmax": top, "alpha": 0.5, "interpolation": "bicubic"}
        panel.imshow(shares.patches.cpu().numpy(), extent=(0, width, height, 0), **heat)
    if towers[1].prompts:
        axes[2].set_xlabel(f"prompts {towers[1].prompts:.0%}", fontsize=7, labelpad=2)
