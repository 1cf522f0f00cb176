"""Trainings that two settings share.

Trained on all classes and tested on them: that is a point of the few-shot curve, and the source of cross-dataset
transfer and domain generalisation. Such a run has one folder and is named after the setting that was run first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from .conflicts import place_of
from .recipes import Recipe
from .runs import FinishedRun

USUAL_SOURCES = frozenset({"ImageNet", "Shapes"})


def shared_runs(runs: Sequence[FinishedRun], recipes: Mapping[FinishedRun, Recipe]) -> dict[FinishedRun, Recipe]:
    """Shared runs under the name of their other setting, where no run of that setting has the place."""
    trained = [run for run in runs if not run.zero_shot]
    curves = {(recipes[run], run.dataset) for run in trained if run.setting == "few_shot"}
    tested = {(recipes[run], run.shots, run.seed): run.setting for run in trained if run.part == "target"}
    sources = USUAL_SOURCES | {run.dataset for run in trained if run.part == "source"}
    taken = {place_of(run, recipes[run]) for run in runs}
    copies = {}
    for run in trained:
        setting = tested.get((recipes[run], run.shots, run.seed))
        if run.part == "source" and (recipes[run], run.dataset) in curves:
            copies[replace(run, setting="few_shot", part="all")] = recipes[run]
        elif run.setting == "few_shot" and setting and run.dataset in sources:
            copies[replace(run, setting=setting, part="source")] = recipes[run]
    return {run: recipe for run, recipe in copies.items() if place_of(run, recipe) not in taken}
