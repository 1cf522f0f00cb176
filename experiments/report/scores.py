"""The numbers of one table: means and deviations over seeds, with what is missing or mixed kept in sight."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datasets import DRAW_KEY

from .frame import recipe_order
from .papers import AVERAGED, Comparison, compare_with_papers, in_order, short_name
from .recipes import Recipe
from .runs import FinishedRun

CELL = ["part", "dataset", "shots"]
"""Finished runs that are alike in these differ in their seed alone."""


@dataclass(frozen=True)
class Place:
    """Where a number stands in a table, and the cells it is computed from.

    Cells of one data set give its number, cells of several their average; cells of
    two parts give the harmonic mean H of the parts.
    """

    block: str
    column: str
    dataset: str
    """Short name, or the name of an average."""
    metric: str
    shots: int
    cells: Sequence[tuple[str, str, int]]
    cell_name: str = ""
    """How notes call the one cell of this place; empty for averages and H."""
    is_average: bool = False
    without: tuple[str, ...] = ()
    """Data sets that the average leaves out on purpose."""
    mean_of_h: bool = False
    """The mean of the H of the data sets, instead of the H of the averaged parts."""


Float = NDArray[np.float64]


def combined(accuracies: Float, parts: Sequence[str], mean_of_h: bool = False) -> Float:
    """The mean over the data sets of a part, and H of the parts where there are two.

    Args:
        accuracies: [cells, ...] in percent.
        parts: the part of each cell; all parts have the same data sets in the same order.
        mean_of_h: average the H of the data sets, instead of taking the H of the averages.

    Returns:
        [...]
    """
    of_parts = [accuracies[[each == part for each in parts]] for part in dict.fromkeys(parts)]  # [data sets, ...] each
    if len(of_parts) == 1:
        return of_parts[0].mean(axis=0)
    if mean_of_h:
        return harmonic_means(*of_parts).mean(axis=0)
    return harmonic_means(*(each.mean(axis=0) for each in of_parts))


def harmonic_means(base: Float, new: Float) -> Float:
    """H of two accuracies; 0 where both are 0."""
    total = base + new
    return np.divide(2 * base * new, total, out=np.zeros_like(total), where=total != 0)


def origin(run: FinishedRun) -> dict[str, str]:
    """What all runs of one number should have in common."""
    weights = "unknown" if run.weights_sha256 is None else run.weights_sha256[:9]
    versions = {name: str(version) for name, version in run.versions.items()}
    files = {f"file of {key}": digest[:9] for key, digest in run.files_sha256.items() if key != DRAW_KEY}
    return versions | files | {"commit": run.commit, "weights": weights, "device": run.device}


def mixture(runs: Iterable[FinishedRun]) -> list[str]:
    """What differs between runs though it should not, for example "torch 2.11 (seed 1), 2.15 (seeds 2, 3)"."""
    seeds: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for name, value in (*origin(run).items(), *(("commit", commit) for commit in run.earlier_commits)):
            seeds[name][value].append(run.seed)
    return [
        f"{name} " + ", ".join(f"{value} ({seed_list(found)})" for value, found in by_value.items())
        for name, by_value in seeds.items()
        if len(by_value) > 1
    ]


def seed_list(seeds: Iterable[int]) -> str:
    """ "seed 1" or "seeds 1, 2"."""
    ordered = sorted(seeds)
    return f"seed{'s' * (len(ordered) > 1)} {', '.join(map(str, ordered))}"


class Sheet:
    """Runs that can be compared: the number of any place, and notes on what is missing, mixed or not comparable.

    Args:
        frame: rows of `run_frame`, all of one setting or of trainings that it shares.
        papers: whether the data sets are the papers', so that published figures apply.
    """

    def __init__(self, setting: str, frame: pd.DataFrame, papers: bool) -> None:
        self.setting, self.papers = setting, papers
        self.runs: list[FinishedRun] = list(frame["run"])
        self.datasets = in_order(frame["dataset"][frame["part"] != "source"])
        self.names: dict[Recipe, str] = dict(zip(frame["recipe"], frame["method"], strict=True))
        self.recipes: list[Recipe] = sorted(self.names, key=recipe_order)
        self.seeds = {run.seed for run in self.runs if not run.zero_shot}
        self.shots = sorted({run.shots for run in self.runs if not run.zero_shot} or set(frame["shots"]))
        self.meant = AVERAGED[setting] if papers else self.datasets
        """Data sets that an average is meant to cover."""
        self._accuracy: dict[Recipe, pd.DataFrame] = {}
        self._run: dict[Recipe, pd.DataFrame] = {}
        by_shots = self._by_shots(frame)
        for recipe in self.recipes:
            rows = pd.DataFrame(by_shots[by_shots["recipe"] == recipe])
            # seeds x cells; pivot refuses two runs of one seed in one cell
            wide = rows.pivot(index="seed", columns=CELL, values=["accuracy", "run"])
            self._accuracy[recipe] = pd.DataFrame(wide["accuracy"]).astype(float)
            self._run[recipe] = pd.DataFrame(wide["run"])
        self._missing: defaultdict[Recipe, list[str]] = defaultdict(list)
        self._mixed: list[str] = []
        self._covered: defaultdict[tuple[str, ...], defaultdict[Recipe, list[str]]]
        self._covered = defaultdict(lambda: defaultdict(list))

    def _by_shots(self, frame: pd.DataFrame) -> pd.DataFrame:
        """The rows with the number of shots by which cells are told apart: 0 in all settings but few-shot.

        There a recipe that trains nothing has its one result at every number of shots.
        """
        if self.setting != "few_shot":
            return frame.assign(shots=0)
        zero_shot = pd.Series([recipe.zero_shot for recipe in frame["recipe"]], frame.index, dtype=bool)
        once = pd.DataFrame(frame[zero_shot]).drop_duplicates(["recipe", "dataset", "seed"])
        trained = pd.DataFrame(frame[~zero_shot])
        return pd.concat([trained, *(once.assign(shots=shots) for shots in self.shots)])

    def score(self, recipe: Recipe, place: Place) -> dict[str, Any]:
        """A row of the table of scores: the number of a recipe at a place, and what it stands on; NaN if missing."""
        wanted = pd.MultiIndex.from_tuples(place.cells, names=CELL)
        cells = self._accuracy[recipe].reindex(columns=wanted)
        found = pd.Series(cells.notna().any())
        complete = found.groupby("dataset", sort=False).all()  # data sets with a run in every part
        datasets = tuple(str(name) for name, every in zip(complete.index, complete, strict=True) if every)
        cells = cells.loc[:, wanted.isin(datasets, level="dataset")]
        cells = cells[cells.notna().any(axis=1)]
        common = cells.dropna()
        expected = len(self.seeds)
        if recipe.zero_shot:  # any seeds will do, as long as the halves of an H have the same ones
            expected = len(common) if place.is_average else len(cells)
        if place.metric == "H" and not place.is_average:
            cells = common  # H of the means over the seeds with both halves
        meant = {*self.meant, *self.datasets} - {*place.without}
        partial = len(common) < expected or (place.is_average and not meant <= {*datasets})
        parts = [part for part, *_ in cells.columns]
        mean = deviation = math.nan
        if datasets and len(cells):
            mean = float(combined(cells.mean().to_numpy(), parts, place.mean_of_h))
            by_seed = [combined(row, parts, place.mean_of_h) for row in common.to_numpy()]
            deviation = pd.Series(by_seed, dtype=float).std()  # n - 1 in the denominator; NaN of one seed
        if place.cell_name:
            self._note_cell(recipe, place, sorted(common.index))
        return {
            **{"setting": self.setting, "recipe": recipe},
            **{name: getattr(place, name) for name in ("block", "column", "dataset", "metric", "shots")},
            **{"mean": mean, "deviation": deviation},
            "seeds": tuple(common.index),
            "expected": len(common) if recipe.zero_shot else len(self.seeds),
            "partial": bool(partial),
            "mixed": self._is_mixed(recipe, place, datasets),
            "remark": self._coverage(recipe, place, datasets) if place.is_average else "",
            "covered": len(datasets),
            "comparisons": () if partial and place.is_average else self._comparisons(recipe, place, mean, datasets),
        }

    def _comparisons(
        self, recipe: Recipe, place: Place, mean: float, datasets: Sequence[str]
    ) -> tuple[Comparison, ...]:
        """The published figures beside a number; averages over other data sets than the papers' have none."""
        other_average = place.mean_of_h or (place.is_average and set(datasets) != set(self.meant))
        if not self.papers or math.isnan(mean) or other_average:
            return ()
        return compare_with_papers(self.setting, recipe, place.dataset, place.metric, place.shots, mean)

    def _runs(self, recipe: Recipe, cells: Iterable[tuple[str, str, int]]) -> list[FinishedRun]:
        return [run for cell in cells for run in self.runs_by_seed(recipe, cell).values()]

    def runs_by_seed(self, recipe: Recipe, cell: tuple[str, str, int]) -> dict[int, FinishedRun]:
        """The runs of one cell."""
        table = self._run[recipe]
        return table[cell].dropna().to_dict() if cell in table.columns else {}

    def draw(self, recipe: Recipe, cell: tuple[str, str, int], seed: int) -> str | None:
        """Digest of the few-shot draw behind a result: its own, or that of the training of its model; None if unknown.

        Args:
            cell: part, data set and shots of the result.
        """
        part, dataset, shots = cell
        trained_on = {"test_new": [("train_base", dataset, shots)], "test_all": [("train_base", dataset, shots)]}
        sources = [each for each in self._run[recipe].columns if each[0] == "source"] if part == "target" else []
        for place in [cell, *trained_on.get(part, sources)]:
            run = self.runs_by_seed(recipe, place).get(seed)
            if run is not None and run.few_shot_sha256 is not None:
                return run.few_shot_sha256
        return None

    def _is_mixed(self, recipe: Recipe, place: Place, datasets: Sequence[str]) -> bool:
        cells = [cell for cell in place.cells if cell[1] in datasets]
        groups = [[cell] for cell in cells] if place.is_average else [cells]
        return any(mixture(self._runs(recipe, group)) for group in groups)

    def _note_cell(self, recipe: Recipe, place: Place, seeds: Sequence[int]) -> None:
        name = place.block if recipe.zero_shot and self.setting == "few_shot" else place.cell_name
        missing = set() if recipe.zero_shot else self.seeds - set(seeds)
        if not seeds:
            self._missing[recipe].append(name)
        elif missing:
            self._missing[recipe].append(f"{name} ({seed_list(missing)})")
        self._mixed += [f"{recipe.label}, {name}: {each}" for each in mixture(self._runs(recipe, place.cells))]

    def _coverage(self, recipe: Recipe, place: Place, datasets: Sequence[str]) -> str:
        """ "9 of 11 data sets", or nothing when the average covers just what it is meant to."""
        meant = set(self.meant) - {*place.without}
        if not datasets or set(datasets) == meant:
            return ""
        known = set(datasets) <= meant
        remark = f"{len(datasets)} {'of' if known else 'instead of'} {len(meant)} data sets"
        if place.without or place.mean_of_h:  # the notes name the data sets of the table's own average
            return remark
        self._covered[tuple(map(short_name, datasets))][recipe].append(place.column)
        return remark

    def _extent(self, datasets: Sequence[str]) -> str:
        """What an average covers, in the fewer names."""
        absent = [name for name in map(short_name, self.meant) if name not in datasets]
        few = 0 < len(absent) < len(datasets)
        return f"without {', '.join(absent)}" if few else f"over {', '.join(datasets)} alone"

    def notes(self) -> list[str]:
        """What a reader must know before comparing the rows."""
        notes = [f"Missing: {row.label}: {', '.join(dict.fromkeys(names))}." for row, names in self._missing.items()]
        for datasets, rows in self._covered.items():
            averages = (f"{recipe.label} {'/'.join(columns)}" for recipe, columns in rows.items())
            notes.append(f"Averages {self._extent(datasets)}: {'; '.join(averages)}.")
        notes += [f"Mixed: {text}." for text in dict.fromkeys(self._mixed)]
        return notes + [f"Not comparable: {text}." for text in differences_between_rows(self.runs)]


def differences_between_rows(runs: Iterable[FinishedRun]) -> Iterator[str]:
    """Few-shot draws, classes and weights that should be the same for all recipes and seeds, and are not."""
    draws: defaultdict[tuple[str, str, int, int], set[str]] = defaultdict(set)
    counts: defaultdict[tuple[str, str, str], set[int]] = defaultdict(set)
    weights: set[str] = set()
    for run in runs:
        if run.classes is not None:
            counts[short_name(run.dataset), run.part, run.subsample_classes].add(run.classes)
        if run.few_shot_sha256 is not None and run.part not in ("test_new", "target") and not run.zero_shot:
            draws[short_name(run.dataset), run.subsample_classes, run.shots, run.seed].add(run.few_shot_sha256)
        if run.weights_sha256 is not None:
            weights.add(run.weights_sha256[:9])
    for (dataset, classes, shots, seed), different in draws.items():
        if len(different) > 1:
            yield f"{len(different)} few-shot draws of {dataset} ({classes} classes, {shots} shots, seed {seed})"
    for (dataset, part, classes), different in counts.items():
        if len(different) > 1:
            numbers = " and ".join(map(str, sorted(different)))
            yield f"{dataset} has {numbers} classes in different runs ({part}, {classes} classes)"
    if len(weights) > 1:
        yield f"backbone weights differ between rows: {', '.join(sorted(weights))}"
