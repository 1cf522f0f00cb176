"""Processor time of a training step here against the same step in another checkout of this repository.

    git worktree add /tmp/before COMMIT
    python -m tools.compare_checkouts /tmp/before --trainer ProMetaR --backbone ViT-B/16 --classes 20 100 500

Each checkout runs in its own process, and the two step in turn (A B B A ...), so that both meet the same machine.
A row has the median processor seconds of a step in each, and the median of the ratios of the pairs. The backbone has
random weights (see `tools.benchmark`); ViT-Shapes has the sizes of the small one that comes with this project.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve()
WARM_UP_STEPS = 2
"""The second one is recorded for replays."""
OWN_SIZES = {
    "ViT-Shapes": dict(embed_dim=96, image_resolution=48, vision_layers=4, vision_width=128, vision_patch_size=8,
                       context_length=77, vocab_size=49408, transformer_width=128, transformer_heads=2,
                       transformer_layers=3),
}  # fmt: skip
"""Backbones that `tools.benchmark` does not have."""


def serve(trainer: str, backbone: str, classes: int) -> None:
    """Build a trainer of the checkout that Python imports from, and do a step for each line of standard input."""
    import torch

    from dassl.utils.memory import keep_freed_memory
    from tools import benchmark

    place = sys.modules[benchmark.Bench.__module__]  # tools.benchmark itself in older checkouts
    keep_freed_memory()  # as train.py does
    place.BACKBONES.update(OWN_SIZES)
    torch.set_num_threads(1)
    arguments = ["--trainer", trainer, "--backbone", backbone, "--device", "cpu"]
    with tempfile.TemporaryDirectory() as folder:
        bench = place.Bench(benchmark.parse_args(arguments), classes, folder)
        print(json.dumps("ready"), flush=True)
        for _ in sys.stdin:
            torch.manual_seed(0)
            start = time.process_time()
            bench.step()
            print(json.dumps(time.process_time() - start), flush=True)


class Checkout:
    """A trainer in a process that imports everything from `folder`."""

    def __init__(self, folder: Path, trainer: str, backbone: str, classes: int) -> None:
        command = [sys.executable, "-P", str(HERE), "--serve", trainer, backbone, str(classes)]
        environment = os.environ | {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdin is not None and self.process.stdout is not None  # they are pipes
        self._requests, self._answers = self.process.stdin, self.process.stdout
        self.folder = folder
        self._answer()

    def step(self) -> float:
        """Processor seconds of one step."""
        self._requests.write("step\n")
        self._requests.flush()
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        self._requests.close()
        self.process.wait()

    def _answer(self) -> str | float:
        """The next answer; other lines are what a trainer prints."""
        for line in self._answers:
            try:
                return json.loads(line)
            except ValueError:
                continue
        from dassl.utils import UserError

        raise UserError(f"the process of {self.folder} ended before its step was done: see its messages above")


def compare_steps(other: Path, trainer: str, backbone: str, classes: int, repeats: int) -> dict[str, float]:
    """Median processor seconds of a step there and here, and the median ratio here / there."""
    checkouts = [Checkout(folder, trainer, backbone, classes) for folder in (other, HERE.parents[1])]
    try:
        for checkout in checkouts:
            for _ in range(WARM_UP_STEPS):
                checkout.step()
        pairs = []
        for repeat in range(repeats):
            order = (0, 1) if repeat % 2 == 0 else (1, 0)
            seconds = {index: checkouts[index].step() for index in order}
            pairs.append((seconds[0], seconds[1]))
    finally:
        for checkout in checkouts:
            checkout.close()
    there, here = (statistics.median(seconds) for seconds in zip(*pairs, strict=True))
    ratio = statistics.median(ours / theirs for theirs, ours in pairs)
    return {"classes": classes, "there": there, "here": here, "here / there": ratio}


def main(argv: Sequence[str] | None = None) -> list[dict[str, float]]:
    """Print the table; returns its rows."""
    from tabulate import tabulate  # not for `serve`, which imports from another checkout

    from dassl.command_line import ArgumentParser
    from dassl.utils import UserError

    parser = ArgumentParser(
        prog="python -m tools.compare_checkouts",
        description="Processor time of a training step here against the same step in another checkout.",
        examples=("/tmp/before --trainer ProMetaR --backbone ViT-B/16 --classes 20 100 500",),
    )
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--trainer", default="ProMetaR", help="name of the trainer")
    parser.add_argument("--backbone", default="ViT-B/16", help="one of tools.benchmark's, or ViT-Shapes")
    parser.add_argument("--classes", type=int, nargs="+", default=[20], help="class counts, a row for each")
    parser.add_argument("--repeats", type=int, default=5, help="pairs of steps")
    args = parser.parse_args(argv)
    if not (args.other / "tools" / "benchmark.py").is_file():
        raise UserError(f"{args.other} is not a checkout of this repository: it has no tools/benchmark.py")
    rows = [compare_steps(args.other.resolve(), args.trainer, args.backbone, n, args.repeats) for n in args.classes]
    print(f"{args.trainer}, {args.backbone}, processor seconds of a step, one thread")
    print(tabulate(rows, headers="keys", floatfmt=".3f"))
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        from dassl.utils import errors_in_one_line

        with errors_in_one_line():
            main()
