"""Time and memory of a training step and a test batch, against the published way of computing them.

    python -m tools.benchmark --trainer ProMetaR --backbone ViT-B/16 --classes 20 50 100 --baseline
    python -m tools.benchmark --trainer CoCoOp --batch-size 1 --classes 100 --baseline --json cocoop.json
    python -m tools.benchmark --plan configs/experiments/paper_base2new.yaml --trainers prometar

The backbone has random weights; class names are ImageNet's. A row holds the median seconds of a step and of a test
batch, and with --memory the peak memory of a step above what stood in memory before it, taken in a process of its own.
With --baseline the same quantities of `tools.baseline` follow, timed in the same process in turn with ours
(A B A B ...), the largest difference between the learned tensors after one step of each from the same state, and the
largest change that the step made. Of three class counts or more, the straight line through its seconds follows.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from dassl.command_line import ArgumentParser
from dassl.utils import UserError, errors_in_one_line
from dassl.utils.memory import keep_freed_memory
from tools import plan_hours
from tools.bench import BACKBONES, OPTIONS, Bench, interleaved, settings_of, wait_for
from trainers.core.captured import CapturedFunctions
from trainers.core.trainer import PromptTrainer

PHASES = {
    "teacher": "teacher_image_features",
    "base gradient": "gradients",
    "query gradient": "query_gradient",
    "outer gradient": "outer_gradient",
    "backward": "gradients_of",
}


@contextmanager
def phases_of(trainer: PromptTrainer, spent: dict[str, float]) -> Iterator[None]:
    """Add up the seconds inside the parts of a step, each without the parts called from it."""
    stack: list[str] = []
    last = [time.perf_counter()]

    def switch(name: str | None) -> None:
        wait_for(trainer.device)
        now = time.perf_counter()
        spent[stack[-1] if stack else "rest"] += now - last[0]
        last[0] = now
        if name is None:
            stack.pop()
        else:
            stack.append(name)

    def wrap(name: str, call: Callable) -> Callable:
        def timed_call(*args: Any, **kwargs: Any) -> Any:
            switch(name)
            try:
                return call(*args, **kwargs)
            finally:
                switch(None)

        return timed_call

    prompts = trainer.prompts
    text_encoder = (prompts.context, "encode") if prompts.text_depends_on_image else (prompts, "text_features")
    parts: list[tuple[str, object, str]] = [
        ("text tower", *text_encoder),
        ("image tower", prompts, "image_features"),
        ("text tower", prompts, "text_trace"),
        ("image tower", prompts, "image_trace"),
        *((phase, trainer, method) for phase, method in PHASES.items() if hasattr(trainer, method)),
        ("optimiser", trainer.optim, "step"),
    ]
    if hasattr(trainer, "modulator_optim"):
        parts.append(("optimiser", trainer.modulator_optim, "step"))
    for name, owner, attribute in parts:
        setattr(owner, attribute, wrap(name, getattr(owner, attribute)))
    last[0] = time.perf_counter()
    try:
        yield
        wait_for(trainer.device)
        spent["rest"] += time.perf_counter() - last[0]
    finally:
        for _, owner, attribute in parts:
            delattr(owner, attribute)


def split_of_step(bench: Bench) -> dict[str, float]:
    """Seconds of each part of a step; the towers' backward passes count to the gradient that asked for them.

    A captured step has no parts: this one is taken eagerly.
    """
    spent: dict[str, float] = defaultdict(float)
    captured, bench.trainer.captured = bench.trainer.captured, CapturedFunctions(None)
    try:
        with phases_of(bench.trainer, spent):
            bench.step()
    finally:
        bench.trainer.captured = captured
    return dict(spent)


def peak_memory(args: argparse.Namespace, classes: int, plain: bool) -> float:
    """Peak bytes of a step above what was in memory before it, in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_memory, (args, classes, plain))


def _peak_memory(args: argparse.Namespace, classes: int, plain: bool) -> float:
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, classes, folder)
        step = bench.plain_step if plain else bench.step
        if bench.trainer.device.type == "cuda":
            # reserved, not allocated: a graph keeps its memory, but does not allocate it anew when it is replayed
            torch.cuda.empty_cache()
            before = torch.cuda.memory_reserved()
            bench.warm_up(step)
            return torch.cuda.max_memory_reserved() - before
        before = _status("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        step()
        return _status("VmHWM") - before


def _status(field: str) -> int:
    """A line of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise UserError("peak memory on a CPU needs Linux's /proc")


def measure(args: argparse.Namespace, classes: int) -> dict[str, Any]:
    """Everything about one class count."""
    baseline = args.baseline and (args.baseline_up_to is None or classes <= args.baseline_up_to)
    row: dict[str, Any] = {"trainer": args.trainer, "classes": classes}
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(args, classes, folder)
        device = bench.trainer.device
        if not args.eval_only:
            if baseline:
                row["deviation"], row["update"] = bench.deviation()  # a step of each: the plain one is warm now
            bench.warm_up(bench.step)
            steps = {"step": bench.step} | ({"baseline step": bench.plain_step} if baseline else {})
            row |= interleaved(steps, args.repeats, device)
            row["split"] = split_of_step(bench)
        if not args.train_only:
            if baseline:
                row["evaluation deviation"] = bench.evaluation_deviation()
            bench.warm_up(bench.evaluate)
            tests = {"test": bench.evaluate} | ({"baseline test": bench.plain_evaluate} if baseline else {})
            row |= interleaved(tests, args.repeats, device)
    if args.memory:
        row["memory"] = peak_memory(args, classes, plain=False)
        if baseline:
            row["baseline memory"] = peak_memory(args, classes, plain=True)
    return row


def baseline_line(rows: Sequence[dict[str, Any]]) -> tuple[float, float, float] | None:
    """Seconds of a baseline step without and per class, and its points' largest relative distance from that line."""
    points = [(row["classes"], row["baseline step"]["seconds"]) for row in rows if "baseline step" in row]
    if len(points) < 3:
        return None
    slope, start = statistics.linear_regression(*zip(*points, strict=True))
    return start, slope, max(abs(start + slope * classes - seconds) / seconds for classes, seconds in points)


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """A line per class count; ratios are baseline over ours."""
    lines = []
    for row in rows:
        line = {"trainer": row["trainer"], "classes": row["classes"]}
        for name in ("step", "test"):
            if name in row:
                line[f"{name} [s]"] = f"{row[name]['seconds']:.3f}"
                line[f"{name} [cpu s]"] = f"{row[name]['cpu_seconds']:.2f}"
            if f"baseline {name}" in row:
                ours, plain = row[name], row[f"baseline {name}"]
                line[f"baseline {name} [s]"] = f"{plain['seconds']:.3f}"
                line[f"baseline {name} [cpu s]"] = f"{plain['cpu_seconds']:.2f}"
                line[f"{name} ratio"] = f"{plain['seconds'] / ours['seconds']:.2f}"
                line[f"{name} cpu ratio"] = f"{plain['cpu_seconds'] / ours['cpu_seconds']:.2f}"
        for name in ("memory", "baseline memory"):
            if name in row:
                line[f"{name} [GB]"] = f"{row[name] / 1e9:.2f}"
        for name in ("deviation", "update", "evaluation deviation"):
            if name in row:
                line[name] = f"{row[name]:.1e}"
        lines.append(line)
    splits = [{"classes": row["classes"], **row["split"]} for row in rows if "split" in row]
    text = tabulate(lines, headers="keys", disable_numparse=True)
    line = baseline_line(rows)
    if line is not None:
        text += "\n\nbaseline step: {:.2f} s + {:.3f} s a class; its points lie within {:.1%} of that".format(*line)
    if splits:
        text += "\n\nseconds of an eager step by part\n" + tabulate(splits, headers="keys", floatfmt=".3f")
    return text


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer", default="ProMetaR", choices=OPTIONS)
    parser.add_argument("--backbone", default="ViT-B/16", choices=BACKBONES)
    parser.add_argument("--classes", type=int, nargs="+", default=[20])
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--eval-batch-size", type=int, default=100)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--prec", help="fp32, fp16, bf16 or amp (default: fp32; with --plan, that of its configs)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3, help="counted runs of each, after one warm-up")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--baseline", action="store_true", help="time the published way as well")
    parser.add_argument("--baseline-up-to", type=int, help="largest class count that the baseline is run at")
    parser.add_argument("--memory", action="store_true", help="measure peak memory as well")
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--eval-only", action="store_true")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--plan", type=Path, metavar="FILE.yaml", help="the hours that these declared runs will take")
    parser.add_argument("--per-gpu", type=int, default=1, metavar="N", help="with --plan: so many runs at a time")
    parser.add_argument("--trainers", nargs="+", default=(), metavar="METHOD", help="with --plan: only these methods")
    parser.add_argument("--datasets", nargs="+", default=(), help="with --plan: only these data sets")
    parser.add_argument("opts", nargs="*", default=[], help="config overrides: KEY VALUE ...")
    args = parser.parse_args(arguments)
    if not args.plan:
        args.prec = args.prec or "fp32"
    return args


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda is asked for, but PyTorch sees none")
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    if args.plan:
        plan_hours.main(args)
        return
    settings = settings_of(args)
    rows = []
    for classes in args.classes:
        rows.append(measure(args, classes))
        if args.json:  # after each class count: a long benchmark may be interrupted
            args.json.write_text(json.dumps({"settings": settings, "torch": torch.__version__, "rows": rows}, indent=1))
    print(f"{settings}\ntorch {torch.__version__}\n{as_table(rows)}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
