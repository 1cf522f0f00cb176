"""The hours that declared experiments will take on this machine: `python -m tools.benchmark --plan FILE`.

What a run consists of follows from its configuration and from the published size of its data set
(its reader): training steps and test batches, each on a number of classes. Both are measured with
random weights for each kind, at no more than three class counts, and interpolated in between.
Class subsets are taken to have their share of the test images. Left out: the starts of the processes, and waiting for
images to load.
"""

from __future__ import annotations

import argparse
import io
import math
import multiprocessing
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from tabulate import tabulate

from dassl.utils import UserError
from experiments.launch.gpus import shared_gpus
from experiments.plan.declaration import Selection, declared_runs
from experiments.plan.runs import PlannedRun
from experiments.plan.settings import Places
from experiments.plan.work import Work, work_of
from tools.bench import Bench, write_report
from trainers.core.captured import CudaRecorder
from trainers.core.replay import CpuRecorder

CLASS_COUNTS = 3
"""Class counts at which a recipe is measured."""
SECONDS_TO_WAIT = 300
"""Timeout for the other processes, one of which may have failed."""


@dataclass(frozen=True)
class StepKind:
    """What the cost of a step depends on, besides the number of classes."""

    trainer: str
    config_file: str
    options: tuple[tuple[str, str], ...]
    batch_size: int
    test_batch_size: int


def measured_counts(counts: Iterable[int]) -> list[int]:
    """The smallest and the largest number of classes, and the one nearest to their geometric mean."""
    known = sorted(set(counts))
    if len(known) <= CLASS_COUNTS:
        return known
    middle = math.sqrt(known[0] * known[-1])
    return [known[0], min(known[1:-1], key=lambda count: abs(math.log(count / middle))), known[-1]]


@dataclass(frozen=True)
class Costs:
    """Seconds of a step and of a test batch of one recipe at some class counts."""

    classes: Sequence[int]
    step: Sequence[float]
    test: Sequence[float]

    def of(self, work: Work) -> float:
        """Seconds of a run."""
        step, test = (float(np.interp(work.classes, self.classes, seconds)) for seconds in (self.step, self.test))
        return work.steps * step + work.test_batches * test


def measured_costs(args: argparse.Namespace, kind: StepKind, counts: Sequence[int], trains: bool) -> Costs:
    """Costs of a kind, with one process for each run that will share the GPU."""
    options = [word for pair in kind.options for word in pair]
    rows = []
    for classes in counts:
        settings = vars(args) | {
            "trainer": kind.trainer,
            "config_file": kind.config_file,
            "opts": [*options, *args.opts],
            "batch_size": kind.batch_size,
            "eval_batch_size": min(kind.test_batch_size, args.eval_batch_size),
        }
        rows.append(_seconds(argparse.Namespace(**settings), classes, trains))
    # a test batch that is measured smaller than it is costs in proportion
    scale = kind.test_batch_size / min(kind.test_batch_size, args.eval_batch_size)
    return Costs(counts, [step for step, _ in rows], [test * scale for _, test in rows])


def _seconds(args: argparse.Namespace, classes: int, trains: bool) -> tuple[float, float]:
    """Seconds of a step and of a test batch; the mean over the processes at work at the same time."""
    if args.per_gpu == 1:
        return _measure_here(args, classes, trains)
    spawn = multiprocessing.get_context("spawn")
    with spawn.Pool(args.per_gpu, _set_barrier, (spawn.Barrier(args.per_gpu),)) as pool:
        results = pool.starmap(_measure_here, [(args, classes, trains)] * args.per_gpu, chunksize=1)
    steps, tests = zip(*results, strict=True)
    return sum(steps) / len(steps), sum(tests) / len(tests)


_barrier: Any = None


def _set_barrier(barrier: Any) -> None:
    global _barrier
    _barrier = barrier


def _measure_here(args: argparse.Namespace, classes: int, trains: bool) -> tuple[float, float]:
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder, redirect_stdout(io.StringIO()) as printed:
        bench = Bench(args, classes, folder)
        step = _median(bench, bench.step, args.repeats) if trains else 0.0
        test = _median(bench, bench.evaluate, args.repeats)
    for line in printed.getvalue().splitlines():
        if line.startswith((f"{CudaRecorder.name}:", f"{CpuRecorder.name}:")):  # what the figures depend on
            print(line)
    return step, test


def _median(bench: Bench, run: Callable[[], object], repeats: int) -> float:
    """Median seconds of a warm call, begun together with the other processes."""
    bench.warm_up(run)
    if _barrier is not None:
        _barrier.wait(SECONDS_TO_WAIT)
    return bench.seconds(run, repeats)


def hours(args: argparse.Namespace, runs: Iterable[PlannedRun]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """For each data set: runs, steps, test batches and hours; and what was measured for each kind.

    Raises:
        UserError: the size of a data set is not known.
    """
    by_kind: dict[StepKind, list[tuple[str, Work]]] = defaultdict(list)
    for run in runs:
        work = work_of(run)
        config_file = str(run.method.config_path(run.config_file.stem))
        kind = StepKind(run.method.trainer, config_file, run.options, work.batch_size, work.test_batch_size)
        by_kind[kind].append((run.dataset, work))
    rows, measured = [], []
    for kind, works in by_kind.items():
        counts = measured_counts(work.classes for _, work in works)
        costs = measured_costs(args, kind, counts, any(work.steps for _, work in works))
        name = f"{kind.trainer} {Path(kind.config_file).stem}"
        measured.append({"recipe": name, "classes": counts, "step [s]": costs.step, "test batch [s]": costs.test})
        print(f"measured {name} at {counts} classes")
        rows += [
            (dataset, 1, work.steps, work.test_batches, costs.of(work) / args.per_gpu / 3600) for dataset, work in works
        ]
    table = pd.DataFrame(rows, columns=["data set", "runs", "steps", "test batches", "hours"])
    return pd.DataFrame(table.groupby("data set", sort=False).sum()), measured


def planned(args: argparse.Namespace) -> list[PlannedRun]:
    """The selected runs of the declared experiment.

    Raises:
        UserError: the file cannot be read, or what it declares is not possible.
    """
    selection = Selection(tuple(args.trainers), datasets=tuple(args.datasets))
    return declared_runs([args.plan], selection, Places(Path("data").absolute(), Path("output").absolute()))


def main(args: argparse.Namespace) -> None:
    """Measure and print.

    Raises:
        UserError: an error that the user can fix, on one line.
    """
    if args.per_gpu < 1:
        raise UserError(f"--per-gpu should be at least 1, not {args.per_gpu}")
    runs = planned(args)
    with shared_gpus(args.per_gpu if args.device == "cuda" else 1) as variables, mock.patch.dict(os.environ, variables):
        table, measured = hours(args, runs)
    rows = table.to_dict("index")
    total = {name: table[name].sum().item() for name in table}
    write_report(args, total=total, rows=rows, measured=measured)
    lines = [{"data set": name, **row} for name, row in [*rows.items(), ("total", total)]]
    print(tabulate(lines, headers="keys", floatfmt=".4f", intfmt=","))
    print(f"{args.per_gpu} at a time; without the starts of the processes and the loading of images")
