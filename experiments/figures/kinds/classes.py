"""Gain of each class against zero-shot CLIP, in points of accuracy, from the results of both runs.

The zero-shot run is one of those given, or the one that lies beside the run in the output tree.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dassl.utils import BadValueError, MissingFileError, UserError
from experiments.figures.drawing import BLUE, GREY, ORANGE, Asked, Drawing, named_bars, shortened
from experiments.report.runs import FinishedRun, read_run
from runner.result import RESULT_NAME
from trainers.core.facts import learns, lineage

SHOWN_IN_FULL = 40
SHOWN = 15
"""Classes that are named at each end, of more than `SHOWN_IN_FULL`."""
HIGHEST = 6
"""Folders above a run that may contain the zero-shot run's."""


def draw(asked: Asked) -> Iterator[Drawing]:
    """The gains of each run that is not a zero-shot run.

    Raises:
        UserError: a result is missing or has no accuracy per class; there is no zero-shot run or several; or the two
            are not of the same classes and images.
    """
    runs = [_result(folder) for folder in asked.runs]
    zero_shot, learned = [run for run in runs if run.zero_shot], [run for run in runs if not run.zero_shot]
    if not learned:
        raise UserError("all given runs are zero-shot: give a run that learned something")
    for run in learned:
        yield _drawing(run, _given(run, zero_shot) if zero_shot else _beside(run))


def gains(run: FinishedRun, zero_shot: FinishedRun) -> pd.Series:
    """Accuracy of `run` less that of `zero_shot` by class name, in percentage points, the largest gain first."""
    difference = pd.Series(dict(run.per_class), dtype=float) - pd.Series(dict(zero_shot.per_class), dtype=float)
    return difference.sort_values(ascending=False, kind="stable")


def _result(folder: Path) -> FinishedRun:
    path = folder / RESULT_NAME
    if not path.is_file():
        raise MissingFileError(f"{folder} has no {RESULT_NAME}: give the folder of a run that has finished")
    run = read_run(path)
    if run is None:
        raise UserError(f"{folder} has not finished: its {RESULT_NAME} says so")
    if not run.per_class:
        raise UserError(f"{folder} has no accuracy per class: evaluate it again with TEST.PER_CLASS_RESULT True")
    return run


def _measured_on(run: FinishedRun) -> dict[str, str]:
    """What two runs need to have in common, so that their accuracies can be compared class by class."""
    return {
        "data set": run.dataset,
        "classes (DATASET.SUBSAMPLE_CLASSES)": run.subsample_classes,
        "images (TEST.SPLIT)": str(run.full_config.get("TEST", {}).get("SPLIT")),
        "backbone": run.weights_sha256 or run.backbone,
        "class names": ", ".join(sorted(run.per_class)),
    }


def _difference(run: FinishedRun, other: FinishedRun) -> str | None:
    """The first thing in which the measurements of two runs differ."""
    here, there = _measured_on(run), _measured_on(other)
    for name in here:
        if here[name] != there[name]:
            return f"another {name}" if max(len(here[name]), len(there[name])) > 60 else f"{name}: {there[name]}"
    return None


def _given(run: FinishedRun, zero_shot: Sequence[FinishedRun]) -> FinishedRun:
    """The zero-shot run among those given that fits."""
    differences = [_difference(run, other) for other in zero_shot]
    fitting = [other for other, difference in zip(zero_shot, differences, strict=True) if difference is None]
    if not fitting:
        raise BadValueError(
            f"{zero_shot[0].path.parent} was not evaluated on the same as {run.path.parent} ({differences[0]}): give "
            "the zero-shot run of the same part"
        )
    return _only(run, fitting)


def _beside(run: FinishedRun) -> FinishedRun:
    """The zero-shot run in the output tree of a run, in the nearest folder above that has one that fits."""
    folder, zero_shot = run.path.parent.resolve(), [name for name in lineage() if not learns(name)]
    for above in folder.parents[:HIGHEST]:
        paths = [path for name in zero_shot for path in sorted(above.glob(f"{name}/**/{RESULT_NAME}"))]
        found = [read_run(path) for path in paths]
        fitting = [each for each in found if each and each.zero_shot and _difference(run, each) is None]
        if fitting:
            return _only(run, fitting)
    raise MissingFileError(
        f"no zero-shot run with accuracy per class on the same classes beside {run.path.parent}: run one (method "
        "zsclip), or give its folder as another RUN"
    )


def _only(run: FinishedRun, candidates: Sequence[FinishedRun]) -> FinishedRun:
    """The one result among the candidates; runs that agree in all classes are one."""
    if any(dict(each.per_class) != dict(candidates[0].per_class) for each in candidates):
        folders = ", ".join(str(each.path.parent) for each in candidates)
        raise UserError(f"several zero-shot runs fit {run.path.parent}, with different results: give one of {folders}")
    return candidates[0]


def _drawing(run: FinishedRun, zero_shot: FinishedRun) -> Drawing:
    gain = gains(run, zero_shot)
    better, worse, mean = int((gain > 0).sum()), int((gain < 0).sum()), gain.mean()
    label = f"gain over {zero_shot.trainer} (points)"
    counted = f"{better:,} better, {len(gain) - better - worse:,} same, {worse:,} worse; mean {mean:+.1f}"
    if len(gain) <= SHOWN_IN_FULL:
        figure = Figure(figsize=(4.2, 0.9 + 0.17 * max(len(gain), 5)))
        axes = figure.subplots()
        _named(axes, gain, label)
        axes.set_title(f"{run.trainer}\n{counted}", loc="left")
    else:
        figure = _figure_of_many(gain, f"{run.trainer}: {counted}", label)
    return Drawing(run.path.parent, figure, f"{run.path.parent} against {zero_shot.path.parent}: {counted}")


def _figure_of_many(gain: pd.Series, title: str, label: str) -> Figure:
    """All gains as a curve, beside the named classes at both ends."""
    figure = Figure(figsize=(8.4, 5.2))
    curve, ends = figure.subplots(1, 2, width_ratios=(1, 1.1))
    places = np.arange(1, len(gain) + 1)
    for colour, part in ((BLUE, gain.clip(lower=0)), (ORANGE, gain.clip(upper=0))):
        curve.fill_between(places, part.to_numpy(), step="mid", color=colour, linewidth=0)
    curve.axhline(0, color=GREY, linewidth=0.7)
    curve.set(xlim=(1, len(gain)), xlabel="class, by its gain", ylabel=label)
    curve.grid(visible=True, axis="y")
    curve.set_title(title, loc="left")
    _named(ends, pd.concat([gain.iloc[:SHOWN], gain.iloc[-SHOWN:]]), label)
    ends.axhline(SHOWN - 0.5, color=GREY, linestyle=":", linewidth=1)
    ends.set_title(f"the {SHOWN} largest and the {SHOWN} smallest of {len(gain):,}", loc="left")
    return figure


def _named(axes: Axes, gain: pd.Series, label: str) -> None:
    """A bar for each class, with its name and its value."""
    colours, names = [BLUE if value > 0 else ORANGE for value in gain], [shortened(str(name)) for name in gain.index]
    texts = [f"{value:+.1f}".replace("-", "−") for value in gain]
    named_bars(axes, gain.tolist(), names, texts, color=colours)
    axes.axvline(0, color=GREY, linewidth=0.7)
    axes.margins(x=0.15, y=0.01)
    axes.grid(visible=True, axis="x")
    axes.set_xlabel(label)
