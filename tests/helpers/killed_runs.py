"""Training runs that are killed and started again: `python tests/helpers/killed_runs.py FOLDER --kills 30`.

Each method trains once without interruption and once in a process that is sent SIGKILL again and again: half of the
times after a random while, half of the times at a random moment of the writing of a checkpoint. A run that was killed
is started anew by the same command. In the end both folders must hold the same checkpoints, byte for byte.

With `--first-epoch` a run writes a checkpoint after each step. It is killed twice in its first epoch, after such a
checkpoint, and then stopped by SIGTERM in that epoch.

The runs are forked from this process, which has imported all that takes long.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(REPOSITORY), str(Path(__file__).parent)]

import torch  # noqa: E402
import torch._dynamo  # noqa: E402, F401  optimisers import it
import torch.utils.tensorboard  # noqa: E402, F401
from golden_data import write_backbones  # noqa: E402
from tiny_runs import write_data  # noqa: E402

import dassl.data.transforms  # noqa: E402, F401  a run imports them when it knows its settings
import train  # noqa: E402
from dassl.engine import unfinished_epoch  # noqa: E402
from dassl.engine.unfinished_epoch import FOLDER, read_unfinished_epoch  # noqa: E402
from dassl.interruption import Interrupted  # noqa: E402

METHODS: dict[str, list[str]] = {
    "CoOp": ["DATALOADER.NUM_WORKERS", "2"],
    "MaPLe": ["TEST.FINAL_MODEL", "best_val", "TRAIN.CHECKPOINT_FREQ", "2"],
    "ProMetaR": ["TRAINER.PROMETAR.KEEP_MODULATOR", "True", "OPTIM_VNET.STEP_LR", "True"],
    "PromptSRC": ["TRAINER.PROMPTSRC.GPA_MEAN", "2.0"],
}
"""Settings in which the methods differ: worker processes, model-best and fewer checkpoints, two models, a mean of all
epochs."""

ALIKE = """
INPUT: {SIZE: [64, 64], TRANSFORMS: [random_resized_crop, random_flip, normalize]}
DATASET: {NAME: EuroSAT, NUM_SHOTS: 2}
DATALOADER: {TRAIN_X: {BATCH_SIZE: 4}, NUM_WORKERS: 0}
OPTIM: {NAME: sgd, LR: 0.02, LR_SCHEDULER: cosine, MAX_EPOCH: 4, WARMUP_EPOCH: 1, WARMUP_TYPE: constant}
TRAIN: {PRINT_FREQ: 1, CHECKPOINT_FREQ: 1}
TRAINER:
  COOP: {PREC: fp32}
  MAPLE: {PREC: fp32, PROMPT_DEPTH: 2}
  PROMETAR: {PREC: fp32, PROMPT_DEPTH_VISION: 2, PROMPT_DEPTH_TEXT: 2}
  PROMPTSRC: {PREC: fp32, PROMPT_DEPTH_VISION: 2, PROMPT_DEPTH_TEXT: 2}
USE_CUDA: False
VERBOSE: False
"""


class Scene:
    """A tiny data set and backbone, and the command of a run on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backbone = write_backbones(folder)["vit"]
        write_data(folder / "data")
        self.config_file = folder / "settings.yaml"
        self.config_file.write_text(ALIKE)

    def arguments(self, method: str, output: Path) -> list[str]:
        """Arguments of train.py."""
        return [
            *(
                "--trainer",
                method,
                "--seed",
                "3",
                "--backbone",
                str(self.backbone),
                "--root",
                str(self.folder / "data"),
            ),
            *("--config-file", str(self.config_file), "--output-dir", str(output), *METHODS[method]),
        ]


def start(arguments: list[str]) -> int:
    """Run train.py in a new process, whose id is returned."""
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        os.setsid()
        console = os.open(os.devnull, os.O_WRONLY)
        os.dup2(console, 1)
        try:
            train.main(train.parse_args(arguments))
        except Interrupted as error:
            status = error.status
        else:
            status = 0
    finally:
        os._exit(status)


def ended(process: int) -> int | None:
    """Exit status of a process that is over (negative: the signal that ended it), else None."""
    done, status = os.waitpid(process, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def kill(process: int) -> None:
    """SIGKILL to the run and to its worker processes."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):  # before it had a group of its own
        os.kill(process, signal.SIGKILL)


def run_and_kill(arguments: list[str], output: Path, when: random.Random, duration: float) -> str | None:
    """Start a run and kill it at a random moment; returns what it was doing, or None when it was over before."""
    process, while_writing = start(arguments), when.random() < 0.5
    writes, moment = when.randrange(1, 6), time.monotonic() + when.uniform(0, duration)
    seen: set[str] = set()
    while (status := ended(process)) is None:
        seen.update(unfinished_files(output))
        if (len(seen) >= writes) if while_writing else time.monotonic() > moment:
            kill(process)
            os.waitpid(process, 0)
            return "writing" if unfinished_files(output) else "running"
    assert status == 0, f"a run ended with status {status}, see {output}"
    return None


def state_of(output: Path) -> tuple[int, int] | None:
    """Completed epochs, and batches of the next one, in the checkpoint within an epoch; None without one."""
    content = read_unfinished_epoch(output)
    return None if content is None else (content["epoch"], content["batches"])


def signal_within_first_epoch(arguments: list[str], output: Path, number: int, batches: int) -> tuple[int, int]:
    """Start a run and signal it once its first epoch's checkpoint is after `batches`; returns status and batches."""
    process, latest = start(arguments), None
    while (latest or (0, 0)) < (0, batches):
        assert ended(process) is None, f"a run ended too early, see {output}"
        latest = state_of(output)
    if number == signal.SIGKILL:
        kill(process)
    else:
        os.killpg(process, number)  # to the workers as well, as clusters do
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    state = state_of(output)
    assert state is not None and state[0] == 0, f"the run was past its first epoch: {state}"
    return status, state[1]


def check_first_epoch(scene: Scene, method: str) -> dict:
    """One uninterrupted run, one that is interrupted three times in its first epoch, and the comparison."""
    whole, parts = scene.folder / f"{method}-whole", scene.folder / f"{method}-parts"
    settings = ["DATASET.NUM_SHOTS", "8", "OPTIM.MAX_EPOCH", "3", "TRAIN.CHECKPOINT_SECONDS", "0.0001"]
    finish([*scene.arguments(method, whole), *settings[:-1], "0"])
    arguments, statuses, batches = [*scene.arguments(method, parts), *settings], [], [0]
    for number in (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM):
        status, done = signal_within_first_epoch(arguments, parts, number, batches[-1] + 1)
        statuses.append(status)
        batches.append(done)
    finish(arguments)
    files = compare(whole, parts)
    logs = "".join(path.read_text() for path in parts.glob("log.txt*"))
    continued = [int(after) for after in re.findall(r"^Continuing from .* epoch 1, after (\d+) batches$", logs, re.M)]
    assert sorted(continued) == batches[1:], f"{continued} against {batches}"
    histories = [without_times(output / "history.jsonl") for output in (whole, parts)]
    assert histories[0] == histories[1]
    assert not (parts / FOLDER).exists()
    return {"method": method, "statuses": statuses, "batches": batches[1:], "files compared": files}


def without_times(history: Path) -> list[dict[str, float]]:
    """The lines of a training curve."""
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "seconds"} for line in lines]


def unfinished_files(output: Path) -> list[str]:
    """Names of what atomic writes in the folders of checkpoints have begun."""
    folders = [entry.path for entry in os.scandir(output) if entry.is_dir()] if output.is_dir() else []
    return [name for folder in folders for name in os.listdir(folder) if name.startswith(".")]


def finish(arguments: list[str]) -> float:
    """A run without interruption; returns the seconds it took."""
    begun, process = time.monotonic(), start(arguments)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 0, f"the run failed: {' '.join(arguments)}"
    return time.monotonic() - begun


def learned_files(output: Path) -> dict[str, bytes]:
    """Content of all checkpoints and pointers, by path."""
    names = sorted(path for path in output.glob("*/*") if path.parent.name not in ("tensorboard", "datasets"))
    return {str(path.relative_to(output)): path.read_bytes() for path in names}


def accuracy(output: Path) -> str:
    """The last accuracy in the logs, which must say that the training finished."""
    logs = sorted(output.glob("log.txt*"), key=lambda path: path.stat().st_mtime_ns)
    text = logs[-1].read_text()
    assert "Finish training" in text
    return re.findall(r"^\* accuracy: .*$", text, re.MULTILINE)[-1]


def compare(whole: Path, parts: Path) -> int:
    """Assert that both runs end alike; returns the number of files compared."""
    expected, found = learned_files(whole), learned_files(parts)
    assert expected.keys() == found.keys(), f"{sorted(expected)} against {sorted(found)}"
    differing = [name for name in expected if expected[name] != found[name]]
    assert not differing, f"{parts}: {differing} differ from those of {whole}"
    assert expected and accuracy(whole) == accuracy(parts)
    return len(expected)


def check_method(scene: Scene, method: str, kills: int, seed: int) -> dict:
    """One uninterrupted run, one that is killed `kills` times, and the comparison."""
    when = random.Random(f"{method} {seed}")
    whole, parts = scene.folder / f"{method}-{seed}-whole", scene.folder / f"{method}-{seed}-parts"
    duration = finish(scene.arguments(method, whole))
    moments: list[str] = []
    arguments = scene.arguments(method, parts)
    while len(moments) < kills:
        moment = run_and_kill(arguments, parts, when, duration)
        if moment is not None:
            moments.append(moment)
        elif len(moments) < kills:  # it came to its end: the next kills hit a run from the beginning
            compare(whole, parts)
            parts = scene.folder / f"{method}-{seed}-parts-after-{len(moments)}"
            arguments = scene.arguments(method, parts)
    finish(arguments)
    files = compare(whole, parts)
    assert not unfinished_files(parts), "leftovers of killed writes"
    writing = moments.count("writing")
    return {"method": method, "kills": len(moments), "while writing": writing, "files compared": files}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=30, help="in all, spread over the methods")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first-epoch", action="store_true", help="interrupt within the first epoch instead")
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.folder.mkdir(parents=True, exist_ok=True)
    os.environ["HOME"] = str(args.folder)
    scene = Scene(args.folder)
    if args.first_epoch:
        unfinished_epoch.LARGEST_SHARE = float("inf")
        for method in args.methods:
            print(json.dumps(check_first_epoch(scene, method)), flush=True)
        return
    for number, method in enumerate(args.methods):
        kills = args.kills // len(args.methods) + (number < args.kills % len(args.methods))
        print(json.dumps(check_method(scene, method, kills, args.seed)), flush=True)


if __name__ == "__main__":
    main()
