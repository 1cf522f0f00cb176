"""Time and memory of a training step and a test batch, against the published way of computing them.

The backbone has random weights; class names are ImageNet's. A row has the median seconds of a step and of a test batch,
and with --memory the peak memory of a step above what was in memory before it, measured in a separate process. With
--baseline the same quantities of the published way follow, timed in the same process in turn with ours (A B A B ...),
with the largest difference between the learned tensors after one step of each from the same state, and the largest
change that the step made. For three or more class counts, the straight line through the seconds follows.
"""

from __future__ import annotations

from pathlib import Path

from dassl.command_line import ArgumentParser, errors_in_one_line


def make_parser() -> ArgumentParser:
    """The parser of `tools.benchmark`."""
    parser = ArgumentParser(
        prog="python -m tools.benchmark",
        description=__doc__,
        examples=(
            "--trainer ProMetaR --backbone ViT-B/16 --classes 20 50 100 --baseline",
            "--trainer CoCoOp --batch-size 1 --baseline --json cocoop.json",
            "--plan configs/experiments/paper_base2new.yaml --trainers prometar",
        ),
    )
    add = parser.add_argument
    add("--trainer", default="ProMetaR", help="name of the trainer")
    add("--backbone", default="ViT-B/16", help="ViT-B/16, another size that is known, or tiny")
    add("--classes", type=int, nargs="+", default=[20], help="class counts, a row for each")
    add("--batch-size", type=int, default=4, help="images of a training step")
    add("--eval-batch-size", type=int, default=100, help="images of a test batch")
    add("--device", choices=["cpu", "cuda"], help="(default: cuda if there is a GPU, else cpu)")
    add("--prec", help="fp32, fp16, bf16 or amp (default: fp32; with --plan, that of its configs)")
    add("--threads", type=int, help="threads of PyTorch (default: PyTorch's own choice)")
    add("--repeats", type=int, default=3, help="counted runs of each, after one warm-up")
    add("--seed", type=int, default=1, help="seed of the random weights and images")
    add("--baseline", action="store_true", help="time the published way as well")
    add("--baseline-up-to", type=int, help="largest class count for the baseline (default: no limit)")
    add("--memory", action="store_true", help="measure peak memory as well")
    add("--train-only", action="store_true", help="no test batches")
    add("--eval-only", action="store_true", help="no training steps")
    add("--json", type=Path, metavar="FILE", help="file for the figures (default: none)")
    add("--plan", type=Path, metavar="FILE.yaml", help="the hours that these declared runs will take (default: none)")
    add("--per-gpu", type=int, default=1, metavar="N", help="with --plan: runs at a time")
    add("--trainers", nargs="+", default=(), metavar="METHOD", help="with --plan: only these methods (default: all)")
    add("--datasets", nargs="+", default=(), help="with --plan: only these data sets (default: all)")
    add("opts", nargs="*", default=[], metavar="KEY VALUE", help="config overrides")
    return parser


if __name__ == "__main__":  # before the imports that take seconds
    make_parser().parse_args()

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from tabulate import tabulate

from dassl.utils import UserError
from dassl.utils.devices import chosen_device
from dassl.utils.memory import keep_freed_memory
from tools import plan_hours
from tools.bench import BACKBONES, RECIPES, Bench, interleaved, settings_of, wait_for, write_report
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
    per_image = prompts.text_depends_on_image
    owner, encoder = (prompts.context, "encode") if per_image else (prompts, "text_features")
    parts: list[tuple[str, Any, str]] = [
        ("text tower", owner, encoder),
        ("image tower", prompts, "image_features"),
        ("text tower", prompts, "text_trace"),
        ("image tower", prompts, "image_trace"),
        *((phase, trainer, method) for phase, method in PHASES.items() if hasattr(trainer, method)),
        ("optimiser", trainer.optim, "step"),
    ]
    modulator_optim = getattr(trainer, "modulator_optim", None)
    if modulator_optim is not None:
        parts.append(("optimiser", modulator_optim, "step"))
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


def peak_memory_of_step(args: argparse.Namespace, classes: int, plain: bool) -> float:
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
            steps: dict[str, Callable[[], object]] = {"step": bench.step}
            if baseline:
                steps["baseline step"] = bench.plain_step
            row |= interleaved(steps, args.repeats, device)
            row["split"] = split_of_step(bench)
        if not args.train_only:
            if baseline:
                row["evaluation deviation"] = bench.evaluation_deviation()
            bench.warm_up(bench.evaluate)
            tests: dict[str, Callable[[], object]] = {"test": bench.evaluate}
            if baseline:
                tests["baseline test"] = bench.plain_evaluate
            row |= interleaved(tests, args.repeats, device)
    if args.memory:
        row["memory"] = peak_memory_of_step(args, classes, plain=False)
        if baseline:
            row["baseline memory"] = peak_memory_of_step(args, classes, plain=True)
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
            for way in (name, f"baseline {name}"):
                if way in row:
                    line[f"{way} [s]"] = f"{row[way]['seconds']:.3f}"
                    line[f"{way} [cpu s]"] = f"{row[way]['cpu_seconds']:.2f}"
            if f"baseline {name}" in row:
                ours, plain = row[name], row[f"baseline {name}"]
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
    parser = make_parser()
    args = parser.parse_args(arguments)
    for flag, given, known in (("--trainer", args.trainer, RECIPES), ("--backbone", args.backbone, BACKBONES)):
        if given not in known:
            parser.error(f"{flag} {given} is unknown: choose from {', '.join(known)}")
    args.device = args.device or chosen_device(True).type
    args.threads = args.threads or torch.get_num_threads()
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
    rows = []
    for classes in args.classes:
        rows.append(measure(args, classes))
        write_report(args, rows=rows)  # after each class count: a long benchmark may be interrupted
    print(f"{settings_of(args)}\ntorch {torch.__version__}\n{as_table(rows)}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
