"""The papers' data sets under their short names, their published figures, and how far a rerun may lie from these."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from .recipes import Recipe

FIGURES = Path(__file__).parent.parent / "paper_figures.csv"

# Registered name of the reader -> name in the papers' tables, in their order.
ELEVEN = {
    "ImageNet": "ImageNet",
    "Caltech101": "Caltech101",
    "OxfordPets": "OxfordPets",
    "StanfordCars": "StanfordCars",
    "OxfordFlowers": "Flowers102",
    "Food101": "Food101",
    "FGVCAircraft": "FGVCAircraft",
    "SUN397": "SUN397",
    "DescribableTextures": "DTD",
    "EuroSAT": "EuroSAT",
    "UCF101": "UCF101",
}
VARIANTS = {
    "ImageNetV2": "ImageNetV2",
    "ImageNetSketch": "ImageNet-Sketch",
    "ImageNetA": "ImageNet-A",
    "ImageNetR": "ImageNet-R",
}
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

TRANSFER = ("cross_dataset", "domain_generalization")
# Published method, trainer and config file of its recipe, and the settings that it was published for. Recipes of one
# name keep their own rows: three are in circulation as "IVLP". Methods without an entry have no trainer here.
RECIPES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("CLIP", "ZeroshotCLIP", "vit_b16", tuple(AVERAGED)),
    ("CoOp", "CoOp", "vit_b16_ep50_ctxv1", ("base2new", *TRANSFER)),
    ("CoOp", "CoOp", "vit_b16_ctxv1", ("base2new",)),
    ("CoOp", "CoOp", "vit_b16_epochs_by_shots", ("few_shot",)),
    ("CoCoOp", "CoCoOp", "vit_b16_c4_ep10_batch1_ctxv1", tuple(AVERAGED)),
    ("VPT-deep (4 ctx, 5 ep)", "VPT", "vit_b16_c2_ep5_batch4_4", ("base2new",)),
    ("DeepLanguagePrompting (4 ctx, 5 ep)", "IVLP", "vit_b16_c2_ep5_batch4_4ctx_language_only", ("base2new",)),
    ("IVLP (2+2 ctx, 5 ep, MaPLe repo)", "IVLP", "vit_b16_c2_ep5_batch4_2+2ctx", ("base2new",)),
    ("IVLP", "IVLP", "vit_b16_c2_ep20_batch4_4+4ctx", ("base2new",)),
    (
        "IVLP (as rerun baseline in Promise summary; ProMetaR-style)",
        "IVLP",
        "vit_b16_c2_ep20_batch4_4+4ctx",
        ("base2new",),
    ),
    ("MaPLe", "MaPLe", "vit_b16_c2_ep5_batch4_2ctx", ("base2new", "few_shot")),
    ("MaPLe", "MaPLe", "vit_b16_c2_ep5_batch4_2ctx_cross_datasets", TRANSFER),
    ("ProMetaR", "ProMetaR", "vit_b16_c2_ep10_batch4_4+4ctx", ("base2new",)),
    ("ProMetaR", "ProMetaR", "vit_b16_c2_ep10_batch4_4+4ctx_cross_datasets", TRANSFER),
)
BACKBONE, SHOTS = "ViT-B/16", 16


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
        """Points within which an outsider's full rerun of a sibling method landed; None where none is stated."""
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
    with FIGURES.open(encoding="utf-8", newline="") as file:
        rows = [Published(**row | {"value": float(row["value"])}) for row in csv.DictReader(file)]
    return {(row.setting, row.method, row.dataset, row.metric): row for row in rows}


def methods(setting: str, recipe: Recipe) -> list[str]:
    """Published methods that the recipe reproduces; none for another backbone or a changed recipe."""
    if recipe.backbone != BACKBONE or not recipe.as_published:
        return []
    row = (recipe.trainer, recipe.config)
    return [method for method, *published, settings in RECIPES if tuple(published) == row and setting in settings]


def compare(
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
