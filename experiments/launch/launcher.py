"""The launcher: it works through a plan with jobs of submitit, on this machine or on a Slurm cluster.

Whether a job succeeded is read from its run's result.json; a failed job gives the reason in its log. submitit's own
results are pickles, which are not read. The folder of a run is locked by its train.py: after `kill -9` of a launcher
its runs continue, and the next launcher waits for them instead of starting them a second time.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import submitit

from dassl.utils.errors import BadValueError, UserError, one_line
from dassl.utils.locks import ALREADY_AT_WORK, BusyError, lock
from experiments.launch.estimate import Estimate
from experiments.launch.job import failure_in, last_words, run_command
from experiments.launch.progress import PlainView, Tally
from experiments.launch.workers import Worker
from experiments.plan.runs import ROOT, PlannedRun, dependants, short_path
from experiments.plan.status import check_model, is_finished

TRAIN_PROGRAM = ROOT / "train.py"
CONSOLE_NAME = "console.txt"
"""In the folder of a run that the launcher started: all that the run printed, errors included."""
SLURM_FOLDER = "jobs"
POLL_INTERVAL_S = 0.2
SLURM_POLL_INTERVAL_S = 2.0
SECONDS_UNTIL_RETRY = 5.0
NO_TIMEOUT_MIN = 60 * 24 * 3650
"""submitit ends a job after some minutes unless it is told otherwise; ten years are long enough."""


@dataclass(eq=False, frozen=True)
class Job:
    """A run at work."""

    run: PlannedRun
    worker: Worker
    handle: submitit.Job[Any]
    started: float

    def failure(self) -> str | None:
        """Why the ended job did not finish its run, in one line; None when it did."""
        if why := failure_in(self.handle.stdout() or ""):
            return f"{why} [{short_path(self.run.folder / CONSOLE_NAME)}]"
        try:
            if is_finished(self.run):
                return None
        except UserError as error:
            return str(error)
        log = "" if self.worker.name else f" [{self.handle.paths.stderr}]"  # on this machine it is about to be removed
        words = last_words(self.handle.stderr() or "")
        return f"job {self.handle.job_id} ended as {self.handle.state} without a result: {words}{log}"


class Launch:
    """Works through a plan by jobs on this machine, one at a time for each worker.

    A run begins after the run that it needs. A failed run stops only what needs it. When the launcher is interrupted,
    it ends its jobs first.

    Args:
        folder: for submitit's own files. A new one for each launch: a pickle that lay there before is never read.
        estimate: of the time that is left; None: none is shown.
    """

    poll_interval_s = POLL_INTERVAL_S

    def __init__(
        self, workers: Sequence[Worker], folder: Path, view: PlainView, tally: Tally, estimate: Estimate | None = None
    ) -> None:
        self._workers, self._folder, self._view, self._tally = workers, folder, view, tally
        self._estimate = estimate
        self._waiting: list[PlannedRun] = []
        self._jobs: list[Job] = []
        self._busy_until: dict[PlannedRun, float] = {}

    def work(self, runs: Sequence[PlannedRun]) -> None:
        """Run until the queue is empty.

        Raises:
            UserError: a job cannot be submitted.
        """
        self._waiting = list(runs)
        try:
            while self._waiting or self._jobs:
                self._collect()
                self._begin()
                self._view.refresh([job.run for job in self._jobs])
                time.sleep(self.poll_interval_s)
        finally:
            self._end()

    def _free_worker(self) -> Worker | None:
        at_work = [job.worker for job in self._jobs]
        return next((worker for worker in self._workers if worker not in at_work), None)

    def _awaited(self) -> set[Path]:
        """Folders of the runs that have to end before a run that needs them is submitted."""
        return {run.folder for run in [*self._waiting, *(job.run for job in self._jobs)]}

    def _prepare(self, run: PlannedRun) -> None:
        """Check that a run can begin, and prepare its folder.

        Raises:
            UserError: it cannot.
            BusyError: it cannot begin now.
        """
        claim(run)

    def _submit(self, run: PlannedRun, worker: Worker) -> submitit.Job[Any]:
        # submitit empties CUDA_VISIBLE_DEVICES and knows GPUs by numbers only: the job gets the worker's variables
        with _out_of_reach_of_ctrl_c():
            arguments = (*_command(run), worker.environment)
            return submit("local", self._folder, {"timeout_min": NO_TIMEOUT_MIN}, run, run_command, *arguments)

    def _end(self) -> None:
        """End all jobs. SIGTERM may come before a job listens to it: it is repeated."""
        while left := [job.handle for job in self._jobs if not job.handle.done()]:
            for handle in left:
                os.kill(int(handle.job_id), signal.SIGTERM)  # `cancel` sends SIGINT and kills after a second
            time.sleep(self.poll_interval_s)

    def _collect(self) -> None:
        """Handle the jobs that have ended."""
        for job in [job for job in self._jobs if job.handle.done()]:
            if job not in self._jobs:  # dropped: the run that it needs has failed
                continue
            self._jobs.remove(job)
            why = job.failure()
            if why is None:
                seconds = time.monotonic() - job.started
                if self._estimate is not None:
                    self._estimate.add(job.run, seconds)
                self._finish(job.run, seconds)
            elif ALREADY_AT_WORK in why:  # another launch was faster
                self._wait_for_other(job.run)
            else:
                self._fail(job.run, why)

    def _begin(self) -> None:
        """Submit what can begin."""
        while (worker := self._free_worker()) and (run := self._next()):
            self._waiting.remove(run)
            if self._is_ready(run):
                job = Job(run, worker, self._submit(run, worker), time.monotonic())
                self._jobs.append(job)
                self._view.began(run, worker.name or f"job {job.handle.job_id}")

    def _next(self) -> PlannedRun | None:
        """The first waiting run that can begin: it needs no other run first, and no other launch works on it."""
        awaited, now = self._awaited(), time.monotonic()
        for run in self._waiting:
            if run.needs not in awaited and self._busy_until.get(run, 0.0) <= now:
                return run
        return None

    def _is_ready(self, run: PlannedRun) -> bool:
        """Whether the run is to be submitted now."""
        try:
            if is_finished(run):  # by another launch, since this one was planned
                self._finish(run, 0.0)
                return False
            self._prepare(run)
        except BusyError:
            self._wait_for_other(run)
            return False
        except UserError as error:
            self._fail(run, str(error))
            return False
        return True

    def _wait_for_other(self, run: PlannedRun) -> None:
        """Try again later: a process of another launch, or of one that was killed, is at work on the run."""
        if run not in self._busy_until:
            self._view.say(f"waiting for the process at work on {run.label}")
        self._busy_until[run] = time.monotonic() + SECONDS_UNTIL_RETRY
        self._waiting.append(run)

    def _finish(self, run: PlannedRun, seconds: float) -> None:
        self._tally.finished += 1
        self._tally.left = self._time_left()
        self._view.ended(run, seconds)

    def _time_left(self) -> str:
        if self._estimate is None:
            return ""
        now = time.monotonic()
        working = {job.run: now - job.started for job in self._jobs}
        return self._estimate.left(self._waiting, working, len(self._workers))

    def _fail(self, run: PlannedRun, why: str) -> None:
        self._tally.failures[run] = why
        self._view.failed(run, why)
        for job in [job for job in self._jobs if job.run.needs == run.folder]:  # Slurm would never start them
            self._jobs.remove(job)
            self._waiting.append(job.run)
            job.handle.cancel()
        for other in dependants(run, self._waiting):
            self._waiting.remove(other)
            self._fail(other, f"needs a run that failed ({run.label})")


class SlurmLaunch(Launch):
    """Submits all runs to the queue of a cluster at once; a test depends on the job of the training that it needs.

    The jobs stay in the queue when the launcher ends.
    """

    poll_interval_s = SLURM_POLL_INTERVAL_S

    def __init__(self, output: Path, parameters: Mapping[str, str | int], view: PlainView, tally: Tally) -> None:
        folder = output / SLURM_FOLDER / uuid.uuid4().hex[:12] / "%j"
        super().__init__([Worker("")], folder, view, tally)  # Slurm finds the places
        self._parameters = dict(parameters)
        make_executor("slurm", folder, parameters)  # a wrong parameter is named before the first submission

    def submit(self, runs: Sequence[PlannedRun]) -> None:
        """Submit all runs and return.

        Raises:
            UserError: the cluster refuses one.
        """
        self._waiting = list(runs)
        self._begin()

    def _free_worker(self) -> Worker | None:
        return self._workers[0]

    def _awaited(self) -> set[Path]:
        return {run.folder for run in self._waiting}

    def _prepare(self, run: PlannedRun) -> None:
        """Nothing: a job waits by itself while another process is at work."""

    def _submit(self, run: PlannedRun, worker: Worker) -> submitit.Job[Any]:
        needed = [job.handle.job_id for job in self._jobs if job.run.folder == run.needs]
        after = {"slurm_dependency": f"afterok:{needed[0]}"} if needed else {}
        return submit("slurm", self._folder, self._parameters | after, run, do_run, run)

    def _end(self) -> None:
        """Nothing."""


def do_run(run: PlannedRun) -> None:
    """What a job on a cluster does. It is safe to submit twice.

    It ends at once when its run has finished, and waits while another process is at work on it.

    Raises:
        UserError: the run does not finish.
    """
    while not is_finished(run):
        check_model(run)
        try:
            claim(run)
        except BusyError:
            time.sleep(SLURM_POLL_INTERVAL_S)
            continue
        why = run_command(*_command(run), {})
        if why is not None and ALREADY_AT_WORK in why:  # another job was faster
            continue
        if why is not None or not is_finished(run):
            raise UserError(why or "it ended without a result")


def claim(run: PlannedRun) -> None:
    """Empty the console file of an earlier attempt, unless somebody is at work on the run.

    Raises:
        BusyError: another process is at work on the run.
        UserError: the folder cannot be written.
    """
    console = run.folder / CONSOLE_NAME
    taken = lock(run.folder)
    try:
        console.write_bytes(b"")
    except OSError as error:
        raise UserError(f"cannot write {console}: {error.strerror or error}") from error
    finally:
        taken.release()


def _command(run: PlannedRun) -> tuple[list[str], Path, Path]:
    """Command, working directory and console file of a run."""
    return [sys.executable, str(TRAIN_PROGRAM), *run.arguments], TRAIN_PROGRAM.parent, run.folder / CONSOLE_NAME


def make_executor(cluster: str, folder: Path, parameters: Mapping[str, str | int]) -> submitit.AutoExecutor:
    """submitit's executor.

    Args:
        cluster: slurm or local.
        folder: for submitit's own files.
        parameters: such as slurm_partition, timeout_min, gpus_per_node.

    Raises:
        BadValueError: no Slurm here, or an unknown parameter.
    """
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(**{"name": "prompts"} | dict(parameters))
    except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
        raise BadValueError(f"--launcher {cluster}: {one_line(error, 1000)}") from error
    return executor


def submit(
    cluster: str, folder: Path, parameters: Mapping[str, str | int], run: PlannedRun, function: Any, *arguments: Any
) -> submitit.Job[Any]:
    """Submit a job, which finds this project wherever it runs.

    Each job has its own executor: submitit's keeps a dependency once it is set.

    Raises:
        UserError: it is refused.
    """
    paths = os.pathsep.join(path for path in (str(ROOT), os.environ.get("PYTHONPATH", "")) if path)
    executor = make_executor(cluster, folder, parameters)
    try:
        with submitit.helpers.environment_variables(PYTHONPATH=paths):
            return executor.submit(function, *arguments)
    except (OSError, RuntimeError) as error:
        raise UserError(f"the job for {run.label} was refused: {one_line(error, 1000)}") from error


@contextmanager
def _out_of_reach_of_ctrl_c() -> Iterator[None]:
    """Processes that are started inside ignore Ctrl-C on the terminal: they inherit the blocked signal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
