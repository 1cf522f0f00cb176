"""Which figures a report has: those of its tables, and curves of training and calibration."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd

from trainers.core.facts import TRANSFER

from . import figures
from .calibration import Curves
from .figures import Chart
from .frame import TITLES, RunFrame
from .papers import in_order, short_name
from .recipes import Recipe
from .tables import ScoreTable, in_shots

LONGEST_STEM = 100
"""Characters of a file name that come from names of data sets."""


@dataclass(frozen=True)
class ChartGroup:
    """Charts of one setting."""

    title: str
    charts: list[Chart]


def table_charts(table: ScoreTable, index: int) -> list[Chart]:
    """The papers' figures of a table; none of other runs."""
    name, recipes = f"{table.setting}-{index}", table.recipes()
    if table.setting == "base2new":
        return [Chart(name, "", f"Base and new accuracy by method: {table.title}", partial(figures.bars, table))]
    if table.setting == "few_shot":
        return [
            Chart(
                f"{name}-{_stem(block.name)}",
                block.name,
                f"Accuracy by shots: {table.title}, {block.name}",
                partial(figures.shots_curves, block),
                recipes,
            )
            for block in table.blocks
        ]
    if table.setting in TRANSFER:
        return [Chart(name, "", f"Accuracy by data set: {table.title}", partial(figures.transfer, table), recipes)]
    return []


def _stem(*names: object) -> str:
    """A file name from names of data sets and backbones."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(map(str, names)).lower()).strip("-")[:LONGEST_STEM] or "unnamed"


def training_charts(frame: RunFrame) -> list[ChartGroup]:
    """A chart for each data set, backbone and number of shots, by setting; few-shot: the most shots alone."""
    frame = pd.DataFrame(frame[[run.trained for run in frame["run"]]])
    few_shot = frame["setting"] == "few_shot"
    frame = pd.DataFrame(frame[~few_shot | (frame["shots"] == frame["shots"][few_shot].max())])
    return _groups({setting: _training_of(setting, frame) for setting in TITLES})


def _training_of(setting: str, frame: pd.DataFrame) -> Iterator[Chart]:
    runs = frame[frame["setting"] == setting]
    for dataset in in_order(runs["dataset"]):
        own = runs[runs["dataset"] == dataset]
        for backbone, shots in sorted(set(zip(own["backbone"], own["shots"], strict=True))):
            found = pd.DataFrame(own[(own["backbone"] == backbone) & (own["shots"] == shots)])
            caption = f"{short_name(dataset)}, {backbone}, {in_shots(shots)}"
            name, recipes = f"training-{_stem(setting, dataset, backbone, shots)}", list(found["recipe"].unique())
            yield Chart(name, caption, f"Training on {caption}", partial(figures.training, found), recipes)


def calibration_charts(curves: Mapping[tuple[str, ...], Mapping[Recipe, Curves]]) -> list[ChartGroup]:
    """A chart for each data set and part, by setting.

    Args:
        curves: as `curves_by_images` returns them.
    """
    return _groups({setting: _calibration_of(setting, curves) for setting in TITLES})


def _calibration_of(setting: str, curves: Mapping[tuple[str, ...], Mapping[Recipe, Curves]]) -> Iterator[Chart]:
    keys = [key for key in curves if key[0] == setting]
    datasets = in_order(key[2] for key in keys)
    for key in sorted(keys, key=lambda key: (datasets.index(key[2]), key)):
        _, backbone, dataset, part, shots = key
        caption = f"{short_name(dataset)}, {part.replace('_', ' ')}, {backbone}, {in_shots(int(shots))}"
        draw = partial(figures.calibration, curves[key])
        yield Chart(f"calibration-{_stem(*key)}", caption, f"Calibration: {caption}", draw, list(curves[key]))


def _groups(charts: Mapping[str, Iterable[Chart]]) -> list[ChartGroup]:
    """The charts of each setting that has some."""
    groups = [ChartGroup(TITLES[setting], list(found)) for setting, found in charts.items()]
    return [group for group in groups if group.charts]


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
