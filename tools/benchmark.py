"""Time and memory of a training step and a test batch, against the published way of computing them.

    python -m tools.benchmark --trainer ProMetaR --backbone ViT-B/16 --classes 20 50 100 --baseline
    python -m tools.benchmark --trainer CoCoOp --batch-size 1 --classes 100 --baseline --json cocoop.json

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
import os
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image
from tabulate import tabulate
from torch import Tensor

import trainers.base
import trainers.prometar
from clip._open_clip import open_clip_module
from clip.model import CLIP
from dassl.config import get_cfg_default, merge_opts
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import build_trainer
from dassl.utils import UserError, errors_in_one_line, set_random_seed
from dassl.utils.memory import keep_freed_memory
from tools.baseline import plain_evaluation, plain_step
from train import extend_cfg
from trainers.base import PromptTrainer
from trainers.captured import CapturedFunctions

TEXT = dict(context_length=77, vocab_size=49408)
BACKBONES = {
    "ViT-B/32": dict(TEXT, embed_dim=512, image_resolution=224, vision_layers=12, vision_width=768,
                     vision_patch_size=32, transformer_width=512, transformer_heads=8, transformer_layers=12),
    "ViT-B/16": dict(TEXT, embed_dim=512, image_resolution=224, vision_layers=12, vision_width=768,
                     vision_patch_size=16, transformer_width=512, transformer_heads=8, transformer_layers=12),
    "ViT-L/14": dict(TEXT, embed_dim=768, image_resolution=224, vision_layers=24, vision_width=1024,
                     vision_patch_size=14, transformer_width=768, transformer_heads=12, transformer_layers=12),
    "RN50": dict(TEXT, embed_dim=1024, image_resolution=224, vision_layers=(3, 4, 6, 3), vision_width=64,
                 vision_patch_size=None, transformer_width=512, transformer_heads=8, transformer_layers=12),
    "tiny": dict(TEXT, embed_dim=64, image_resolution=32, vision_layers=3, vision_width=64,
                 vision_patch_size=8, transformer_width=64, transformer_heads=1, transformer_layers=3),
}  # fmt: skip
OPTIONS = {
    "CoOp": ["TRAINER.COOP.CTX_INIT", "a photo of a"],
    "CoCoOp": ["TRAINER.COCOOP.CTX_INIT", "a photo of a"],
    "VPT": ["TRAINER.VPT.N_CTX_VISION", 8],
    "IVLP": ["TRAINER.IVLP.N_CTX_VISION", 4, "TRAINER.IVLP.N_CTX_TEXT", 4],
    "MaPLe": [],
    "ProMetaR": ["OPTIM_VNET.NAME", "sgd"],
}
DEPTH_KEYS = {
    "VPT": ["PROMPT_DEPTH_VISION"],
    "IVLP": ["PROMPT_DEPTH_VISION", "PROMPT_DEPTH_TEXT"],
    "MaPLe": ["PROMPT_DEPTH"],
    "ProMetaR": ["PROMPT_DEPTH_VISION", "PROMPT_DEPTH_TEXT"],
}
PUBLISHED_DEPTH = 9


@DATASET_REGISTRY.register()
class BenchmarkNames(DatasetBase):
    """ImageNet's first class names, with one blank image for all; steps get random pixels instead."""

    def __init__(self, cfg: Any) -> None:
        names = open_clip_module("zero_shot_metadata").IMAGENET_CLASSNAMES
        wanted = int(cfg.DATASET.ROOT)
        if not 0 < wanted <= len(names):
            raise UserError(f"--classes {wanted}: choose 1 to {len(names)}, the number of ImageNet's classes")
        names = names[:wanted]
        blank = os.path.join(cfg.OUTPUT_DIR, "blank.png")
        Image.new("RGB", (8, 8)).save(blank)
        items = [Datum(impath=blank, label=label, classname=name) for label, name in enumerate(names)]
        super().__init__(train_x=items, test=items)


class Bench:
    """One trainer with random weights and fixed random batches."""

    def __init__(self, args: argparse.Namespace, classes: int, folder: str) -> None:
        cfg = get_cfg_default()
        extend_cfg(cfg)
        size = BACKBONES[args.backbone]["image_resolution"]
        node = args.trainer.upper()
        merge_opts(
            cfg,
            [
                *("TRAINER.NAME", args.trainer, "DATASET.NAME", "BenchmarkNames"),
                *("OUTPUT_DIR", folder, "INPUT.SIZE", (size, size), "DATALOADER.NUM_WORKERS", 0, "VERBOSE", False),
                *("USE_CUDA", args.device == "cuda", "OPTIM.NAME", "sgd", "OPTIM.LR", 0.0025),
                *(f"TRAINER.{node}.PREC", args.prec),
                *OPTIONS[args.trainer],
            ],
        )
        for key in DEPTH_KEYS.get(args.trainer, ()):
            merge_opts(cfg, [f"TRAINER.{node}.{key}", min(PUBLISHED_DEPTH, _layers(args.backbone))])
        merge_opts(cfg, args.opts)
        cfg.DATASET.ROOT = str(classes)
        set_random_seed(args.seed)
        clip = CLIP(**BACKBONES[args.backbone]).requires_grad_(False).eval()
        # the teacher's text features are computed once before training and are no part of a step
        with (
            mock.patch.object(
                trainers.base, "load_clip", lambda cfg, precision: precision.convert(clip).to(precision.device)
            ),
            mock.patch.object(
                trainers.prometar,
                "teacher_text_features",
                lambda clip, names: torch.randn(len(names), clip.text_projection.shape[1]).to(clip.logit_scale.device),
            ),
        ):
            self.trainer: PromptTrainer = build_trainer(cfg)
        self.trainer.num_batches, self.trainer.batch_idx, self.trainer.epoch = 10**9, 1, 0
        labels = torch.arange(args.batch_size) % classes
        self.batch = {"img": torch.randn(args.batch_size, 3, size, size), "label": labels}
        self.test_images = torch.randn(args.eval_batch_size, 3, size, size, device=self.trainer.device)
        self.seed = args.seed
        self.initial = [
            (module, {name: value.clone() for name, value in module.state_dict().items()})
            for module in self.trainer._models.values()
        ]

    def reset(self) -> None:
        """Back to the first weights, optimiser states and random numbers."""
        for module, state in self.initial:
            module.load_state_dict(state)
        for optimizer in self.trainer._optims.values():
            optimizer.state.clear()
        self.trainer.scaler = self.trainer.precision.grad_scaler()
        torch.manual_seed(self.seed)

    def step(self) -> None:
        self.trainer.forward_backward(self.batch)

    def plain_step(self) -> None:
        plain_step(self.trainer, self.batch)

    @torch.no_grad()
    def evaluate(self) -> Tensor:
        return self.trainer.model_inference(self.test_images)

    def plain_evaluate(self) -> Tensor:
        return plain_evaluation(self.trainer, self.test_images)

    def deviation(self) -> tuple[float, float]:
        """Largest difference between learned tensors (phi's too) after one step of each from the same state; and the
        largest change that the step made to them."""
        results = [[value for _, state in self.initial for value in state.values()]]
        for step in (self.step, self.plain_step):
            self.reset()
            step()
            results.append([value.clone() for module, _ in self.initial for value in module.state_dict().values()])
        self.reset()
        start, ours, plain = results
        return _largest_difference(ours, plain), _largest_difference(start, plain)

    def evaluation_deviation(self) -> float:
        """Largest difference between the logits."""
        return (self.evaluate() - self.plain_evaluate()).abs().max().item()


def _largest_difference(some: Sequence[Tensor], others: Sequence[Tensor]) -> float:
    return max((one - other).abs().max().item() for one, other in zip(some, others, strict=True))


def _layers(backbone: str) -> int:
    return BACKBONES[backbone]["transformer_layers"]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    _wait(device)
    wall, processor = time.perf_counter(), time.process_time()
    run()
    _wait(device)
    return time.perf_counter() - wall, time.process_time() - processor


def interleaved(runs: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, dict]:
    """Median seconds of each, run in turn. The caller has warmed them up."""
    seconds: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(repeats):
        for name, run in runs.items():
            seconds[name].append(timed(run, device))
    return {
        name: {"seconds": statistics.median(w for w, _ in times), "cpu_seconds": statistics.median(c for _, c in times)}
        for name, times in seconds.items()
    }


PHASES = {
    "teacher": "teacher_image_features",
    "base gradient": "gradients",
    "outer gradient": "meta_gradient",
    "backward": "gradients_of",
}
INSIDE = {("outer gradient", "base gradient"): "inner gradient"}
"""What a part is called where another one asked for it."""


@contextmanager
def phases_of(trainer: PromptTrainer, spent: dict[str, float]) -> Iterator[None]:
    """Add up the seconds inside the parts of a step, each without the parts called from it."""
    stack: list[str] = []
    last = [time.perf_counter()]

    def switch(name: str | None) -> None:
        name = INSIDE.get((stack[-1] if stack else "", name), name)
        _wait(trainer.device)
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
        _wait(trainer.device)
        spent["rest"] += time.perf_counter() - last[0]
    finally:
        for _, owner, attribute in parts:
            delattr(owner, attribute)


def split_of_step(bench: Bench) -> dict[str, float]:
    """Seconds of each part of a step; the towers' backward passes count to the gradient that asked for them.

    A captured step has no parts: this one is taken eagerly.
    """
    spent: dict[str, float] = defaultdict(float)
    with mock.patch.object(bench.trainer, "captured", CapturedFunctions(None)), phases_of(bench.trainer, spent):
        bench.step()
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
            step()
            torch.cuda.synchronize()
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            step()
            return torch.cuda.max_memory_allocated() - before
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
                row["deviation"], row["update"] = bench.deviation()  # one step of each: they are warm now
            else:
                bench.step()
            steps = {"step": bench.step} | ({"baseline step": bench.plain_step} if baseline else {})
            row |= interleaved(steps, args.repeats, device)
            row["split"] = split_of_step(bench)
        if not args.train_only:
            if baseline:
                row["evaluation deviation"] = bench.evaluation_deviation()
            else:
                bench.evaluate()
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
        text += "\n\nseconds of a step by part\n" + tabulate(splits, headers="keys", floatfmt=".3f")
    return text


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainer", default="ProMetaR", choices=OPTIONS)
    parser.add_argument("--backbone", default="ViT-B/16", choices=BACKBONES)
    parser.add_argument("--classes", type=int, nargs="+", default=[20])
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--eval-batch-size", type=int, default=100)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--prec", default="fp32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=3, help="counted runs of each, after one warm-up")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--baseline", action="store_true", help="time the published way as well")
    parser.add_argument("--baseline-up-to", type=int, help="largest class count that the baseline is run at")
    parser.add_argument("--memory", action="store_true", help="measure peak memory as well")
    parser.add_argument("--train-only", action="store_true")
    parser.add_argument("--eval-only", action="store_true")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("opts", nargs="*", default=[], help="config overrides: KEY VALUE ...")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    args = parse_args(arguments)
    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda is asked for, but PyTorch sees none")
    keep_freed_memory()
    torch.set_num_threads(args.threads)
    settings = {name: value for name, value in vars(args).items() if name != "json"}
    if args.device == "cuda":
        settings["gpu"] = torch.cuda.get_device_name()
    rows = []
    for classes in args.classes:
        rows.append(measure(args, classes))
        if args.json:  # after each class count: a long benchmark may be interrupted
            args.json.write_text(json.dumps({"settings": settings, "torch": torch.__version__, "rows": rows}, indent=1))
    print(f"{settings}\ntorch {torch.__version__}\n{as_table(rows)}")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
