"""Base-to-new table of everything found in an output folder.

    python -m experiments.base2new [OUTPUT] [--dataset shapes]

A row is a trainer with a config on a data set: accuracy on base and new classes and their harmonic mean H per seed,
then mean +- standard deviation over the seeds (n - 1 in the denominator). A seed counts when both of its runs finished.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tabulate import tabulate

from dassl.utils import UserError
from parse_test_res import latest_result, natural

TRAIN, TEST = Path("base2new", "train_base"), Path("base2new", "test_new")


class Row(NamedTuple):
    """One trainer and config on one data set; accuracies in percent by seed."""

    dataset: str
    shots: str
    trainer: str
    config: str
    base: list[float]
    new: list[float]
    incomplete: int
    """Seeds of which one run is missing or unfinished."""


def harmonic_mean(base: float, new: float) -> float:
    """H of the base-to-new setting; 0 when both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0


def collect(output: Path, dataset: str | None = None) -> Iterator[Row]:
    """Rows of `output`, in the order of their folders."""
    for config in sorted((output / TRAIN).glob("*/shots_*/*/*")):
        name, shots, trainer, cfg = config.relative_to(output / TRAIN).parts
        if dataset is not None and name != dataset:
            continue
        base, new, incomplete = [], [], 0
        for seed in sorted(config.glob("seed*"), key=natural):
            zero_shot = trainer.startswith("ZeroshotCLIP")
            on_base = latest_result(seed, "accuracy", evaluation_only=zero_shot)
            on_new = latest_result(output / TEST / seed.relative_to(output / TRAIN), "accuracy", evaluation_only=True)
            if on_base is None or on_new is None:
                incomplete += 1
                continue
            base.append(on_base[1])
            new.append(on_new[1])
        yield Row(name, shots.removeprefix("shots_"), trainer, cfg, base, new, incomplete)


def mean_and_deviation(values: Sequence[float]) -> str:
    """ "71.2 +- 0.4", or the value alone when there is one, or "missing"."""
    if not values:
        return "missing"
    mean = f"{statistics.fmean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} +- {statistics.stdev(values):.1f}"


def table(rows: Sequence[Row], style: str) -> str:
    """The rows as text, in one of tabulate's styles."""
    cells = []
    for row in rows:
        h = [harmonic_mean(*pair) for pair in zip(row.base, row.new, strict=True)]
        seeds = f"{len(row.base)}" + (f" ({row.incomplete} incomplete)" if row.incomplete else "")
        accuracies = (mean_and_deviation(values) for values in (row.base, row.new, h))
        cells.append([row.dataset, row.trainer, row.config, *accuracies, seeds])
    headers = ["data set", "trainer", "config", "base", "new", "H", "seeds"]
    return tabulate(cells, headers=headers, tablefmt=style, disable_numparse=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", nargs="?", type=Path, default=Path("output"), help="output folder")
    parser.add_argument("--dataset", help="one data set only, by the name of its config file")
    parser.add_argument("--style", default="simple", help="table style: simple, github, latex, ...")
    args = parser.parse_args(arguments)
    rows = list(collect(args.output, args.dataset))
    if not rows:
        raise UserError(f"no base-to-new runs in {args.output / TRAIN}: run scripts/<method>/base2new_train.sh first")
    print(table(rows, args.style))


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
