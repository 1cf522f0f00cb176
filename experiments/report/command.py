"""The command line of the report."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from dassl.utils import UserError, write_text_atomically
from experiments.results import PARTS

from .averages import commit
from .page import html_page
from .recipes import recipes
from .runs import Found, Run, find_runs
from .sections import (
    LEGEND,
    classes_section,
    comparison_section,
    cost_section,
    runs_section,
    score_section,
    summary_section,
)
from .tables import score_tables
from .text import latex, markdown, scores_csv, terminal

TITLE = "Prompt learning: results"
NAMED = 12  # folders of missing runs that a line names


def main(arguments: Sequence[str] | None = None) -> None:
    """Tables of an output folder on the terminal, and as files.

    Raises:
        UserError: no results, a result.json that cannot be used, or a folder that cannot be written.
    """
    parser = argparse.ArgumentParser(prog="python -m experiments report", description=__doc__)
    parser.add_argument("output", nargs="?", type=Path, default=Path("output"), help="folder of the runs")
    parser.add_argument("--to", type=Path, help="folder of the report's files (default: OUTPUT/report)")
    parser.add_argument("--setting", choices=list(PARTS), action="append", help="this setting only; may be repeated")
    parser.add_argument("--dataset", action="append", help="data set by the name of its config file; may be repeated")
    parser.add_argument("--terminal-only", action="store_true", help="write no files")
    args = parser.parse_args(arguments)
    found = find_runs(args.output)
    runs = [run for run in found.runs if _wanted(run, args.setting, args.dataset)]
    if not runs:
        raise UserError(f"no finished runs{_filters(args)} in {args.output}: a finished run has a result.json")
    files = write_report(args.output, runs, found, None if args.terminal_only else args.to or args.output / "report")
    for file in files:
        print(f"written: {file}")


def _wanted(run: Run, settings: Sequence[str] | None, datasets: Sequence[str] | None) -> bool:
    return (not settings or run.setting in settings) and (
        not datasets or bool({run.dataset, run.dataset_config} & set(datasets))
    )


def _filters(args: argparse.Namespace) -> str:
    wanted = [*(args.setting or []), *(args.dataset or [])]
    return f" of {', '.join(wanted)}" if wanted else ""


def write_report(output: Path, runs: Sequence[Run], found: Found, folder: Path | None) -> list[Path]:
    """Print the tables of some runs; write all formats into `folder`, unless that is None; return the files."""
    recipe_of = recipes(runs)
    tables = score_tables(runs, recipe_of)
    scores = [score_section(table, index) for index, table in enumerate(tables, 1)]
    short, published = summary_section(tables), comparison_section(tables)
    cost, classes = cost_section(runs, recipe_of), classes_section(runs, recipe_of)
    facts = _facts(output, runs, found)

    width = shutil.get_terminal_size((120, 24)).columns
    print("\n".join(facts), end="\n\n")
    for section in filter(None, [*scores, short]):
        print(terminal(section, width))
    print(LEGEND, end="\n\n")
    if folder is None:
        return []
    in_text = list(filter(None, [*scores, short, published, cost]))
    on_page = list(filter(None, [short, published, cost, classes, runs_section(runs, recipe_of, output)]))
    files = {
        "report.md": markdown(in_text, TITLE, facts),
        "report.csv": scores_csv(tables),
        "report.tex": latex(in_text),
        "report.html": html_page(TITLE, facts, tables, scores, on_page, runs, recipe_of),
    }
    for name, text in files.items():
        write_text_atomically(folder / name, text)
    return [folder / name for name in files]


def _facts(output: Path, runs: Sequence[Run], found: Found) -> list[str]:
    """Lines about the whole report."""
    commits = sorted({commit(run) for run in runs if run.git_commit})
    torch = sorted({str(run.versions.get("torch")) for run in runs})
    dates = [run.date[:10] for run in runs]
    facts = [
        f"{len(runs)} finished runs in {output}, {' to '.join(dict.fromkeys([min(dates), max(dates)]))}",
        f"PyTorch {', '.join(torch)}",
    ]
    if commits:
        facts.append(f"commits: {', '.join(commits)}")
    for what, folders in (("unfinished and left out", found.unfinished), ("planned and not begun", found.not_begun)):
        if folders:
            names = [str(path.relative_to(output)) for path in folders[:NAMED]]
            more = f" and {len(folders) - NAMED} more" if len(folders) > NAMED else ""
            facts.append(f"{what}: {', '.join(names)}{more}")
    return facts
