"""Mean and spread of results over seeds, read from log files (ours or the CoOp repositories')."""

from __future__ import annotations

import argparse
import re
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from dassl.command_line import ArgumentParser, end_imports_in_one_line, errors_in_one_line


def make_parser() -> ArgumentParser:
    """The parser of this program."""
    parser = ArgumentParser(
        prog="parse_test_res.py",
        description="Mean and spread of results over seeds, read from log files (ours or the CoOp repositories').\n\n"
        "A training run counts when its log says that training has finished; the last result after that line is\n"
        "taken. What cannot be read is named, all the rest is summarised, and the exit status is 1.",
        examples=(
            "output/base2new/train_base/shapes/shots_16/ProMetaR/<cfg>",
            "output/evaluation/ProMetaR/<cfg> --multi-exp",
            "output/base2new/test_new/shapes/shots_16/ProMetaR/<cfg> --test-log",
        ),
    )
    parser.add_argument("directory", type=Path, help="folder of the runs: seed1, seed2, ...")
    parser.add_argument("--ci95", action="store_true", help="95%% confidence interval instead of standard deviation")
    parser.add_argument("--test-log", action="store_true", help="logs of --eval-only runs: the last result is taken")
    parser.add_argument("--multi-exp", action="store_true", help="folder of experiments, each with runs inside")
    parser.add_argument("--keyword", default="accuracy", help="result to look for")
    return parser


if __name__ == "__main__":  # before the imports that take seconds
    end_imports_in_one_line()
    make_parser().parse_args()

from dassl.utils import UnreadableFileError, UserError, printable

END_OF_TRAINING = re.compile(r"Finish(ed)? training")  # both spellings are in circulation
Z95 = 1.96


def read_logged_result(log: Path, keyword: str, evaluation_only: bool) -> float | None:
    """The result line `* <keyword>: 85.3%` of a finished run, in percent; None when the run did not finish.

    Raises:
        UnreadableFileError: not a file, not readable, or a result that is not a percentage.
    """
    if not log.is_file():
        raise UnreadableFileError(f"cannot read {log}: it is not a file")
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UnreadableFileError(f"cannot read {log}: {error.strerror or error}") from error
    pattern = re.compile(rf"^\* {re.escape(keyword)}: (\S+)%")
    finished, result = evaluation_only, None
    for number, line in enumerate(lines, 1):
        finished = finished or bool(END_OF_TRAINING.search(line))
        match = pattern.match(line)
        if match and finished:
            result = _percentage(match[1], f"{log}: line {number}")
    return result


def _percentage(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 100:  # false for nan as well
        raise UnreadableFileError(f"{where}: {text}% is not a percentage from 0 to 100")
    return value


def latest_result(run: Path, keyword: str, evaluation_only: bool) -> tuple[Path, float] | None:
    """Newest log of a run (log.txt, log.txt-<time>) that has a result.

    Raises:
        UnreadableFileError: a log cannot be read.
    """
    for log in sorted(run.glob("log.txt*"), key=lambda path: (path.lstat().st_mtime, path.name), reverse=True):
        result = read_logged_result(log, keyword, evaluation_only)
        if result is not None:
            return log, result
    return None


def natural(path: Path) -> list[object]:
    """Sort key that puts seed2 before seed10."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", path.name)]


def seed_of(run: Path) -> int | str:
    """Equal for folders of one seed, such as seed1, seed01 and seed1-copy; other names stand for themselves."""
    seed = re.match(r"seed[_-]?(\d+)", run.name)
    return int(seed[1]) if seed else run.name


def folders_in(directory: Path) -> list[Path]:
    """Folders in a folder, in the order of their names.

    Raises:
        UnreadableFileError: it cannot be read.
    """
    try:
        return sorted((path for path in directory.iterdir() if path.is_dir()), key=natural)
    except OSError as error:
        raise UnreadableFileError(f"cannot read the folder {directory}: {error.strerror or error}") from error


def results_of(directory: Path, args: argparse.Namespace, problems: list[str]) -> list[float]:
    """Results of the runs of one experiment, each printed as it is read.

    Args:
        problems: gets a line about each run that cannot be used.
    """
    print(f"Parsing files in {printable(directory)}")
    runs: defaultdict[int | str, list[Path]] = defaultdict(list)
    for run in folders_in(directory):
        runs[seed_of(run)].append(run)
    results = []
    for same in runs.values():
        if len(same) > 1:
            problems.append(f"{' and '.join(map(str, same))} are of one seed: none is counted, remove one")
            continue
        try:
            found = latest_result(same[0], args.keyword, args.test_log)
        except UserError as error:
            problems.append(str(error))
            continue
        if found is None:
            print(f"unfinished: {printable(same[0])}")
            continue
        log, value = found
        print(f"file: {printable(log)}. {args.keyword}: {value:.2f}%. ")
        results.append(value)
    return results


def summarise(directory: Path, args: argparse.Namespace, problems: list[str]) -> float:
    """Print mean and spread of the results of one experiment; a single run has no spread.

    Returns:
        The mean.

    Raises:
        UserError: there is no result.
    """
    results = results_of(directory, args, problems)
    if not results:
        raise UserError(f"no finished run with a line '* {args.keyword}: ...%' in {directory}")
    mean, spread = statistics.fmean(results), statistics.pstdev(results)
    if args.ci95:
        spread *= Z95 / len(results) ** 0.5
    print("===")
    print(f"Summary of directory: {printable(directory)}")
    if len(results) == 1:
        print(f"* {args.keyword}: {mean:.2f}% (1 run)")
    else:  # as upstream: n in the denominator
        print(f"* {args.keyword}: {mean:.2f}% +- {spread:.2f}% ({len(results)} runs)")
    print("===")
    return mean


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0, or 1 when something could not be used.

    Raises:
        UserError: there is no result.
    """
    args = make_parser().parse_args(arguments)
    if not args.directory.is_dir():
        raise UserError(f"no such folder: {args.directory}")
    problems: list[str] = []
    try:
        if args.multi_exp:
            summarise_experiments(args, problems)
        else:
            summarise(args.directory, args, problems)
    finally:
        for problem in problems:
            print(f"error: {printable(problem)}", file=sys.stderr)
    return 1 if problems else 0


def summarise_experiments(args: argparse.Namespace, problems: list[str]) -> None:
    """Print each experiment's mean, and the mean of these.

    Raises:
        UserError: there is none.
    """
    experiments, means = folders_in(args.directory), []
    for path in experiments:
        try:
            means.append(summarise(path, args, problems))
        except UserError as error:
            problems.append(str(error))
    if not means:
        raise UserError(f"no experiments with results in {args.directory}")
    part = "" if len(means) == len(experiments) else f" ({len(means)} of {len(experiments)} experiments)"
    print(f"Average performance: {statistics.fmean(means):.2f}%{part}")


if __name__ == "__main__":
    with errors_in_one_line():
        sys.exit(main())
