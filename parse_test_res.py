"""Mean and spread of results over seeds, read from log files (ours or the CoOp repositories').

    python parse_test_res.py output/base2new/train_base/shapes/shots_16/ProMetaR/<cfg>             # seed1, seed2, ...
    python parse_test_res.py output/evaluation/ProMetaR/<cfg> --multi-exp                          # one level more
    python parse_test_res.py output/.../test_new/... --test-log                                    # --eval-only runs

A training run counts when its log says that training has finished; the last result after that line is taken. With
--test-log the last result of the log is taken.
"""

from __future__ import annotations

import argparse
import re
import statistics
from collections.abc import Sequence
from pathlib import Path

from dassl.utils import UserError, errors_in_one_line

END_OF_TRAINING = re.compile(r"Finish(ed)? training")  # both spellings are in circulation
Z95 = 1.96


def read_result(log: Path, keyword: str, evaluation_only: bool) -> float | None:
    """The result line `* <keyword>: 85.3%` of a finished run, in percent; None when the run did not finish."""
    pattern = re.compile(rf"^\* {re.escape(keyword)}: ([-+.\de]+)%")
    finished, result = evaluation_only, None
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines():
        finished = finished or bool(END_OF_TRAINING.search(line))
        match = pattern.match(line)
        if match and finished:
            result = float(match[1])
    return result


def latest_result(run: Path, keyword: str, evaluation_only: bool) -> tuple[Path, float] | None:
    """Newest log of a run (log.txt, log.txt-<time>) that holds a result."""
    for log in sorted(run.glob("log.txt*"), key=lambda path: (path.stat().st_mtime, path.name), reverse=True):
        result = read_result(log, keyword, evaluation_only)
        if result is not None:
            return log, result
    return None


def natural(path: Path) -> list[object]:
    """Sort key that puts seed2 before seed10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", path.name)]


def parse_experiment(directory: Path, keyword: str, evaluation_only: bool, ci95: bool) -> float:
    """Print every run's result and their mean and spread; return the mean.

    Raises:
        UserError: no run with a result.
    """
    print(f"Parsing files in {directory}")
    results = []
    for run in sorted((path for path in directory.iterdir() if path.is_dir()), key=natural):
        found = latest_result(run, keyword, evaluation_only)
        if found is None:
            print(f"unfinished: {run}")
            continue
        log, value = found
        print(f"file: {log}. {keyword}: {value:.2f}%. ")
        results.append(value)
    if not results:
        raise UserError(f"no finished run with a line '* {keyword}: ...%' in {directory}")
    mean, spread = statistics.fmean(results), statistics.pstdev(results)
    if ci95:
        spread *= Z95 / len(results) ** 0.5
    print("===")
    print(f"Summary of directory: {directory}")
    print(f"* {keyword}: {mean:.2f}% +- {spread:.2f}% ({len(results)} runs)")  # as upstream: n in the denominator
    print("===")
    return mean


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="folder of the runs")
    parser.add_argument("--ci95", action="store_true", help="95%% confidence interval instead of standard deviation")
    parser.add_argument("--test-log", action="store_true", help="logs of --eval-only runs")
    parser.add_argument("--multi-exp", action="store_true", help="folder of experiments, each with runs inside")
    parser.add_argument("--keyword", default="accuracy", help="result to look for")
    args = parser.parse_args(arguments)
    if not args.directory.is_dir():
        raise UserError(f"no such folder: {args.directory}")
    if not args.multi_exp:
        parse_experiment(args.directory, args.keyword, args.test_log, args.ci95)
        return
    experiments = sorted((path for path in args.directory.iterdir() if path.is_dir()), key=natural)
    if not experiments:
        raise UserError(f"no experiments in {args.directory}")
    means = [parse_experiment(path, args.keyword, args.test_log, args.ci95) for path in experiments]
    print(f"Average performance: {statistics.fmean(means):.2f}%")


if __name__ == "__main__":
    with errors_in_one_line():
        main()
