"""The parts of `tools.gpu_check`, each of which runs in its own process.

    python -m tools.gpu_parts steps --device cuda --json steps.json

A part is a function that writes what it has measured so far, as a JSON object, each time that there is more of it.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.autograd import DeviceType  # pyright: ignore[reportPrivateImportUsage]  # torch forgets to export it
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from clip.kernel_choice import choose_kernels
from clip.model import CLIP
from dassl.command_line import ArgumentParser
from dassl.utils import UserError, errors_in_one_line, write_json
from experiments.launch.job import last_words
from tools import benchmark, kernel_check
from tools.bench import BACKBONES, RECIPES, Bench, timed
from trainers.core.captured import CapturedFunctions
from trainers.core.recorders import recorder_for

ROOT = Path(__file__).resolve().parents[1]
STEPS = 3
"""Captured and eager steps that are compared, for each kind of batch."""
KINDS_OF_BATCH = ([0, 1, 2, 3], [0, 0, 1, 1], [0, 0, 0, 0])
"""Labels: ProMetaR's query and support of 1 and 3, of 2 and 2, and a batch of one class."""


class Scale:
    """What is measured: real sizes, or tiny ones that only show that the code runs."""

    def __init__(self, device: str, tiny: bool) -> None:
        self.device = device
        self.backbone = "tiny" if tiny else "ViT-B/16"
        self.tiny = tiny
        self.classes = (5,) if tiny else (50, 500)
        self.precision = "fp16" if device == "cuda" else "fp32"
        self.repeats = 1 if tiny else 10
        self.trainers = ("CoOp", "ProMetaR") if tiny else tuple(RECIPES)

    @contextmanager
    def bench(self, trainer: str, classes: int) -> Iterator[Bench]:
        args = ["--trainer", trainer, "--backbone", self.backbone, "--device", self.device, "--prec", self.precision]
        args += ["--batch-size", "1" if trainer == "CoCoOp" else "4"]
        args += ["--eval-batch-size", "4"] if self.tiny else []
        with tempfile.TemporaryDirectory() as folder:
            yield Bench(benchmark.parse_args(args), classes, folder)


def kernels(scale: Scale, output: Path) -> None:
    """Every Triton kernel against its plain form, and the seconds until they can be used.

    On a CPU, Triton's interpreter runs them, whose times mean nothing.
    """
    if scale.device == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    device, began = torch.device(scale.device), time.perf_counter()
    choose_kernels("on", device)
    seconds = time.perf_counter() - began
    dtype = torch.float16 if scale.precision == "fp16" else torch.float32
    sizes = kernel_check.TINY if scale.tiny else kernel_check.VIT_B_16
    forms = kernel_check.check_kernels(sizes, dtype, device, repeats=1 if scale.tiny else 20)
    write_json({"first use [s]": seconds, "forms": forms}, output)


def captured(scale: Scale, output: Path) -> None:
    """Every trainer: captured steps and test batches against eager ones, bit for bit."""
    results = {}
    for trainer in scale.trainers:
        with scale.bench(trainer, scale.classes[0]) as bench:
            results[trainer] = _compare(bench)
        write_json(results, output)


def _compare(bench: Bench) -> dict[str, Any]:
    """Learned tensors, reported numbers and logits after the same steps, eager, eager again and captured.

    Some CUDA kernels add up in any order: where eager steps do not repeat themselves, captured ones cannot equal them.
    """
    trainer = bench.trainer
    trainer.captured = CapturedFunctions(None)
    expected, again = _steps(bench), _steps(bench)
    trainer.captured = CapturedFunctions(recorder_for(trainer.device))
    begin = time.perf_counter()
    found = _steps(bench)
    seconds = time.perf_counter() - begin
    differences = [(one.float() - other.float()).abs().max().item() for one, other in zip(found, expected, strict=True)]
    return {
        "bit-equal": all(map(torch.equal, found, expected)),
        "eager repeats itself": all(map(torch.equal, again, expected)),
        "largest difference": max(differences),
        "graphs": trainer.captured.graphs,
        "runs eagerly": trainer.captured.refused,
        "seconds with capturing": seconds,
    }


def _steps(bench: Bench) -> list[Tensor]:
    """Steps on each kind of batch from the first state on; what they report, learned tensors and logits."""
    bench.reset()
    images, reported = bench.batch["img"], []
    for labels in KINDS_OF_BATCH:
        for _ in range(STEPS):
            summary = bench.trainer.forward_backward({"img": images, "label": torch.tensor(labels[: len(images)])})
            reported.append(torch.tensor(list(summary.values()), dtype=torch.float64))
    learned = [value.clone() for module, _ in bench.initial for value in module.state_dict().values()]
    return [*reported, *learned, *(bench.evaluate() for _ in range(2))]


def steps(scale: Scale, output: Path) -> None:
    """ProMetaR: seconds, kernels and memory of a step and a test batch; eager and captured."""
    results = []
    for classes in scale.classes:
        for way in ("captured", "eager"):
            with scale.bench("ProMetaR", classes) as bench:
                recorder = recorder_for(bench.trainer.device) if way == "captured" else None
                bench.trainer.captured = CapturedFunctions(recorder)
                results.append({"classes": classes, "way": way} | _figures(bench, scale.repeats))
            write_json(results, output)


def _figures(bench: Bench, repeats: int) -> dict[str, Any]:
    device, is_cuda = bench.trainer.device, bench.trainer.device.type == "cuda"
    before = 0
    if is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_reserved()
    first, _ = timed(bench.step, device)
    bench.warm_up(bench.step)
    figures = {"first step [s]": first}
    figures["step [ms]"] = 1000 * bench.seconds(bench.step, repeats)
    if is_cuda:  # reserved: a replayed graph uses its memory without allocating it
        figures["memory [GB]"] = (torch.cuda.max_memory_reserved() - before) / 1e9
    figures |= _launched(bench.step, is_cuda)
    bench.warm_up(bench.evaluate)
    figures["test batch [ms]"] = 1000 * bench.seconds(bench.evaluate, repeats)
    return figures


def _launched(run: Callable[[], object], is_cuda: bool) -> dict[str, float]:
    """Kernels that a call launches, and how long the GPU works on them; on a CPU, the operations of PyTorch."""
    if not is_cuda:
        with CountedOperations() as counted:
            run()
        return {"operations": counted.count}
    with profile(activities=[ProfilerActivity.CUDA]) as recorded:
        run()
        torch.cuda.synchronize()
    kernels = [event for event in recorded.events() or [] if event.device_type == DeviceType.CUDA]
    kernels = [event for event in kernels if not event.name.startswith(("Memcpy", "Memset"))]
    return {"kernels": len(kernels), "GPU busy [ms]": sum(event.time_range.elapsed_us() for event in kernels) / 1000}


class CountedOperations(TorchDispatchMode):
    """Counts the operations that PyTorch dispatches, including views."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.count += 1
        return operation(*args, **(kwargs or {}))


def end_to_end(scale: Scale, output: Path) -> None:
    """A short training by train.py on images from files: seconds of an epoch, and the share spent waiting for data."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        torch.manual_seed(0)
        torch.save(CLIP(**BACKBONES[scale.backbone]).state_dict(), place / "clip.pt")
        write_images(place / "data", per_class=20, size=(64, 64) if scale.tiny else (500, 375))
        command = [sys.executable, str(ROOT / "train.py"), *_training(scale, place)]
        environment = os.environ | {"HOME": folder}  # features of random weights are not kept among the user's
        began = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"train.py ended with status {done.returncode}: {last_words(done.stdout + done.stderr)}")
        write_json(read_log(done.stdout) | {"seconds": time.perf_counter() - began}, output)


def _training(scale: Scale, place: Path) -> list[str]:
    resolution = BACKBONES[scale.backbone]["image_resolution"]
    small = ["DATALOADER.NUM_WORKERS", "0"] if scale.tiny else []
    depth = "3" if scale.tiny else "9"
    return [
        *("--root", str(place / "data"), "--output-dir", str(place / "output"), "--seed", "1"),
        *("--trainer", "ProMetaR", "--backbone", str(place / "clip.pt")),
        *("--dataset-config-file", "configs/datasets/eurosat.yaml"),
        *("--config-file", "configs/trainers/ProMetaR/vit_b16_c2_ep10_batch4_4+4ctx.yaml"),
        *("DATASET.NUM_SHOTS", "4" if scale.tiny else "16", "DATASET.SUBSAMPLE_CLASSES", "base"),
        *("OPTIM.MAX_EPOCH", "3", "TRAIN.PRINT_FREQ", "5", "INPUT.SIZE", f"({resolution}, {resolution})"),
        *("TRAINER.PROMETAR.PREC", scale.precision, "USE_CUDA", str(scale.device == "cuda")),
        *("TRAINER.PROMETAR.PROMPT_DEPTH_VISION", depth, "TRAINER.PROMETAR.PROMPT_DEPTH_TEXT", depth),
        *small,
    ]


def write_images(root: Path, per_class: int, size: tuple[int, int]) -> None:
    """Ten classes of coarse noise in EuroSAT's layout, with its split file."""
    names = "AnnualCrop Forest HerbaceousVegetation Highway Industrial Pasture PermanentCrop Residential River SeaLake"
    rng = np.random.default_rng(0)
    split: dict[str, list] = {"train": [], "val": [], "test": []}
    for label, name in enumerate(names.split()):
        folder = root / "eurosat" / "2750" / name
        folder.mkdir(parents=True)
        for number in range(per_class):
            coarse = Image.fromarray(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8))
            coarse.resize(size, Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
            part = "test" if number == 0 else "val" if number == 1 else "train"
            split[part].append([f"{name}/{number}.jpg", label, name])
    (root / "eurosat" / "split_zhou_EuroSAT.json").write_text(json.dumps(split))


def read_log(log: str) -> dict[str, float]:
    """Seconds of a step and of waiting for its images, averaged over the last epoch of train.py's log.

    Raises:
        UserError: there is no line of an epoch in it.
    """
    found = re.findall(r"epoch \[\d+/\d+\].* time [\d.]+ \(([\d.]+)\) data [\d.]+ \(([\d.]+)\)", log)
    if not found:
        raise UserError("the log of train.py has no line of progress")
    step, data = map(float, found[-1])
    return {"step [s]": step, "waiting for data [s]": data, "data share": data / step if step else 0.0}


def plan(scale: Scale, output: Path) -> None:
    """The hours of the base-to-new table for ProMetaR on 11 data sets with 3 seeds, evaluation included."""
    args = ["--plan", str(ROOT / "configs/experiments/paper_base2new.yaml"), "--trainers", "prometar"]
    args += ["--backbone", scale.backbone, "--device", scale.device, "--prec", scale.precision]
    args += ["--repeats", str(scale.repeats), "--json", str(output)]
    args += ["--datasets", "eurosat", "--eval-batch-size", "4"] if scale.tiny else []
    benchmark.main(args)


def tests(scale: Scale, output: Path) -> None:
    """The tests that need a GPU; on a CPU, a few of those that run on both."""
    report = output.with_suffix(".xml")
    which = ["-m", "gpu", "tests"] if scale.device == "cuda" else ["tests/trainers/test_captured.py", "-k", "belong"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", *which]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if not report.is_file():
        raise UserError(f"pytest ended with status {done.returncode}: {last_words(done.stdout + done.stderr)}")
    write_json(read_junit(report), output)


def read_junit(report: Path) -> dict[str, Any]:
    """How many tests passed and failed; the names of those that failed."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    names = [f"{case.get('classname')}::{case.get('name')}" for case in failed]
    passed = len(cases) - len(failed) - skipped
    return {"passed": passed, "failed": len(failed), "skipped": skipped, "names": names}


PARTS = {part.__name__: part for part in (kernels, captured, steps, end_to_end, plan, tests)}


def check_device(device: str) -> None:
    """Check that PyTorch can compute there.

    Raises:
        UserError: there is no GPU.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch sees no GPU: --device cpu --tiny tries the same lines on a CPU")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = ArgumentParser(
        prog="python -m tools.gpu_parts",
        description="One part of tools.gpu_check, which starts each in its own process.",
        examples=("steps --device cuda --json steps.json",),
    )
    parser.add_argument("part", choices=PARTS, help="the part")
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"], help="where to compute")
    parser.add_argument("--tiny", action="store_true", help="a model of a few thousand weights")
    parser.add_argument(
        "--json", type=Path, required=True, metavar="FILE", old_spellings=("--output",), help="file for the figures"
    )
    args = parser.parse_args(arguments)
    check_device(args.device)
    PARTS[args.part](Scale(args.device, args.tiny), args.json.absolute())


if __name__ == "__main__":
    with errors_in_one_line():
        main()
