"""What `python -m experiments run` does: it plans the declared runs and does those that have not finished."""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from yacs.config import CfgNode

from dassl.command_line import shown_program
from dassl.utils import write_json
from dassl.utils.errors import BadValueError, UserError
from dassl.utils.locks import locked_while_writing
from dassl.utils.numerals import whole_number
from experiments.arguments import PROGRAM
from experiments.launch.estimate import Estimate, seconds_of_result
from experiments.launch.gpus import runs_per_gpu, shared_gpus, visible_gpus
from experiments.launch.launcher import Launch, SlurmLaunch
from experiments.launch.progress import PlainView, Tally, make_view, report_failures
from experiments.launch.workers import Worker, make_workers
from experiments.plan.declaration import Selection, declared_runs
from experiments.plan.generated import generate_commands, generate_data
from experiments.plan.runs import PlannedRun, short_path
from experiments.plan.settings import Places
from experiments.plan.status import is_finished
from runner.result import PLAN_NAME, read_plan, read_result
from trainers import check_all_ranges


def check_configs(runs: Sequence[PlannedRun]) -> None:
    """Read each config file once with each set of overrides.

    Raises:
        UserError: what would fail hours later.
    """
    seen = set()
    for run in runs:
        key = (run.method, run.config_file, run.options)
        if key not in seen:
            check_all_ranges(CfgNode(run.config()))
            seen.add(key)


def record_plan(output: Path, runs: Sequence[PlannedRun]) -> None:
    """Add the runs' folders to the output folder's plan, from which a report knows what is missing."""
    path = output / PLAN_NAME
    with locked_while_writing(output):  # between reading and writing, another launch's folders would be lost
        planned = set(read_plan(output)) | {os.path.relpath(run.folder, output) for run in runs}
        write_json({"folders": sorted(planned)}, path)


def split_finished(runs: Sequence[PlannedRun], tally: Tally) -> list[PlannedRun]:
    """The runs that are left to do. The tally counts the finished ones and takes those that cannot be done."""
    left = []
    for run in runs:
        try:
            if is_finished(run):
                tally.skipped += 1
            else:
                left.append(run)
        except UserError as error:
            tally.failures[run] = str(error)
    blocked = {run.folder for run in tally.failures}
    for run in [run for run in left if run.needs in blocked]:
        left.remove(run)
        tally.failures[run] = "needs a run that cannot be done"
    return left


def parameters(pairs: Sequence[str]) -> dict[str, str | int]:
    """KEY=VALUE pairs.

    Raises:
        BadValueError: a text is not such a pair.
    """
    found: dict[str, str | int] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise BadValueError(f"--slurm takes KEY=VALUE, for instance slurm_partition=gpu, not {pair!r}")
        number = whole_number(value)
        found[key] = value if number is None else number
    return found


def estimate_from(finished: Iterable[PlannedRun]) -> Estimate:
    """What runs of an earlier launch say about the time that others need."""
    estimate = Estimate()
    for run in finished:
        seconds = seconds_of_result(read_result(run.folder) or {})
        if seconds > 0:
            estimate.add(run, seconds)
    return estimate


def work_here(
    workers: Sequence[Worker], runs: Sequence[PlannedRun], view: PlainView, tally: Tally, estimate: Estimate
) -> None:
    """Do the runs on this machine, several at a time on each GPU.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
    """
    names = [worker.environment.get("CUDA_VISIBLE_DEVICES") for worker in workers]
    sharing = max(names.count(name) for name in names) if names[0] is not None else 1
    folder = tempfile.TemporaryDirectory(prefix="jobs-", ignore_cleanup_errors=True)
    with folder, shared_gpus(sharing if runs else 1, view.say) as variables:
        for worker in workers:
            worker.environment |= variables
        Launch(workers, Path(folder.name), view, tally, estimate).work(runs)


def runs_at_a_time(args: argparse.Namespace) -> int:
    """Runs at a time on each GPU, unless --workers gives the number of all."""
    gpus = visible_gpus()
    if args.per_gpu is not None or args.workers is not None or not gpus:
        return args.per_gpu or 1
    return runs_per_gpu(gpus, len(os.sched_getaffinity(0)))


def check_launch_flags(args: argparse.Namespace) -> None:
    """Check the flags of a launch.

    Raises:
        BadValueError: a number of workers makes no sense, or a flag would have no effect.
    """
    if args.workers is not None and args.workers < 1:
        raise BadValueError(f"--workers should be at least 1, not {args.workers}")
    if args.launcher == "local" and (args.slurm or args.no_wait):
        raise BadValueError("--slurm and --no-wait are for jobs on a cluster: add --launcher slurm")
    if args.launcher == "slurm" and args.workers is not None:
        raise BadValueError("--workers and --launcher slurm exclude each other: Slurm decides how many run at a time")
    if args.per_gpu is None:
        return
    if args.launcher == "slurm" or args.workers is not None:
        other = "--workers" if args.workers is not None else f"--launcher {args.launcher}"
        raise BadValueError(f"--per-gpu and {other} exclude each other: give one of them")
    if args.per_gpu < 1:
        raise BadValueError(f"--per-gpu should be at least 1, not {args.per_gpu}")
    if not visible_gpus():
        raise BadValueError("--per-gpu needs a GPU, and PyTorch sees none: use --workers")


def work_on_cluster(args: argparse.Namespace, runs: Sequence[PlannedRun], view: PlainView, tally: Tally) -> None:
    """Hand the runs to Slurm.

    Raises:
        UserError: the cluster refuses one.
        KeyboardInterrupt: after Ctrl-C.
    """
    launch = SlurmLaunch(Path(args.output_dir).absolute(), parameters(args.slurm), view, tally)
    if args.no_wait:
        launch.submit(runs)
    else:
        launch.work(runs)


def main(args: argparse.Namespace) -> int:
    """Exit status: 0 when all is done, 1 when a run failed, 130 after Ctrl-C.

    Raises:
        UserError: an error that the user can fix, on one line.
    """
    check_launch_flags(args)
    output = Path(args.output_dir).absolute()
    selection = Selection(*map(tuple, (args.trainers, args.settings, args.datasets, args.seeds)))
    runs = declared_runs(args.files, selection, Places(Path(args.root).absolute(), output))
    check_configs(runs)
    tally = Tally(len(runs))
    left = split_finished(runs, tally)
    if args.dry_run:
        print("\n".join([*generate_commands(left), *(run.command for run in left)]))
        return 0
    record_plan(output, runs)
    generate_data(left)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` ends a launch as Ctrl-C does
    estimate = estimate_from(run for run in runs if run not in left and run not in tally.failures)
    workers = make_workers(args.workers, runs_at_a_time(args)) if args.launcher == "local" else []
    tally.left = estimate.left(left, {}, len(workers)) if workers else ""
    view = make_view(tally)
    try:
        with view:
            for run, why in tally.failures.items():
                view.failed(run, why)
            if args.launcher == "local":
                work_here(workers, left, view, tally, estimate)
            else:
                work_on_cluster(args, left, view, tally)
    except KeyboardInterrupt:
        report_failures(view, tally)
        print("interrupted: the same command continues", file=sys.stderr)
        return 130
    report_failures(view, tally)
    if not args.no_wait and tally.skipped + tally.finished:
        view.say(f"now: {shlex.join([*shown_program(PROGRAM).split(), 'report', short_path(output)])}")
    return 1 if tally.failures else 0
