"""What gamma and the gradient alignment of a meta-regularised training did, epoch by epoch.

The values are those of `trainers.core.meta_monitor`, read from the run's TensorBoard files.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dassl.utils import MissingFileError, UnreadableFileError, UserError, one_line
from experiments.figures.drawing import BLUE, GREEN, GREY, ORANGE, Asked, Drawing, shortened

FOLDER = "tensorboard"
PREFIX = "meta/"
GAMMA_MEAN, GAMMA_SPREAD, COSINE = "gamma_mean/", "gamma_std/", "cosine_inner_outer"
NORMS = {"norm_g": (BLUE, "|g|"), "norm_r": (ORANGE, "|r|"), "norm_outer": (GREEN, "|outer gradient|")}
RATIO_FOR_LOG = 30
"""The axis of the norms is logarithmic where their largest is so many times their smallest."""
NAMED = 24
"""Prompt tensors that a legend names; more get a colour bar."""


def draw(asked: Asked) -> Iterator[Drawing]:
    """Gamma of each prompt tensor, the alignment of inner and outer gradient, and the norms, of each run."""
    for run in asked.runs:
        yield _drawing(run, read_monitor(run))


def read_monitor(run: Path) -> pd.DataFrame:
    """What the monitor wrote: a row for each epoch, counted from 1, and a column for each quantity.

    Raises:
        MissingFileError: the run has no TensorBoard files.
        UserError: they have no values of the monitor, or cannot be read.
    """
    folder = run / FOLDER
    if not any(folder.glob("events.out.tfevents.*")):
        raise MissingFileError(f"{run} has no TensorBoard files in {FOLDER}/: give the folder of a training run")
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0})  # 0: all of them
    try:
        events.Reload()
        tags = [tag for tag in events.Tags()[SCALARS] if tag.startswith(PREFIX)]
        columns = {
            tag.removeprefix(PREFIX): {event.step + 1: event.value for event in events.Scalars(tag)} for tag in tags
        }
    except Exception as error:  # whatever its parsers raise about a damaged file
        raise UnreadableFileError(f"cannot read the TensorBoard files in {folder}: {one_line(error)}") from error
    if not columns:
        raise UserError(f"{run} has no values of the meta part: train with ProMetaR and TRAINER.PROMETAR.MONITOR True")
    missing = [name for name in (COSINE, *NORMS) if name not in columns]
    if missing:
        raise UnreadableFileError(f"the TensorBoard files in {folder} have no values of {', '.join(missing)}")
    return pd.DataFrame(columns).sort_index()


def _drawing(run: Path, values: pd.DataFrame) -> Drawing:
    figure = Figure(figsize=(10.5, 3.1))
    gamma, cosine, norms = figure.subplots(1, 3, width_ratios=(1.7, 1, 1))
    _gamma(gamma, values)
    _cosine(cosine, values)
    _norms(norms, values)
    for axes in (gamma, cosine, norms):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=True)
    means = values.filter(regex=f"^{GAMMA_MEAN}").iloc[-1]
    summary = (
        f"{run}: {len(values)} epochs; at the end gamma is between {means.min():.4f} and {means.max():.4f}, the cosine "
        f"of inner and outer gradient is {values[COSINE].iloc[-1]:+.4f}"
    )
    return Drawing(run, figure, summary)


def _style(values: pd.DataFrame) -> dict[str, Any]:
    """Epochs as points, where there are few."""
    return {"marker": "o", "markersize": 3} if len(values) < 12 else {}


def _gamma(axes: Axes, values: pd.DataFrame) -> None:
    """Mean of gamma by prompt tensor, with a band of its spread over the tensor's entries."""
    tensors = [name.removeprefix(GAMMA_MEAN) for name in values if str(name).startswith(GAMMA_MEAN)]
    colours = matplotlib.colormaps["viridis"].resampled(max(2, len(tensors)))
    for place, tensor in enumerate(tensors):
        mean, spread = values[f"{GAMMA_MEAN}{tensor}"], values[f"{GAMMA_SPREAD}{tensor}"]
        axes.plot(values.index, mean, color=colours(place), label=shortened(tensor, 44), linewidth=1, **_style(values))
        axes.fill_between(values.index, mean - spread, mean + spread, color=colours(place), alpha=0.12, linewidth=0)
    axes.set_ylabel("gamma: mean and spread of a tensor's entries")
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.set_title("modulation", loc="left")
    if len(tensors) <= NAMED:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=6)
        return
    shades = ScalarMappable(Normalize(1, len(tensors)), "viridis")
    axes.figure.colorbar(shades, ax=axes, label=f"prompt tensor, of {len(tensors)} in the checkpoint's order")


def _cosine(axes: Axes, values: pd.DataFrame) -> None:
    axes.plot(values.index, values[COSINE], color=BLUE, **_style(values))
    axes.axhline(0, color=GREY, linewidth=0.7)
    axes.set_ylabel("cosine of inner update and outer gradient")
    axes.set_title("gradient alignment", loc="left")


def _norms(axes: Axes, values: pd.DataFrame) -> None:
    for name, (colour, label) in NORMS.items():
        axes.plot(values.index, values[name], color=colour, label=label, **_style(values))
    numbers = values[list(NORMS)].to_numpy()
    if 0 < RATIO_FOR_LOG * numbers.min() < numbers.max():
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("")
    axes.set_ylabel("norm")
    axes.legend()
    axes.set_title("gradients", loc="left")
