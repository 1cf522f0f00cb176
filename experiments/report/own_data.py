"""Own data in the tables: called by its folder or CSV file, and never taken for other data of that name."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import printable
from datasets.layout.custom_data import custom_data_name, custom_data_path

from .papers import AVERAGE, OOD_AVERAGE, SHORT
from .runs import FinishedRun

MARK = "(own data)"
"""Behind the name of own data that is called like a known data set."""


def with_own_names(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """The runs, those on own data with its name in the place of their reader's.

    Data of one name in different places keeps as much of its paths as tells them apart. A path is taken as it was
    given, so data that was moved between runs counts as two data sets: their results are not mixed in silence.
    """
    by_name: defaultdict[str, dict[FinishedRun, str]] = defaultdict(dict)
    for run in runs:
        settings = run.full_config.get("DATASET")
        if isinstance(settings, dict):
            given = {"NAME": run.dataset, "PATH": settings.get("PATH")}
            name, path = custom_data_name(given), custom_data_path(given)
            if name and path is not None:
                by_name[name][run] = path
    labels = _labels(by_name)
    taken = {run.dataset for run in runs if run not in labels}
    taken |= {*DATASET_REGISTRY.registered_names(), *SHORT, *SHORT.values(), AVERAGE, OOD_AVERAGE}
    named = {run: f"{label} {MARK}" if label in taken else label for run, label in labels.items()}
    return [replace(run, dataset=printable(named[run])) if run in named else run for run in runs]


def _labels(by_name: Mapping[str, Mapping[FinishedRun, str]]) -> dict[FinishedRun, str]:
    """The name of each run's data, with folders before it where several paths have that name."""
    labels = {}
    for name, group in by_name.items():
        tails = _telling_apart(set(group.values()))
        labels |= {run: name if len(tails) == 1 else tails[path] for run, path in group.items()}
    return labels


def _telling_apart(paths: Iterable[str]) -> dict[str, str]:
    """The fewest last parts of each path by which no two are alike."""
    parts = {path: path.split(os.sep) for path in paths}
    for count in range(1, max(map(len, parts.values())) + 1):
        tails = {path: os.sep.join(names[-count:]) for path, names in parts.items()}
        if len(set(tails.values())) == len(tails):
            return tails
    return {path: path for path in parts}
