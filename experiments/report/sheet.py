"""The cells of one table: what they hold, what they lack, and what of it must not be compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from trainers.core.facts import lineage

from .averages import Cell, Figure, seed_list
from .papers import AVERAGE, AVERAGED, OOD_AVERAGE, Comparison, compare, in_order, short_name
from .recipes import Recipe
from .runs import Run


@dataclass(frozen=True)
class Score:
    """A figure with its place in the tables and the published figures that it stands beside."""

    setting: str
    recipe: Recipe
    dataset: str
    """Short name, or the name of an average."""
    metric: str
    shots: int | None
    figure: Figure
    expected: int
    """Seeds that a complete figure has."""
    remark: str = ""
    """For example "9 of 11 data sets"."""
    comparisons: tuple[Comparison, ...] = ()


LINEAGE = lineage()
"""Trainers in the order of their papers, as the papers' tables have them."""


def recipe_order(recipe: Recipe) -> tuple[object, ...]:
    rank = LINEAGE.index(recipe.trainer) if recipe.trainer in LINEAGE else len(LINEAGE)
    return rank, recipe


class Sheet:
    """Cells of one table: looks them up, knows which are missing, and turns figures into scores."""

    def __init__(self, setting: str, runs: Iterable[Run], recipes: Mapping[Run, Recipe], papers: bool) -> None:
        self.setting = setting
        self.runs = list(runs)
        self.recipe_of = recipes
        self.papers = papers
        self.groups: defaultdict[tuple[Recipe, str, str, int], list[Run]] = defaultdict(list)
        for run in self.runs:
            self.groups[recipes[run], run.part, run.dataset, self._shots(run)].append(run)
        self.datasets = in_order(run.dataset for run in self.runs if run.part != "source")
        self.seeds = frozenset(run.seed for run in self.runs if not run.zero_shot)
        self.recipes = sorted({recipes[run] for run in self.runs}, key=recipe_order)
        self.missing: defaultdict[Recipe, list[str]] = defaultdict(list)
        self.mixed: list[str] = []
        self.covered: defaultdict[tuple[str, ...], defaultdict[Recipe, list[str]]]
        self.covered = defaultdict(lambda: defaultdict(list))
        self._cells: dict[tuple[Recipe, str, str, int], Cell] = {}

    def _shots(self, run: Run) -> int:
        # Few-shot is the one table with several numbers of shots; what is not trained has the same result in each.
        return run.shots if self.setting == "few_shot" and not run.zero_shot else 0

    def cell(self, recipe: Recipe, part: str, dataset: str, name: str, shots: int = 0) -> Cell:
        """The runs of one cell; what it lacks is noted under `name`."""
        key = (recipe, part, dataset, 0 if recipe.zero_shot else shots)
        if key in self._cells:
            return self._cells[key]
        runs = self.groups.get(key, [])
        if recipe.zero_shot:
            runs = list({run.seed: run for run in runs}.values()) if self.setting == "few_shot" else runs
            cell = Cell.of(runs)
        else:
            cell = Cell.of(runs, self.seeds)
        self._cells[key] = cell
        if not cell.runs:
            self.missing[recipe].append(name)
        elif cell.missing:
            self.missing[recipe].append(f"{name} ({seed_list(cell.missing)})")
        self.mixed += [f"{recipe.label}, {name}: {difference}" for difference in cell.mixture]
        return cell

    def score(
        self, recipe: Recipe, dataset: str, metric: str, figure: Figure, shots: int | None, remark: str = ""
    ) -> Score:
        """A score beside its published figures; a partial average has none, nor has other data than the papers'."""
        comparable = self.papers and not (figure.partial and dataset in (AVERAGE, OOD_AVERAGE))
        mean = figure.mean if comparable else None
        expected = len(figure.seeds) if recipe.zero_shot else len(self.seeds)
        comparisons = compare(self.setting, recipe, dataset, metric, shots, mean)
        return Score(self.setting, recipe, dataset, metric, shots, figure, expected, remark, comparisons)

    def meant(self) -> Sequence[str]:
        """Data sets that an average is meant to cover."""
        return AVERAGED[self.setting] if self.papers else self.datasets

    def coverage(self, recipe: Recipe, metric: str, cells: Sequence[Cell]) -> str:
        """ "9 of 11 data sets", or nothing when the average covers all that it is meant to."""
        present = tuple(short_name(name) for name, cell in zip(self.datasets, cells, strict=True) if cell.runs)
        meant = self.meant()
        if not present or len(present) == len(meant):
            return ""
        self.covered[present][recipe].append(metric)
        return f"{len(present)} of {len(meant)} data sets"

    def _extent(self, datasets: Sequence[str]) -> str:
        """What an average covers, in the fewer names."""
        absent = [name for name in map(short_name, self.meant()) if name not in datasets]
        return f"without {', '.join(absent)}" if len(absent) < len(datasets) else f"over {', '.join(datasets)} alone"

    @property
    def complete(self) -> bool:
        """Whether the table has all data sets that its averages are meant to cover."""
        return set(self.meant()) <= set(self.datasets)

    def notes(self) -> list[str]:
        """What a reader must know before comparing the rows."""
        notes = [f"Missing: {recipe.label}: {', '.join(names)}." for recipe, names in self.missing.items()]
        for datasets, rows in self.covered.items():
            averages = (f"{recipe.label} {'/'.join(dict.fromkeys(metrics))}" for recipe, metrics in rows.items())
            notes.append(f"Averages {self._extent(datasets)}: {'; '.join(averages)}.")
        notes += [f"Mixed: {text}." for text in self.mixed]
        return notes + [f"Not comparable: {text}." for text in differences_between_rows(self.runs)]


def differences_between_rows(runs: Iterable[Run]) -> Iterator[str]:
    """Few-shot draws and weights that should be the same for all recipes, and are not."""
    draws: defaultdict[tuple[str, str, int, int], set[str]] = defaultdict(set)
    weights: set[str] = set()
    for run in runs:
        if run.few_shot_sha256 is not None and run.part not in ("test_new", "target") and not run.zero_shot:
            draws[short_name(run.dataset), run.subsample_classes, run.shots, run.seed].add(run.few_shot_sha256)
        if run.weights_sha256 is not None:
            weights.add(run.weights_sha256[:9])
    for (dataset, classes, shots, seed), different in draws.items():
        if len(different) > 1:
            yield f"{len(different)} few-shot draws of {dataset} ({classes} classes, {shots} shots, seed {seed})"
    if len(weights) > 1:
        yield f"backbone weights differ between rows: {', '.join(sorted(weights))}"
