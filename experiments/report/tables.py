"""The papers' tables out of runs: one function a setting, all returning `ScoreTable`s.

A table holds recipes that can be compared: same backbone, same shots, and either the papers' data sets or others.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from trainers.core.facts import TRANSFER

from .averages import Cell, Figure, average, harmonic, harmonic_of_averages
from .papers import AVERAGE, OOD_AVERAGE, SHORT, in_order, short_name
from .recipes import Recipe
from .runs import Run
from .shared import with_shared
from .sheet import Score, Sheet, recipe_order

TITLES = {
    "base2new": "Base to new",
    "cross_dataset": "Cross-dataset transfer",
    "domain_generalization": "Domain generalisation",
    "few_shot": "Few-shot",
    "other": "Other runs",
}


@dataclass
class Block:
    """Rows of one data set, of an average, or of the whole table."""

    name: str
    rows: dict[Recipe, list[Score]]


@dataclass
class ScoreTable:
    """One table of a paper."""

    setting: str
    title: str
    columns: list[str]
    blocks: list[Block]
    notes: list[str] = field(default_factory=list)

    def scores(self) -> Iterator[Score]:
        for block in self.blocks:
            for row in block.rows.values():
                yield from row

    def recipes(self) -> list[Recipe]:
        return sorted({recipe for block in self.blocks for recipe in block.rows}, key=recipe_order)


def _split(
    setting: str, runs: Iterable[Run], recipes: Mapping[Run, Recipe], by_shots: bool = True
) -> Iterator[tuple[str, int | None, Sheet]]:
    """Runs as sheets of what can be compared, with a title and the number of shots."""
    groups: defaultdict[tuple[str, int | None, bool], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.backbone, run.shots if by_shots else None, run.dataset in SHORT].append(run)
    for backbone, shots, papers in sorted(groups, key=lambda key: (not key[2], key[0], key[1] or 0)):
        title = f"{TITLES[setting]}, {backbone}" + (f", {in_shots(shots)}" if shots is not None else "")
        if (backbone, shots, not papers) in groups:
            title += ", the papers' data sets" if papers else ", other data sets"
        yield title, shots, Sheet(setting, groups[backbone, shots, papers], recipes, papers)


def base_to_new(runs: Sequence[Run], recipes: Mapping[Run, Recipe]) -> list[ScoreTable]:
    """Base, new and H per data set, and their average."""
    runs = [run for run in runs if run.setting == "base2new"]
    return [_base_to_new(title, shots, sheet) for title, shots, sheet in _split("base2new", runs, recipes)]


def _base_to_new(title: str, shots: int | None, sheet: Sheet) -> ScoreTable:
    datasets = sheet.datasets
    blocks = [Block(short_name(dataset), {}) for dataset in datasets]
    averages = Block(AVERAGE, {})
    for recipe in sheet.recipes:
        halves: tuple[list[Cell], list[Cell]] = ([], [])
        for dataset, block in zip(datasets, blocks, strict=True):
            base = sheet.cell(recipe, "train_base", dataset, f"{block.name} base")
            new = sheet.cell(recipe, "test_new", dataset, f"{block.name} new")
            figures = (base.figure, new.figure, harmonic(base, new))
            block.rows[recipe] = _three(sheet, recipe, block.name, figures, shots, ("", "", ""))
            halves[0].append(base)
            halves[1].append(new)
        if len(datasets) > 1:
            averages.rows[recipe] = _average_of_three(sheet, recipe, halves, shots)
    blocks = [averages, *blocks] if averages.rows else blocks
    return ScoreTable("base2new", title, ["base", "new", "H"], blocks, sheet.notes())


def _average_of_three(
    sheet: Sheet, recipe: Recipe, halves: tuple[list[Cell], list[Cell]], shots: int | None
) -> list[Score]:
    figures = [average(half, sheet.complete) for half in halves]
    figures.append(harmonic_of_averages(*halves, sheet.complete))
    both = [base if new.runs else new for base, new in zip(*halves, strict=True)]  # empty where one half is
    remarks = [
        sheet.coverage(recipe, metric, cells)
        for metric, cells in zip(("base", "new", "H"), (*halves, both), strict=True)
    ]
    return _three(sheet, recipe, AVERAGE, figures, shots, remarks)


def _three(
    sheet: Sheet, recipe: Recipe, dataset: str, figures: Sequence[Figure], shots: int | None, remarks: Sequence[str]
) -> list[Score]:
    return [
        sheet.score(recipe, dataset, metric, figure, shots, remark)
        for metric, figure, remark in zip(("base", "new", "H"), figures, remarks, strict=True)
    ]


def transfer(setting: str, runs: Sequence[Run], recipes: Mapping[Run, Recipe]) -> list[ScoreTable]:
    """Accuracy on the source and on each target, and the targets' average.

    One training on the source serves both settings of this kind, so a source run of the other one counts here too.
    """
    own = [run for run in runs if run.setting == setting]
    targets = [run for run in own if run.part == "target"]
    sources = [run for run in own if run.part == "source"]
    known = {(recipes[run], run.dataset, run.shots, run.seed) for run in sources}
    rows = {recipes[run] for run in targets}
    for run in runs:
        borrowed = run.setting in TRANSFER and run.setting != setting and run.part == "source" and recipes[run] in rows
        if borrowed and (recipes[run], run.dataset, run.shots, run.seed) not in known:
            sources.append(run)
    tables = []
    for title, shots, sheet in _split(setting, targets or sources, recipes):
        backbone = sheet.runs[0].backbone
        fitting = [run for run in sources if run.shots == shots and run.backbone == backbone]
        everything = Sheet(setting, dict.fromkeys([*fitting, *sheet.runs]), recipes, sheet.papers)
        tables.append(_transfer(title, shots, everything))
    return tables


def _transfer(title: str, shots: int | None, sheet: Sheet) -> ScoreTable:
    sources = in_order(run.dataset for run in sheet.runs if run.part == "source")
    targets = sheet.datasets
    name = OOD_AVERAGE if sheet.setting == "domain_generalization" else AVERAGE
    block = Block("", {})
    for recipe in sheet.recipes:
        row = []
        for part, datasets in (("source", sources), ("target", targets)):
            for dataset in datasets:
                label = short_name(dataset) + (" (source)" if part == "source" else "")
                cell = sheet.cell(recipe, part, dataset, label)
                row.append(sheet.score(recipe, label, "accuracy", cell.figure, shots))
        if len(targets) > 1:
            cells = [sheet.cell(recipe, "target", dataset, short_name(dataset)) for dataset in targets]
            figure = average(cells, sheet.complete)
            row.append(sheet.score(recipe, name, "accuracy", figure, shots, sheet.coverage(recipe, name, cells)))
        block.rows[recipe] = row
    columns = [f"{short_name(source)} (source)" for source in sources] + [short_name(target) for target in targets]
    columns += [name] if len(targets) > 1 else []
    return ScoreTable(sheet.setting, title, columns, [block], sheet.notes())


def few_shot(runs: Sequence[Run], recipes: Mapping[Run, Recipe]) -> list[ScoreTable]:
    """Accuracy by number of shots, per data set and on average."""
    runs = [run for run in runs if run.setting == "few_shot"]
    return [_few_shot(title, sheet) for title, _, sheet in _split("few_shot", runs, recipes, by_shots=False)]


def _few_shot(title: str, sheet: Sheet) -> ScoreTable:
    datasets = sheet.datasets
    trained = {run.shots for run in sheet.runs if not run.zero_shot}
    all_shots = sorted(trained or {run.shots for run in sheet.runs})
    blocks = [Block(short_name(dataset), {recipe: [] for recipe in sheet.recipes}) for dataset in datasets]
    averages = Block(AVERAGE, {recipe: [] for recipe in sheet.recipes})
    for recipe in sheet.recipes:
        for shots in all_shots:
            cells = []
            for dataset, block in zip(datasets, blocks, strict=True):
                name = block.name if recipe.zero_shot else f"{block.name} {in_shots(shots)}"
                cell = sheet.cell(recipe, "all", dataset, name, shots)
                block.rows[recipe].append(sheet.score(recipe, block.name, "accuracy", cell.figure, shots))
                cells.append(cell)
            if len(datasets) > 1:
                figure, remark = average(cells, sheet.complete), sheet.coverage(recipe, in_shots(shots), cells)
                averages.rows[recipe].append(sheet.score(recipe, AVERAGE, "accuracy", figure, shots, remark))
    blocks = [averages, *blocks] if len(datasets) > 1 else blocks
    return ScoreTable("few_shot", title, [in_shots(shots) for shots in all_shots], blocks, sheet.notes())


def in_shots(shots: int) -> str:
    """ "1 shot", "16 shots", or all images where no number is set."""
    return f"{shots} shot{'s' * (shots != 1)}" if shots > 0 else "all images"


def other(runs: Sequence[Run], recipes: Mapping[Run, Recipe]) -> list[ScoreTable]:
    """Runs of no setting, such as train.py called by hand: accuracy per data set, classes and shots."""
    groups: defaultdict[tuple[str, str, str, int], list[Run]] = defaultdict(list)
    for run in runs:
        if run.setting == "other":
            groups[run.backbone, run.dataset, run.subsample_classes, run.shots].append(run)
    tables: dict[str, ScoreTable] = {}
    for (backbone, dataset, classes, shots), group in sorted(groups.items()):
        title = f"{TITLES['other']}, {backbone}"
        table = tables.setdefault(title, ScoreTable("other", title, ["accuracy"], []))
        sheet = Sheet("other", group, recipes, papers=False)
        block = Block(f"{short_name(dataset)}, {classes} classes, {in_shots(shots)}", {})
        for recipe in sheet.recipes:
            figure = sheet.cell(recipe, "all", dataset, block.name).figure
            block.rows[recipe] = [sheet.score(recipe, block.name, "accuracy", figure, shots)]
        table.blocks.append(block)
        table.notes += sheet.notes()
    return list(tables.values())


BUILDERS: dict[str, Callable[[Sequence[Run], Mapping[Run, Recipe]], list[ScoreTable]]] = {
    "base2new": base_to_new,
    "cross_dataset": lambda runs, recipes: transfer("cross_dataset", runs, recipes),
    "domain_generalization": lambda runs, recipes: transfer("domain_generalization", runs, recipes),
    "few_shot": few_shot,
    "other": other,
}


def score_tables(runs: Sequence[Run], recipes: Mapping[Run, Recipe]) -> list[ScoreTable]:
    """The tables of every setting that has runs."""
    runs, recipes = with_shared(runs, recipes)
    return [table for build in BUILDERS.values() for table in build(runs, recipes)]
