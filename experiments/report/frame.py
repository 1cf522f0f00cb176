"""Finished runs as one tidy table: a row for each run, a column for each fact and each measured quantity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from trainers.core.facts import lineage

from .recipes import Recipe
from .runs import Run

TITLES = {
    "base2new": "Base to new",
    "cross_dataset": "Cross-dataset transfer",
    "domain_generalization": "Domain generalisation",
    "few_shot": "Few-shot",
    "other": "Other runs",
}
LINEAGE = lineage()
"""Trainers in the order of their papers, as the papers' tables have them."""
MEASURED = ("accuracy", "training s", "test s", "peak MiB")


def recipe_order(recipe: Recipe) -> tuple[object, ...]:
    rank = LINEAGE.index(recipe.trainer) if recipe.trainer in LINEAGE else len(LINEAGE)
    return rank, recipe


def run_frame(runs: Iterable[Run], recipes: Mapping[Run, Recipe]) -> pd.DataFrame:
    """A row for each run, in the order of `runs`: where it belongs, and what it measured.

    Accuracy in percent, times in seconds, memory in MiB; NaN where a run did not measure it. All tables are made from
    this one, so a new quantity starts here.
    """
    rows = [
        {
            "run": run,
            "recipe": recipes[run],
            "setting": run.setting,
            "backbone": run.backbone,
            "trainer": run.trainer,
            "config": recipes[run].variant,
            "dataset": run.dataset,
            "part": run.part,
            "shots": run.shots,
            "seed": run.seed,
            "accuracy": run.accuracy,
            "training s": run.train_seconds if run.trained else None,
            "test s": run.test_seconds,
            "peak MiB": None if run.peak_memory_bytes is None else run.peak_memory_bytes / 2**20,
            "device": run.device,
        }
        for run in runs
    ]
    frame = pd.DataFrame(rows)
    return frame.astype({name: float for name in MEASURED}) if rows else frame
