"""Any two methods of a table beside each other: paired differences, intervals and verdicts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from dassl.utils import UnknownNameError
from experiments.figures.predictions import Evaluations

from .paired import DRAWS, LEVEL, Paired, Pairing
from .recipes import Recipe
from .scores import Place, Sheet
from .tables import ScoreTable

LEGEND = (
    f"Difference: first minus second, in points, over the seeds that both methods have. Interval: {LEVEL} %, by a "
    f"bootstrap of {DRAWS:,} samples over images within seeds and seeds within data sets, the same images for both "
    "methods; over seeds alone where a run has no predictions. An interval that contains 0 makes two methods not "
    "distinguishable. With few seeds an interval is too narrow rather than too wide. Decisions: predicted classes, one "
    "for each image and seed."
)
"""What the numbers of paired differences are."""

Cell = tuple[Recipe, str, str]
"""Recipe, block and column of a number in a table."""


@dataclass(frozen=True)
class Baseline:
    """The differences of a table's numbers to those of one method."""

    table: str
    """Title of the table."""
    recipe: Recipe
    name: str
    differences: dict[Cell, Paired]


class Comparisons:
    """Paired differences of the methods in some tables; predictions are read once.

    `notes` says which runs that seem to match were not compared.
    """

    def __init__(self) -> None:
        self.evaluations = Evaluations()
        self._pairings: dict[tuple[int, Recipe, Recipe], Pairing] = {}

    @property
    def notes(self) -> list[str]:
        return list(dict.fromkeys(note for pairing in self._pairings.values() for note in pairing.notes))

    def difference(self, sheet: Sheet, place: Place, first: Recipe, second: Recipe) -> Paired:
        """First minus second at a place of a table."""
        key = id(sheet), first, second
        if key not in self._pairings:
            self._pairings[key] = Pairing(sheet, first, second, self.evaluations)
        return self._pairings[key].at(place)

    def to_baseline(self, table: ScoreTable, baseline: str) -> Baseline | None:
        """All differences of a table to the method of that name; None if the table does not have it.

        Raises:
            UnknownNameError: several methods of the table have the name.
        """
        recipe = find_row(table, baseline)
        if recipe is None:
            return None
        differences = {
            (other, place.block, place.column): self.difference(sheet, place, other, recipe)
            for sheet, place in table.places()
            for other in sheet.recipes
            if other != recipe and recipe in sheet.recipes
        }
        return Baseline(table.title, recipe, table.names[recipe], differences)

    def rows(
        self, tables: Iterable[ScoreTable], baselines: Iterable[Baseline] = (), headline_only: bool = False
    ) -> pd.DataFrame:
        """A row for each pair of methods and each column of a table's average, or of its only data set.

        Args:
            tables: the tables of the report.
            baselines: of some tables; all other methods are compared with them, not they with others.
            headline_only: H alone where a table has base, new and H.
        """
        second = {baseline.table: baseline.recipe for baseline in baselines}
        rows = [row for table in tables for row in self._rows(table, second.get(table.title), headline_only)]
        return pd.DataFrame(rows, columns=[*PAIR_COLUMNS])

    def _rows(self, table: ScoreTable, baseline: Recipe | None, headline_only: bool) -> Iterable[tuple[object, ...]]:
        places = list(headline_places(table))
        if headline_only and any(place.metric == "H" for _, place in places):
            places = [(sheet, place) for sheet, place in places if place.metric == "H"]
        for first, second in itertools.combinations(reversed(table.recipes()), 2):
            if first == baseline:
                first, second = second, first
            for sheet, place in places:
                if not {first, second} <= set(sheet.recipes):
                    continue
                found = self.difference(sheet, place, first, second)
                names = table.names[first], table.names[second]
                over = f"{found.datasets} data sets" if found.datasets > 1 else place.dataset
                share = 100 * found.differing / found.decisions if found.decisions else math.nan
                yield (
                    *(table.title, *names, place.column if place.metric != "H" else "H", over, len(found.seeds)),
                    *(found.difference, interval(found), found.verdict, found.resampled or "nothing"),
                    *(float(found.decisions or math.nan), share, found.first_only, found.second_only),
                )


PAIR_COLUMNS = (
    *("table", "method", "compared with", "number", "over", "seeds", "difference", "interval", "verdict"),
    *("drawn", "decisions", "% differ", "only first right", "only second right"),
)


def headline_places(table: ScoreTable) -> Iterable[tuple[Sheet, Place]]:
    """The averages of a table, or all its numbers where it has no average."""
    averages = [(sheet, place) for sheet, place in table.places() if place.is_average]
    return averages or list(table.places())


def interval(paired: Paired) -> str:
    """ "[+0.30, +2.10]", or nothing where there is no interval."""
    if math.isnan(paired.low):
        return ""
    return f"[{signed(paired.low)}, {signed(paired.high)}]"


def signed(difference: float) -> str:
    """The difference with two digits; no minus before 0.00."""
    return f"{round(difference, 2) + 0.0:+.2f}".replace("-", "−")


def find_row(table: ScoreTable, name: str) -> Recipe | None:
    """The row of a table that a name means: as the table calls it, or its trainer or config; None if there is none.

    Raises:
        UnknownNameError: it means several rows.
    """
    wanted = name.casefold()
    spellings = (
        lambda recipe: {table.names[recipe]},
        lambda recipe: {recipe.label, recipe.variant, recipe.config},
        lambda recipe: {recipe.trainer},
    )
    for spelling in spellings:
        found = [recipe for recipe in table.recipes() if wanted in {each.casefold() for each in spelling(recipe)}]
        if len(found) > 1:
            names = ", ".join(f'"{table.names[recipe]}"' for recipe in found)
            raise UnknownNameError(f'--baseline "{name}" means several methods in {table.title}: choose from {names}')
        if found:
            return found[0]
    return None
