"""The generated data sets that a plan needs."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from experiments.plan.methods import EMBEDDED
from experiments.plan.runs import PlannedRun, short_path
from shapes_world.generate import generate, is_complete
from shapes_world.suites import SUITES

_NAMES = {suite.folder: suite.name for suite in SUITES.values()}


def missing_data(runs: Iterable[PlannedRun]) -> list[tuple[Path, str]]:
    """Data folder and data set, each once, of what is to be generated."""
    needed = {(run.data, run.dataset): None for run in runs if run.dataset in EMBEDDED}
    return [(root, name) for root, name in needed if not is_complete(root, _NAMES[name])]


def generate_data(runs: Sequence[PlannedRun]) -> None:
    """Write what is missing.

    Raises:
        UserError: that is not possible.
    """
    for root, name in missing_data(runs):
        generate(root, [name])


def generate_commands(runs: Iterable[PlannedRun]) -> list[str]:
    """The same as lines for a shell."""
    return [
        shlex.join(["python", "-m", "shapes_world.generate", "--root", short_path(root), name])
        for root, name in missing_data(runs)
    ]
