"""Runs as jobs of submitit: on a Slurm cluster, or on this machine the way submitit tries jobs out.

What a job does is safe to submit twice: it ends at once when its run has finished, and waits while another process is
at work on it. submitit keeps its own files, pickled functions among them, in a new folder below <output>/jobs for each
launch: a pickle that lay there before is never read.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import submitit

from dassl.utils.errors import BadValueError, UserError
from experiments.launch.process import CONSOLE_NAME, BusyError, TrainProcess
from experiments.launch.progress import PlainView, Tally
from experiments.plan.runs import ROOT, PlannedRun, dependants
from experiments.plan.status import check_model, is_finished

FOLDER = "jobs"
SECONDS_BETWEEN_LOOKS = 2.0


def do_run(run: PlannedRun) -> None:
    """What a job does. Raises UserError when the run does not finish."""
    while not is_finished(run):
        check_model(run)
        try:
            process = TrainProcess(run, {})
        except BusyError:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            continue
        try:
            process.wait()
        except BaseException:  # the job is being cancelled
            process.end()
            raise
        if why := process.failure():
            raise UserError(why)


class JobProcess:
    """A job at work on a run, as `experiments.launch.workers.Launch` wants its processes."""

    def __init__(self, run: PlannedRun, job: submitit.Job) -> None:
        self.run, self.job, self.console = run, job, run.folder / CONSOLE_NAME

    def poll(self) -> int | None:
        return 0 if self.job.done() else None

    def end(self) -> None:
        """Cancel the job and wait for its end."""
        self.job.cancel()
        self.job.wait()

    def failure(self) -> str | None:
        """Why the ended job did not finish its run, in one line; None when it did."""
        try:
            if is_finished(self.run):
                return None
        except UserError as error:
            return str(error)
        return f"job {self.job.job_id} ended as {self.job.state} without a result ({self.job.paths.stderr})"


def make_executor(cluster: str, output: Path, parameters: Mapping[str, str | int]) -> submitit.AutoExecutor:
    """submitit's executor; jobs find the project wherever they run.

    Args:
        cluster: slurm or local.
        parameters: such as slurm_partition, timeout_min, gpus_per_node.

    Raises:
        BadValueError: no Slurm here, or an unknown parameter.
    """
    paths = (str(ROOT), os.environ.get("PYTHONPATH", ""))
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    try:
        executor = submitit.AutoExecutor(folder=output / FOLDER / uuid.uuid4().hex[:12] / "%j", cluster=cluster)
        executor.update_parameters(**{"name": "prompts"} | dict(parameters))
    except (RuntimeError, NameError, TypeError, ValueError, AssertionError) as error:
        raise BadValueError(f"--launcher {cluster}: {' '.join(str(error).split())}") from error
    return executor


class Queue:
    """All runs in the queue of a cluster at once; a test depends on the job of the training that it needs."""

    def __init__(self, executor: Any, view: PlainView, tally: Tally) -> None:
        self._executor, self._view, self._tally = executor, view, tally

    def submit(self, runs: Sequence[PlannedRun]) -> dict[PlannedRun, JobProcess]:
        """Hand in the runs, each after the one that it needs. Raises UserError when the cluster refuses."""
        jobs: dict[Path, submitit.Job] = {}
        for run in runs:
            needed = jobs.get(run.needs) if run.needs else None
            self._executor.update_parameters(slurm_dependency=f"afterok:{needed.job_id}" if needed else None)
            try:
                jobs[run.folder] = self._executor.submit(do_run, run)
            except (OSError, RuntimeError) as error:
                raise UserError(f"the job for {run.label} was refused: {' '.join(str(error).split())}") from error
            self._view.began(run, f"job {jobs[run.folder].job_id}")
        return {run: JobProcess(run, jobs[run.folder]) for run in runs}

    def watch(self, jobs: dict[PlannedRun, JobProcess]) -> None:
        """Until all jobs have ended; on Ctrl-C the jobs stay in the queue."""
        left, started = dict(jobs), time.monotonic()
        while left:
            for run, process in [(run, process) for run, process in left.items() if process.poll() is not None]:
                del left[run]
                self._collect(run, process, time.monotonic() - started, left)
            self._view.refresh(list(left))
            time.sleep(SECONDS_BETWEEN_LOOKS)

    def _collect(
        self, run: PlannedRun, process: JobProcess, seconds: float, left: dict[PlannedRun, JobProcess]
    ) -> None:
        why = process.failure()
        if why is None:
            self._tally.finished += 1
            self._view.ended(run, seconds)
            return
        self._tally.failures[run] = why
        self._view.failed(run, why)
        for other in dependants(run, left):  # Slurm never starts them
            left.pop(other).job.cancel()
            self._tally.failures[other] = f"needs a run that failed ({run.label})"
            self._view.failed(other, self._tally.failures[other])
