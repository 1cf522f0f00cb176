"""The papers' data sets under their short names, their published figures, and how far a rerun may lie from these."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import trainers  # noqa: F401  registers the methods
from datasets.acquire.names import readers_of_papers
from trainers.core.facts import fact, lineage

from .recipes import Recipe

FIGURES = Path(__file__).parent.parent / "paper_figures.csv"


@cache
def _rows() -> list[dict[str, Any]]:
    """The table of published figures as it is written."""
    with FIGURES.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _readers_in(setting: str) -> dict[str, str]:
    """Registered name of a reader -> its name in the papers' tables, in their order."""
    by_paper_name = {paper_name: name for name, paper_name in readers_of_papers().items()}
    named = dict.fromkeys(row["dataset"] for row in _rows() if row["setting"] == setting)
    return {by_paper_name[name]: name for name in named if name in by_paper_name}


ELEVEN = _readers_in("base2new")
VARIANTS = _readers_in("domain_generalization")
SHORT = ELEVEN | VARIANTS
# Data sets that an average of the papers covers.
AVERAGED = {
    "base2new": tuple(ELEVEN),
    "cross_dataset": tuple(ELEVEN)[1:],
    "domain_generalization": tuple(VARIANTS),
    "few_shot": tuple(ELEVEN),
}
AVERAGE = "Average"
OOD_AVERAGE = "OOD average"
AVERAGE_OVER_TARGETS = " (10 targets)"
"""What some tables write after the average of the cross-dataset setting."""

# Published method, trainer and config file of its recipe, and the settings that it was published for. Recipes of one
# name keep their own rows: three are in circulation as "IVLP". Methods without an entry have no trainer here.
RECIPES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = tuple(
    (row.method, trainer, row.config, row.settings) for trainer in lineage() for row in fact(trainer, "published", ())
)
BACKBONE, SHOTS = "ViT-B/16", 16
STATUSES = (
    "Confirmed: a second source has the same figure; reprinted: read in one later paper; computed or derived: from "
    "given figures; disputed: two sources differ; recalled: sums and harmonic means agree, no second source was at "
    "hand."
)
"""What the statuses of published figures mean."""


@dataclass(frozen=True)
class Published:
    """A published figure, in percent."""

    setting: str
    method: str
    dataset: str
    metric: str
    value: float
    provenance: str
    status: str
    """confirmed (by a second source), reprinted (in one later paper), computed, derived, disputed or recalled."""

    @property
    def band(self) -> float | None:
        """Points within which an outsider's full rerun of a sibling method landed; None if no band is stated."""
        if self.setting != "base2new":
            return None
        if self.metric == "H":
            return 0.5 if self.dataset == AVERAGE else None
        if self.metric == "base":
            return 1.0
        return 4.0 if self.dataset in ("DTD", "EuroSAT") else 2.0


@dataclass(frozen=True)
class Comparison:
    """A measured figure beside a published one."""

    published: Published
    difference: float
    """Measured minus published, in points."""

    @property
    def within(self) -> bool | None:
        """Whether the difference lies in the band; None where no band is stated."""
        band = self.published.band
        return None if band is None else abs(self.difference) <= band + 1e-9


@cache
def published_figures() -> dict[tuple[str, str, str, str], Published]:
    """All published figures by setting, method, data set and metric."""
    figures = {}
    for row in _rows():
        dataset, value = row["dataset"].removesuffix(AVERAGE_OVER_TARGETS), float(row["value"])
        figure = Published(**row | {"dataset": dataset, "value": value})
        figures[figure.setting, figure.method, figure.dataset, figure.metric] = figure
    return figures


def methods(setting: str, recipe: Recipe) -> list[str]:
    """Published methods that the recipe reproduces; none for another backbone or a changed recipe."""
    if recipe.backbone != BACKBONE or not recipe.as_published:
        return []
    row = (recipe.trainer, recipe.config)
    return [method for method, *published, settings in RECIPES if tuple(published) == row and setting in settings]


def compare_with_papers(
    setting: str, recipe: Recipe, dataset: str, metric: str, shots: int | None, mean: float | None
) -> tuple[Comparison, ...]:
    """The published figures of this number, by the short name of its data set (or of its average)."""
    if mean is None or (setting != "few_shot" and shots != SHOTS and not recipe.zero_shot):
        return ()
    figures = published_figures()
    found = (
        figures.get((setting, method, *_as_published(setting, dataset, metric, shots)))
        for method in methods(setting, recipe)
    )
    return tuple(Comparison(figure, mean - figure.value) for figure in found if figure is not None)


def _as_published(setting: str, dataset: str, metric: str, shots: int | None) -> tuple[str, str]:
    """Data set and metric as the table of published figures spells them."""
    if setting == "few_shot":
        return ("Average (11 datasets)" if dataset == AVERAGE else dataset), f"{metric}@{shots}shot"
    return ("OOD average (4 variants)" if dataset == OOD_AVERAGE else dataset), metric


def short_name(dataset: str) -> str:
    return SHORT.get(dataset, dataset)


def in_order(datasets: Iterable[str]) -> list[str]:
    """The papers' data sets in their order, then others by name."""
    ranks = {name: rank for rank, name in enumerate(SHORT)}
    return sorted(set(datasets), key=lambda name: (ranks.get(name, len(ranks)), name))
