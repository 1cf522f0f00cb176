"""Which place of the tables a run has: some have a second one, and several may claim the same.

Trained on all classes and tested on them: that is a point of the few-shot curve, and the source of cross-dataset
transfer and domain generalisation. Such a run has one folder and is named after the setting that was run first. Of
several results that claim one place, none is shown and all are named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

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


def without_conflicts(
    runs: Sequence[FinishedRun], recipes: Mapping[FinishedRun, Recipe]
) -> tuple[list[FinishedRun], list[str]]:
    """The runs that have their place for themselves, and a line about each place with several."""
    places: defaultdict[tuple[object, ...], list[FinishedRun]] = defaultdict(list)
    for run in runs:
        places[place_of(run, recipes[run])].append(run)
    conflicts = [group for group in places.values() if len(group) > 1 and not _agree(group)]
    left_out = {run for group in conflicts for run in group}
    return [run for run in runs if run not in left_out], [_line(group) for group in conflicts]


def place_of(run: FinishedRun, recipe: Recipe) -> tuple[object, ...]:
    """Equal for results that would stand for the same number."""
    shots = 0 if run.setting == "few_shot" and run.zero_shot else run.shots
    classes = run.subsample_classes if run.setting == "other" else ""
    return run.setting, run.part, recipe, run.dataset, classes, shots, run.seed


def _agree(group: Sequence[FinishedRun]) -> bool:
    """Zero-shot CLIP among few-shot results has the same accuracy at each number of shots."""
    by_shots = {run.shots for run in group}
    return group[0].zero_shot and len(by_shots) == len(group) and len({run.accuracy for run in group}) == 1


def _line(group: Sequence[FinishedRun]) -> str:
    run, count = group[0], "two" if len(group) == 2 else len(group)
    what = f"{run.setting} {run.part.replace('_', ' ')}, {run.trainer}, {run.dataset}, seed {run.seed}"
    paths = " and ".join(str(each.path) for each in group)
    return f"{count} results for one run ({what}): {paths}; none is shown: report on a folder with one of them"
