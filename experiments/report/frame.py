"""Finished runs as one tidy table: a row for each run, a column for each fact and each measured quantity."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import pandas as pd

from trainers.core.facts import lineage

from .names import names_of
from .recipes import Recipe
from .runs import FinishedRun

TITLES = {
    "base2new": "Base to new",
    "cross_dataset": "Cross-dataset transfer",
    "domain_generalization": "Domain generalisation",
    "few_shot": "Few-shot",
    "other": "Other runs",
}
LINEAGE = lineage()
"""Trainers in the order of their papers, as the papers' tables have them."""


RunFrame: TypeAlias = pd.DataFrame
"""Runs as `run_frame` returns them."""


def recipe_order(recipe: Recipe) -> tuple[object, ...]:
    rank = LINEAGE.index(recipe.trainer) if recipe.trainer in LINEAGE else len(LINEAGE)
    return rank, recipe


OF_RUN = (
    *("setting", "part", "trainer", "backbone", "dataset", "subsample_classes", "shots", "seed"),
    *("accuracy", "device"),
)
"""Columns that are called as in a `FinishedRun`."""
MEASURES = {
    "macro_accuracy": "macro acc.",
    "nll": "NLL",
    "ece": "ECE",
    "adaptive_ece": "adaptive ECE",
    "brier": "Brier",
}
"""Key in the results of a run -> column: what an evaluation measures beside accuracy."""
JOINT = {
    "base_accuracy": "base",
    "new_accuracy": "new",
    "harmonic_mean": "H",
    "auroc": "AUROC",
    "openworld_auc": "OpenworldAUC",
}
"""The same for base and new classes together."""


def run_frame(runs: Iterable[FinishedRun], recipes: Mapping[FinishedRun, Recipe]) -> RunFrame:
    """A row for each run, in the order of `runs`: where it belongs, and what it measured.

    Accuracy in percent, times in seconds, memory in MiB; NaN where a run did not measure it. All tables are made from
    this one, so a new quantity starts here.
    """
    names = names_of(recipes)
    rows = [
        {name: getattr(run, name) for name in OF_RUN}
        | {
            "run": run,
            "recipe": recipes[run],
            "method": names[recipes[run]],
            "config": recipes[run].variant,
            "training s": run.train_seconds if run.trained else None,
            "test s": run.test_seconds,
            "peak MiB": None if run.peak_memory_bytes is None else run.peak_memory_bytes / 2**20,
            "learned values": run.learned_values,
            "GFLOP a step": None if run.step_flops is None else run.step_flops / 1e9,
            **{column: run.measures.get(key) for key, column in MEASURES.items()},
            **{f"joint {column}": run.joint.get(key) for key, column in JOINT.items()},
        }
        for run in runs
    ]
    frame = pd.DataFrame(rows)
    return frame.astype({name: float for name in MEASURED}) if rows else frame


def grouped(frame: pd.DataFrame, keys: Any, sort: bool = True) -> Iterator[tuple[Any, pd.DataFrame]]:
    """Each group of rows with its key; pandas' stubs do not know the types of keys."""
    yield from frame.groupby(keys, sort=sort)


COSTS = ("training s", "test s", "peak MiB", "learned values", "GFLOP a step")
MEASURED = ("accuracy", *COSTS, *MEASURES.values(), *(f"joint {column}" for column in JOINT.values()))
"""Columns of numbers."""
