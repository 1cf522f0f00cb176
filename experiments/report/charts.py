"""Which figures a report has: those of its tables, and curves of training and calibration."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd

from experiments.figures.predictions import Evaluations
from trainers.core.facts import TRANSFER

from . import figures
from .calibration import curves
from .figures import Chart
from .frame import TITLES, RunFrame, grouped
from .papers import in_order, short_name
from .tables import ScoreTable, in_shots

LONGEST_STEM = 100
"""Characters of a file name that come from names of data sets."""


@dataclass(frozen=True)
class ChartGroup:
    """Charts of one setting."""

    title: str
    charts: list[Chart]


def table_charts(table: ScoreTable, index: int) -> Iterator[Chart]:
    """The papers' figures of a table; none of other runs."""
    name, recipes = f"{table.setting}-{index}", table.recipes()
    if table.setting == "base2new":
        yield Chart(name, "", f"Base and new accuracy by method: {table.title}", partial(figures.bars, table))
    elif table.setting == "few_shot":
        for block in table.blocks:
            stem, description = f"{name}-{_stem(block.name)}", f"Accuracy by shots: {table.title}, {block.name}"
            yield Chart(stem, block.name, description, partial(figures.shots_curves, block), recipes)
    elif table.setting in TRANSFER:
        draw = partial(figures.transfer_figure, table)
        yield Chart(name, "", f"Accuracy by data set: {table.title}", draw, recipes)


def _stem(*names: object) -> str:
    """A file name from names of data sets and backbones."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(map(str, names)).lower()).strip("-")[:LONGEST_STEM] or "unnamed"


def training_charts(frame: RunFrame) -> list[ChartGroup]:
    """A chart for each data set, backbone and number of shots, by setting; few-shot: the most shots alone."""
    frame = pd.DataFrame(frame[[run.trained for run in frame["run"]]])
    few_shot = frame["setting"] == "few_shot"
    frame = pd.DataFrame(frame[~few_shot | (frame["shots"] == frame["shots"][few_shot].max())])
    return _by_setting(frame, ["backbone", "shots"], _training)


def _training(runs: RunFrame, setting: str, dataset: str, backbone: str, shots: int) -> Chart:
    caption = f"{short_name(dataset)}, {backbone}, {in_shots(shots)}"
    name, recipes = f"training-{_stem(setting, dataset, backbone, shots)}", list(runs["recipe"].unique())
    return Chart(name, caption, f"Training on {caption}", partial(figures.training, runs), recipes)


def calibration_charts(frame: RunFrame, evaluations: Evaluations) -> list[ChartGroup]:
    """A chart for each data set, backbone, part and number of shots, by setting, of the runs with predictions."""
    frame = frame.assign(predictions=[evaluations.of(run.path.parent) for run in frame["run"]])
    return _by_setting(frame.dropna(subset="predictions"), ["backbone", "part", "shots"], _calibration)


def _calibration(runs: pd.DataFrame, setting: str, dataset: str, backbone: str, part: str, shots: int) -> Chart:
    caption = f"{short_name(dataset)}, {part.replace('_', ' ')}, {backbone}, {in_shots(shots)}"
    name = f"calibration-{_stem(setting, backbone, dataset, part, shots)}"
    found = {recipe: curves(list(own["predictions"])) for recipe, own in grouped(runs, "recipe", sort=False)}
    return Chart(name, caption, f"Calibration: {caption}", partial(figures.calibration, found), list(found))


def _by_setting(frame: pd.DataFrame, keys: list[str], chart: Callable[..., Chart]) -> list[ChartGroup]:
    """A chart for each data set and each value of the `keys`, in a group for each setting that has some."""
    groups = []
    for setting, title in TITLES.items():
        rows = pd.DataFrame(frame[frame["setting"] == setting])
        datasets = in_order(rows["dataset"])
        found = sorted(grouped(rows, ["dataset", *keys]), key=lambda group: datasets.index(group[0][0]))
        if found:
            groups.append(ChartGroup(title, [chart(runs, setting, *place) for place, runs in found]))
    return groups


def all_charts(of_tables: Sequence[Sequence[Chart]], *groups: Sequence[ChartGroup]) -> list[Chart]:
    """All charts of a report, each under its own name."""
    found = [chart for charts in of_tables for chart in charts]
    found += [chart for kind in groups for group in kind for chart in group.charts]
    taken: set[str] = set()
    unique = []
    for chart in found:
        numbered = (f"{chart.name}-{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([chart.name], numbered) if name not in taken)
        taken.add(name)
        unique.append(replace(chart, name=name))
    return unique
