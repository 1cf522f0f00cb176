"""The command line of the report."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from dassl.utils import UserError, printable, write_text_atomically
from dassl.utils.locks import locked_while_writing
from experiments.arguments import make_report_parser

from .conflicts import without_conflicts
from .frame import run_frame
from .own_data import with_own_names
from .page import html_page
from .recipes import Recipe, recipes
from .runs import Found, Run, find_runs
from .sections import (
    LEGEND,
    Section,
    classes_section,
    comparison_section,
    cost_section,
    runs_section,
    score_section,
    summary_section,
    with_published,
)
from .shared import conflicts_of_shared
from .tables import score_tables
from .text import latex, markdown, scores_csv, terminal

TITLE = "Prompt learning: results"
NAMED = 12  # folders of missing runs that a line names


def main(arguments: Sequence[str] | None = None) -> int:
    """Tables of an output folder on the terminal, and as files; what cannot be used is named on stderr.

    Returns:
        Exit status: 0, or 1 when something could not be used and everything else was reported.

    Raises:
        UserError: no results, or a folder that cannot be written.
    """
    args = make_report_parser().parse_args(arguments)
    found = find_runs(args.output)
    runs = [run for run in with_own_names(found.runs) if _wanted(run, args.settings, args.datasets)]
    recipe_of = recipes(runs)
    clear, conflicts = without_conflicts(runs, recipe_of)
    problems = [*found.problems, *conflicts, *conflicts_of_shared(clear, recipe_of)]
    if not clear:
        _name(problems)
        why = "see the lines above" if problems else "a finished run has a result.json"
        raise UserError(f"no finished runs{_filters(args)} to report in {args.output}: {why}")
    facts = [printable(fact) for fact in _facts(args.output, runs, found, problems)]
    folder = None if args.terminal_only else args.output_dir or args.output / "report"
    for file in write_report(clear, recipe_of, facts, runs_section(run_frame(runs, recipe_of), args.output), folder):
        print(f"written: {printable(file)}")
    _name(problems)
    return 1 if problems else 0


def _name(problems: Sequence[str]) -> None:
    for problem in problems:
        print(f"error: {printable(problem)}", file=sys.stderr)


def _wanted(run: Run, settings: Sequence[str] | None, datasets: Sequence[str] | None) -> bool:
    return (not settings or run.setting in settings) and (
        not datasets or bool({run.dataset, run.dataset_config} & set(datasets))
    )


def _filters(args: argparse.Namespace) -> str:
    wanted = [*(args.settings or []), *(args.datasets or [])]
    return f" of {', '.join(wanted)}" if wanted else ""


def write_report(
    runs: Sequence[Run], recipe_of: Mapping[Run, Recipe], facts: Sequence[str], every_run: Section, folder: Path | None
) -> list[Path]:
    """Print the tables of some runs; write all formats into `folder`, unless that is None; return the files.

    Args:
        facts: lines about the whole report.
        every_run: the list of all runs, those included that no table shows.
    """
    frame, tables = run_frame(runs, recipe_of), score_tables(runs, recipe_of)
    scores, every_score = [score_section(table, index) for index, table in enumerate(tables, 1)], with_published(tables)
    short, published = summary_section(every_score), comparison_section(every_score)
    cost, classes = cost_section(frame), classes_section(frame)

    width = shutil.get_terminal_size((120, 24)).columns
    print("\n".join(facts), end="\n\n")
    for section in filter(None, [*scores, short]):
        print(terminal(section, width))
    print(LEGEND, end="\n\n")
    if folder is None:
        return []
    in_text = list(filter(None, [*scores, short, published, cost]))
    on_page = list(filter(None, [short, published, cost, classes, every_run]))
    files = {
        "report.md": markdown(in_text, TITLE, facts),
        "report.csv": scores_csv(every_score),
        "report.tex": latex(in_text),
        "report.html": html_page(TITLE, facts, tables, scores, on_page, frame),
    }
    with locked_while_writing(folder):  # the four are of one report
        for name, text in files.items():
            write_text_atomically(folder / name, text)
    return [folder / name for name in files]


def _facts(output: Path, runs: Sequence[Run], found: Found, problems: Sequence[str]) -> list[str]:
    """Lines about the whole report."""
    commits = sorted({run.commit for run in runs if run.git_commit})
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
    facts += [f"left out: {problem}" for problem in problems[:NAMED]]
    if len(problems) > NAMED:
        facts.append(f"left out: {len(problems) - NAMED} more, named on the terminal")
    return facts
