"""The command line of `tools.benchmark`. Imports nothing slow, so that mistakes are reported at once."""

from __future__ import annotations

from pathlib import Path

from dassl.command_line import ArgumentParser

_DESCRIPTION = """Time and memory of a training step and a test batch, against the published way of computing them.

The backbone has random weights; class names are ImageNet's. A row has the median seconds of a step and of a test batch,
and with --memory the peak memory of a step above what was in memory before it, measured in a separate process. With
--baseline the same quantities of the published way follow, timed in the same process in turn with ours (A B A B ...),
with the largest difference between the learned tensors after one step of each from the same state, and the largest
change that the step made. For three or more class counts, the straight line through the seconds follows."""


def make_parser() -> ArgumentParser:
    """The parser of `tools.benchmark`."""
    parser = ArgumentParser(
        prog="python -m tools.benchmark",
        description=_DESCRIPTION,
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
