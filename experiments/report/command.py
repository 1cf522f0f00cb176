"""The command line of the report."""

from __future__ import annotations

import argparse
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from dassl.utils import UnknownNameError, UserError, printable, write_text_atomically
from dassl.utils.locks import locked_while_writing
from dassl.utils.names import listed
from experiments.arguments import make_parser

from .averages import averages_section, copied_section
from .charts import all_charts, calibration_charts, table_charts, training_charts
from .comparisons import LEGEND as PAIRS_LEGEND
from .comparisons import Comparisons, signed
from .figures import Palette
from .frame import recipe_order, run_frame
from .latex import latex
from .measures import joint_section, measures_section
from .names import names_of
from .own_data import with_own_names
from .page import html_page
from .recipes import Recipe, recipes
from .run_places import shared_runs, without_conflicts
from .runs import FinishedRun, Found, find_runs
from .sections import (
    LEGEND,
    UNKNOWN,
    Section,
    classes_section,
    comparison_section,
    cost_section,
    recipes_section,
    runs_section,
    score_section,
    section_of,
    summary_section,
    with_published,
)
from .tables import tables_of
from .text import as_csv, markdown, scores_csv, terminal

TITLE = "Prompt learning: results"
NAMED = 12  # folders of missing runs that a line names


def main(arguments: Sequence[str]) -> int:
    """Tables of an output folder on the terminal, and as files; what cannot be used is named on stderr.

    Returns:
        Exit status: 0, or 1 when something could not be used and everything else was reported.

    Raises:
        UserError: no results, or a folder that cannot be written.
    """
    args = make_parser().parse_args(["report", *arguments])
    found = find_runs(args.output)
    runs = [run for run in with_own_names(found.runs) if _wanted(run, args.settings, args.datasets)]
    recipe_of = recipes(runs)
    clear, conflicts = without_conflicts(runs, recipe_of)
    copies = shared_runs(clear, recipe_of)
    shared, conflicts_of_shared = without_conflicts(list(copies), copies)
    problems = [*found.problems, *conflicts, *conflicts_of_shared]
    if not clear:
        _name(problems)
        why = "see the lines above" if problems else "a finished run has a result.json"
        raise UserError(f"no finished runs{_filters(args)} to report in {args.output}: {why}")
    facts = [printable(fact) for fact in _facts(args.output, runs, found, problems)]
    report = Report(clear, shared, recipe_of | copies, facts, args.baseline)
    report.show()
    if not args.terminal_only:
        every_run = runs_section(run_frame(runs, recipe_of), args.output)
        for file in report.write(args.output_dir or args.output / "report", every_run, not args.no_figures):
            print(f"written: {printable(file)}")
    problems += report.comparisons.evaluations.problems
    _name(problems)
    return 1 if problems else 0


def _name(problems: Sequence[str]) -> None:
    for problem in problems:
        print(f"error: {printable(problem)}", file=sys.stderr)


def _wanted(run: FinishedRun, settings: Sequence[str] | None, datasets: Sequence[str] | None) -> bool:
    return (not settings or run.setting in settings) and (
        not datasets or bool({run.dataset, run.dataset_config} & set(datasets))
    )


def _filters(args: argparse.Namespace) -> str:
    wanted = [*(args.settings or []), *(args.datasets or [])]
    return f" of {', '.join(wanted)}" if wanted else ""


class Report:
    """The tables and figures of some runs.

    Args:
        runs: the runs, each alone in its place.
        shared: those that two settings share, under the name of the second one.
        recipe_of: the recipe of each.
        facts: lines about the whole report.
        baseline: the method that all others are compared with, or None.

    Raises:
        UnknownNameError: no method is called like the baseline, or several are.
    """

    def __init__(
        self,
        runs: Sequence[FinishedRun],
        shared: Sequence[FinishedRun],
        recipe_of: Mapping[FinishedRun, Recipe],
        facts: Sequence[str],
        baseline: str | None,
    ) -> None:
        names = names_of(recipe_of)
        self.facts = facts
        self.frame = run_frame(runs, recipe_of)
        self.tables = tables_of(run_frame([*runs, *shared], recipe_of))
        self.palette = Palette({recipe: names[recipe] for recipe in sorted(names, key=recipe_order)})
        self.comparisons = Comparisons()
        found = [self.comparisons.to_baseline(table, baseline) if baseline else None for table in self.tables]
        self.baselines = [each for each in found if each]
        if baseline is not None and not self.baselines:
            in_tables = dict.fromkeys(name for table in self.tables for name in table.names.values())
            known = ", ".join(f'"{name}"' for name in in_tables)
            raise UnknownNameError(f'--baseline "{baseline}" is not a method of this report: choose from {known}')
        self.scores = [
            score_section(table, index, each)
            for index, (table, each) in enumerate(zip(self.tables, found, strict=True), 1)
        ]
        self.every_score = with_published(self.tables)
        self.short = summary_section(self.every_score)

    def show(self) -> None:
        """Print the tables of scores."""
        width = shutil.get_terminal_size((120, 24)).columns
        print("\n".join(self.facts), end="\n\n")
        extra = [joint_section(self.frame), self._pairs(headline_only=True) if self.baselines else None]
        for section in filter(None, [*self.scores, *extra, self.short]):
            print(terminal(section, width))
        print(LEGEND, end="\n\n")

    def _pairs(self, headline_only: bool) -> Section | None:
        """Paired differences: of all methods, or of all to the baseline where the short form is asked for."""
        rows = self.comparisons.rows(self.tables, self.baselines, headline_only)
        if headline_only and self.baselines:
            names = [each.name for each in self.baselines]
            rows = rows[rows["compared with"].isin(names)]
        counts = dict.fromkeys(("seeds", "decisions", "only first right", "only second right"), 0)
        formats = {**counts, "% differ": 1, "difference": lambda gap: UNKNOWN if math.isnan(gap) else signed(gap)}
        notes = [f"Not compared: {note}." for note in self.comparisons.notes]
        return section_of("pairs", "Paired differences", pd.DataFrame(rows), formats, PAIRS_LEGEND, notes)

    def write(self, folder: Path, every_run: Section | None, figures: bool = True) -> list[Path]:
        """Write all formats and figures; returns the files.

        Args:
            folder: for the files; figures get a folder below it.
            every_run: the list of all runs, those included that no table shows.
            figures: whether to write PDF and PNG files.

        Raises:
            BusyError: another process writes there.
            UnwritableFileError: a file cannot be written.
        """
        frame, tables, every_score = self.frame, self.tables, self.every_score
        joint, measures, averages = joint_section(frame), measures_section(frame), averages_section(tables)
        pairs, short_pairs = self._pairs(headline_only=False), self._pairs(headline_only=True)
        published, cost, names = comparison_section(every_score), cost_section(frame), recipes_section(frame)
        classes = classes_section(frame)
        copied, copied_averages = (copied_section(tables, averages_only) for averages_only in (False, True))
        beside = [joint, averages]
        in_text = [*self.scores, *beside, short_pairs, self.short, published, copied_averages, measures, cost, names]
        in_latex = [*self.scores, *beside, *([short_pairs] if self.baselines else []), copied_averages, measures, cost]
        on_page = [*beside, pairs, self.short, published, copied, measures, cost, classes, names, every_run]
        charts = [list(table_charts(table, index)) for index, table in enumerate(tables, 1)]
        training = training_charts(frame)
        calibration = calibration_charts(frame, self.comparisons.evaluations)
        files = {
            "report.md": markdown(filter(None, in_text), TITLE, self.facts),
            "report.csv": scores_csv(every_score, self.baselines),
            "pairs.csv": as_csv(self.comparisons.rows(tables, self.baselines)),
            "report.tex": latex(filter(None, in_latex)),
            "report.html": html_page(
                TITLE,
                self.facts,
                list(zip(self.scores, charts, strict=True)),
                list(filter(None, on_page)),
                training,
                calibration,
                self.palette,
            ),
        }
        with locked_while_writing(folder):  # all files are of one report
            for name, text in files.items():
                write_text_atomically(folder / name, text)
            shown = all_charts(charts, training, calibration) if figures else []
            for chart in shown:
                chart.save(folder / "figures", self.palette)
        return [*(folder / name for name in files), *([folder / "figures"] if shown else [])]


def _facts(output: Path, runs: Sequence[FinishedRun], found: Found, problems: Sequence[str]) -> list[str]:
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
            facts.append(f"{what}: {listed([str(path.relative_to(output)) for path in folders], NAMED)}")
    facts += [f"left out: {problem}" for problem in problems[:NAMED]]
    if len(problems) > NAMED:
        facts.append(f"left out: {len(problems) - NAMED} more, named on the terminal")
    return facts
