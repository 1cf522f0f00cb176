"""The report's tables of some runs, as its command makes them."""

from __future__ import annotations

from experiments.report.frame import run_frame
from experiments.report.recipes import recipes
from experiments.report.shared import with_shared
from experiments.report.tables import tables_of


def score_tables(runs):
    return tables_of(run_frame(*with_shared(runs, recipes(runs))))
