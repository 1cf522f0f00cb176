"""How long the rest of a plan will take, judged by the runs that have ended."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from dassl.utils.errors import UserError
from experiments.plan.runs import PlannedRun
from experiments.plan.work import work_of

TRAINED_IMAGE = 3.0
"""Cost of an image in training; 1 in a test. Forward and backward pass are about three forward passes."""


class Estimate:
    """Seconds that runs need, by their kind: method, config, and whether they train.

    The cost of a run is taken to be proportional to its images. Runs on the same data set say more than others of the
    same kind, and runs of other kinds say nothing.
    """

    def __init__(self) -> None:
        self._measured: defaultdict[tuple[str, ...], list[float]] = defaultdict(lambda: [0.0, 0.0])

    def add(self, run: PlannedRun, seconds: float) -> None:
        """Add a run that has ended."""
        size = _size(run)
        for key in _keys(run, size):
            total = self._measured[key]
            total[0] += seconds
            total[1] += size or 1.0

    def seconds(self, run: PlannedRun) -> float | None:
        """What a run will need; None if no run of its kind has ended."""
        size = _size(run)
        for key in _keys(run, size):
            if key in self._measured:
                seconds, measured = self._measured[key]
                return seconds / measured * (size or 1.0)
        return None

    def left(self, waiting: Iterable[PlannedRun], working: Mapping[PlannedRun, float], workers: int) -> str:
        """What to say about the rest of a plan, such as "about 12 min left"; empty if there is no rest.

        Args:
            waiting: runs that have not begun.
            working: runs at work, each with its seconds so far.
            workers: runs at a time.
        """
        total, unknown = 0.0, 0
        for run, so_far in [*((run, 0.0) for run in waiting), *working.items()]:
            seconds = self.seconds(run)
            if seconds is None:
                unknown += 1
            else:
                total += max(0.0, seconds - so_far)
        runs = number_of_runs(unknown)
        if not total:
            return f"time left: not known before a run of each kind has ended ({runs})" if unknown else ""
        return f"about {duration(total / workers)} left" + (
            f", without {runs} of kinds not seen yet" if unknown else ""
        )


def seconds_of_result(result: Mapping[str, Any]) -> float:
    """Seconds of training and test that a result.json states."""
    parts = (result.get("train_seconds"), result.get("test_seconds"))
    return sum(float(part) for part in parts if isinstance(part, (int, float)))


def number_of_runs(count: int) -> str:
    """Such as "1 run" or "2 runs"."""
    return f"{count} run" if count == 1 else f"{count} runs"


def duration(seconds: float) -> str:
    """Such as 40 s, 12 min or 3 h 20 min."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    if minutes < 90:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 24 * 60 else f"{round(minutes / 60)} h"


def _keys(run: PlannedRun, size: float | None) -> list[tuple[str, ...]]:
    """Keys of a run, the most specific first; a run of unknown size is compared only with runs on the same images."""
    kind = (run.method.trainer, run.config_file.stem, "trains" if run.trains else "tests")
    if size is None:
        return [(*kind, run.dataset, str(run.shots), run.classes, run.variant)]
    return [(*kind, run.dataset), kind]


@cache
def _size(run: PlannedRun) -> float | None:
    """The cost of a run in test images; None if the size of its data set is not known."""
    try:
        work = work_of(run)
    except UserError:
        return None
    return TRAINED_IMAGE * work.steps * work.batch_size + work.test_batches * work.test_batch_size
