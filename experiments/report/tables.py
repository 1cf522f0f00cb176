"""The papers' tables: one function for each setting says which numbers stand where; `Sheet` computes them.

A table contains recipes that can be compared: same backbone, same shots, and either the papers' data sets or others.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pandas as pd

from trainers.core.facts import TRANSFER

from .frame import TITLES, RunFrame, grouped, recipe_order
from .papers import AVERAGE, OOD_AVERAGE, SHORT, in_order, short_name
from .recipes import Recipe
from .scores import Place, Sheet

PARTS_OF = {"base": ("train_base",), "new": ("test_new",), "H": ("train_base", "test_new")}
"""Column of the base-to-new table -> parts that it is computed from."""


@dataclass(frozen=True)
class Block:
    """Rows of one data set, of an average, or of the whole table."""

    name: str
    rows: dict[Recipe, list[Any]]
    """A named tuple for each column, with the columns of the table's frame as fields."""


@dataclass
class ScoreTable:
    """One table of a paper."""

    setting: str
    title: str
    frame: pd.DataFrame
    """A row for each number, as `Sheet.score` returns it, with its `rank` among the recipes (1: best)."""
    notes: list[str] = field(default_factory=list)
    names: Mapping[Recipe, str] = field(default_factory=dict)
    """How the rows are called."""
    parts: Sequence[tuple[Sheet, Sequence[Place]]] = field(default_factory=list)
    """Where the numbers come from."""

    @property
    def columns(self) -> list[str]:
        return list(self.frame["column"].unique())

    @property
    def blocks(self) -> list[Block]:
        rows: dict[str, dict[Recipe, list[Any]]] = {}
        for score in self.scores():
            rows.setdefault(score.block, {}).setdefault(score.recipe, []).append(score)
        return [Block(name, found) for name, found in rows.items()]

    def scores(self) -> Iterable[Any]:
        return self.frame.itertuples()

    def recipes(self) -> list[Recipe]:
        return sorted(self.frame["recipe"].unique(), key=recipe_order)

    @property
    def of_papers(self) -> bool:
        """Whether its data sets are the papers', so that published figures can be set beside it."""
        return any(sheet.papers for sheet, _ in self.parts)

    def places(self) -> Iterator[tuple[Sheet, Place]]:
        """Every place of the table with the sheet of its numbers."""
        return ((sheet, place) for sheet, places in self.parts for place in places)


def _score_table(setting: str, title: str, sheets: Sequence[tuple[Sheet, Sequence[Place]]]) -> ScoreTable:
    scores = [sheet.score(recipe, place) for sheet, places in sheets for recipe in sheet.recipes for place in places]
    frame = pd.DataFrame(scores)
    names = {recipe: name for sheet, _ in sheets for recipe, name in sheet.names.items()}
    order = list(dict.fromkeys(place.block for _, places in sheets for place in places))
    frame = frame.sort_values("block", key=lambda names: names.map(order.index), kind="stable", ignore_index=True)
    ranked = frame["mean"].where(~frame["partial"]).round(2)
    frame["rank"] = ranked.groupby([frame["block"], frame["column"]]).rank(method="min", ascending=False)
    return ScoreTable(setting, title, frame, [note for sheet, _ in sheets for note in sheet.notes()], names, sheets)


def _split(setting: str, frame: pd.DataFrame, by_shots: bool = True) -> Iterator[tuple[str, int, Sheet]]:
    """Runs as sheets of what can be compared, with a title and the number of shots."""
    others = ~frame["dataset"].isin(SHORT)
    shots_of = frame["shots"] if by_shots else 0 * frame["shots"]
    groups = dict(grouped(frame, [others, "backbone", shots_of]))
    for (is_other, backbone, shots), rows in groups.items():
        title = f"{TITLES[setting]}, {backbone}" + (f", {in_shots(shots)}" if by_shots else "")
        if (not is_other, backbone, shots) in groups:
            title += ", other data sets" if is_other else ", the papers' data sets"
        yield title, int(shots), Sheet(setting, rows, papers=not is_other)


def _labels(datasets: Iterable[str], taken: Sequence[str], suffix: str = "") -> dict[str, str]:
    """How each data set is called in a table, so that no two columns or blocks have one name."""
    labels: dict[str, str] = {}
    for dataset in datasets:
        label = short_name(dataset) + suffix
        while label in (*taken, *labels.values()):
            label += " (data set)"
        labels[dataset] = label
    return labels


class Column(NamedTuple):
    """A column that each data set and their average have."""

    name: str
    metric: str
    shots: int
    parts: Sequence[str]
    """The parts that it is computed from."""
    cell_shots: int = 0
    """Number of shots by which its cells are told apart."""


def _by_dataset(sheet: Sheet, columns: Sequence[Column]) -> list[Place]:
    """A block for each data set, after that of the average of several."""
    blocks = [(label, [dataset]) for dataset, label in _labels(sheet.datasets, [AVERAGE]).items()]
    return [
        Place(
            *(name, column.name, name, column.metric, column.shots),
            cells=[(part, dataset, column.cell_shots) for part in column.parts for dataset in datasets],
            cell_name="" if name == AVERAGE or len(column.parts) > 1 else f"{name} {column.name}",
            is_average=name == AVERAGE,
        )
        for name, datasets in [(AVERAGE, sheet.datasets)] * (len(blocks) > 1) + blocks
        for column in columns
    ]


def base_to_new(frame: pd.DataFrame) -> Iterator[ScoreTable]:
    """Base, new and H of each data set, and their average."""
    apart = pd.DataFrame(frame[(frame["setting"] == "base2new") & frame["part"].isin(PARTS_OF["H"])])
    for title, shots, sheet in _split("base2new", apart):
        columns = [Column(name, name, shots, parts) for name, parts in PARTS_OF.items()]
        yield _score_table("base2new", title, [(sheet, _by_dataset(sheet, columns))])


def transfer(setting: str, frame: pd.DataFrame) -> Iterator[ScoreTable]:
    """Accuracy on the source and on each target, and the targets' average.

    One training on the source serves both settings of this kind, so a source run of the other one counts here too.
    """
    own = frame["setting"] == setting
    targets = pd.DataFrame(frame[own & (frame["part"] == "target")])
    sources = pd.DataFrame(frame[own & (frame["part"] == "source")])
    place = ["recipe", "dataset", "shots", "seed"]
    of_other = frame["setting"].isin(TRANSFER) & ~own & (frame["part"] == "source")
    borrowed = pd.DataFrame(frame[of_other & frame["recipe"].isin(list(targets["recipe"]))])
    sources = pd.concat([sources, borrowed]).drop_duplicates(place)  # its own source, where it has one
    for title, shots, sheet in _split(setting, sources if targets.empty else targets):
        fitting = sources[(sources["shots"] == shots) & (sources["backbone"] == sheet.recipes[0].backbone)]
        everything = pd.concat([pd.DataFrame(fitting), pd.DataFrame(frame[frame["run"].isin(sheet.runs)])])
        everything = everything.drop_duplicates("run")
        whole = Sheet(setting, everything, sheet.papers)
        yield _score_table(setting, title, [(whole, _transfer(whole, everything, shots))])


def _transfer(sheet: Sheet, frame: pd.DataFrame, shots: int) -> list[Place]:
    name = OOD_AVERAGE if sheet.setting == "domain_generalization" else AVERAGE
    sources = _labels(in_order(frame["dataset"][frame["part"] == "source"]), [name], " (source)")
    targets = _labels(sheet.datasets, [name, *sources.values()])
    places = [
        Place("", label, label, "accuracy", shots, [(part, dataset, 0)], cell_name=label)
        for part, labels in (("source", sources), ("target", targets))
        for dataset, label in labels.items()
    ]
    if len(targets) > 1:
        cells = [("target", dataset, 0) for dataset in targets]
        places.append(Place("", name, name, "accuracy", shots, cells, is_average=True))
    return places


def few_shot(frame: pd.DataFrame) -> Iterator[ScoreTable]:
    """Accuracy by number of shots, for each data set and on average."""
    for title, _, sheet in _split("few_shot", pd.DataFrame(frame[frame["setting"] == "few_shot"]), by_shots=False):
        columns = [Column(in_shots(shots), "accuracy", shots, ["all"], shots) for shots in sheet.shots]
        yield _score_table("few_shot", title, [(sheet, _by_dataset(sheet, columns))])


def in_shots(shots: int) -> str:
    """ "1 shot", "16 shots", or all images where no number is set."""
    return f"{shots} {'shot' if shots == 1 else 'shots'}" if shots > 0 else "all images"


def other(frame: pd.DataFrame) -> Iterator[ScoreTable]:
    """Runs of no setting, such as train.py called by hand: accuracy by data set, classes and shots."""
    frame = pd.DataFrame(frame[frame["setting"] == "other"])
    labels = _labels(in_order(frame["dataset"]), [])
    sheets: defaultdict[str, list[tuple[Sheet, list[Place]]]] = defaultdict(list)
    alike = ["backbone", "dataset", "subsample_classes", "shots"]
    for (backbone, dataset, which, shots), rows in grouped(frame, alike):
        name = f"{labels[dataset]}, {which} classes, {in_shots(shots)}"
        places = [Place(name, "accuracy", name, "accuracy", shots, [("all", dataset, 0)], cell_name=name)]
        sheets[f"{TITLES['other']}, {backbone}"].append((Sheet("other", rows, papers=False), places))
    for title, found in sheets.items():
        yield _score_table("other", title, found)


def tables_of(frame: RunFrame) -> list[ScoreTable]:
    """The tables of every setting that has runs, those that two settings share in both."""
    transfers = [transfer(setting, frame) for setting in TRANSFER]
    return list(itertools.chain(base_to_new(frame), *transfers, few_shot(frame), other(frame)))
