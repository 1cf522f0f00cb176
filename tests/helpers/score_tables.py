"""The report's tables of some runs, as its command makes them."""

from __future__ import annotations

from experiments.report.frame import run_frame
from experiments.report.recipes import recipes
from experiments.report.run_places import shared_runs, without_conflicts
from experiments.report.tables import tables_of


def score_tables(runs):
    copies = shared_runs(runs, recipes(runs))
    shared, _ = without_conflicts(list(copies), copies)
    return tables_of(run_frame([*runs, *shared], recipes(runs) | copies))
