"""Runs on this machine: as many at a time as there are workers, each on its GPU or on one CPU thread."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from dassl.utils.errors import UserError
from experiments.launch.gpus import visible_gpus
from experiments.launch.process import BusyError
from experiments.launch.progress import PlainView, Tally
from experiments.plan.runs import PlannedRun, dependants, short
from experiments.plan.status import is_finished

SECONDS_BETWEEN_LOOKS = 0.2
SECONDS_UNTIL_RETRY = 5.0


class Process(Protocol):
    """Something at work on a run: a process, or a job."""

    run: PlannedRun
    console: Path

    def poll(self) -> int | None: ...

    def end(self) -> None: ...

    def failure(self) -> str | None: ...


@dataclass
class Worker:
    """A place for one run at a time."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)
    process: Process | None = None
    started: float = 0.0


def make_workers(count: int | None, per_gpu: int = 1) -> list[Worker]:
    """Workers on the GPUs that CUDA_VISIBLE_DEVICES allows, in turns; without GPU, on one thread each.

    Args:
        count: how many; by default `per_gpu` for each GPU, or one for each CPU core.
        per_gpu: runs at a time on each GPU.
    """
    gpus, cores = visible_gpus(), len(os.sched_getaffinity(0))
    if not gpus:
        threads = {"OMP_NUM_THREADS": "1"}
        return [Worker(f"CPU worker {k + 1}", threads) for k in range(count or cores)]
    names = [gpus[k % len(gpus)] for k in range(count or per_gpu * len(gpus))]
    # the runs' threads share the cores
    threads = {"OMP_NUM_THREADS": str(max(1, cores // len(names)))} if len(names) > len(gpus) else {}
    return [Worker(f"GPU {name}", {"CUDA_VISIBLE_DEVICES": name} | threads) for name in names]


@dataclass
class Launch:
    """Works off a plan. A run begins when the run that it needs has finished; a failing one only stops what needs it.

    Args:
        start: begins a run with the environment of a worker; raises BusyError, or UserError when it cannot begin.
    """

    workers: Sequence[Worker]
    start: Callable[[PlannedRun, Mapping[str, str]], Process]
    view: PlainView
    tally: Tally
    _waiting: list[PlannedRun] = field(default_factory=list)
    _busy_until: dict[PlannedRun, float] = field(default_factory=dict)

    def work(self, runs: Sequence[PlannedRun]) -> None:
        """Until nothing is left. On Ctrl-C (KeyboardInterrupt) the runs at work are ended first."""
        self._waiting = list(runs)
        try:
            while self._waiting or self._working():
                self._collect()
                self._begin()
                self.view.refresh([worker.process.run for worker in self._working()])
                time.sleep(SECONDS_BETWEEN_LOOKS)
        finally:
            for worker in self._working():
                worker.process.end()

    def _working(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.process is not None]

    def _collect(self) -> None:
        """Take what has ended from the workers."""
        for worker in self._working():
            if worker.process.poll() is None:
                continue
            process, worker.process = worker.process, None
            why = process.failure()
            if why is None:
                self._finish(process.run, time.monotonic() - worker.started)
            else:
                self._fail(process.run, f"{why} [{short(process.console)}]")

    def _begin(self) -> None:
        """Give free workers what can begin."""
        for worker in self.workers:
            run = self._next() if worker.process is None else None
            if run is None:
                continue
            self._waiting.remove(run)
            try:
                self._start(run, worker)
            except BusyError:
                self._wait_for_other(run)
            except UserError as error:
                self._fail(run, str(error))

    def _start(self, run: PlannedRun, worker: Worker) -> None:
        if is_finished(run):  # by another launch, since this one was planned
            self._finish(run, 0.0)
            return
        worker.process, worker.started = self.start(run, worker.environment), time.monotonic()
        self.view.began(run, worker.name)

    def _next(self) -> PlannedRun | None:
        """The first waiting run that neither waits for another one nor is at work elsewhere."""
        awaited = {run.folder for run in self._waiting} | {worker.process.run.folder for worker in self._working()}
        now = time.monotonic()
        for run in self._waiting:
            if run.needs not in awaited and self._busy_until.get(run, 0.0) <= now:
                return run
        return None

    def _wait_for_other(self, run: PlannedRun) -> None:
        """A process of another launch, or of one that was killed, is at work on it."""
        if run not in self._busy_until:
            self.view.say(f"waiting for the process at work on {run.label}")
        self._busy_until[run] = time.monotonic() + SECONDS_UNTIL_RETRY
        self._waiting.append(run)

    def _finish(self, run: PlannedRun, seconds: float) -> None:
        self.tally.finished += 1
        self.view.ended(run, seconds)

    def _fail(self, run: PlannedRun, why: str) -> None:
        self.tally.failures[run] = why
        self.view.failed(run, why)
        for other in dependants(run, self._waiting):
            self._waiting.remove(other)
            self._fail(other, f"needs a run that failed ({run.label})")
