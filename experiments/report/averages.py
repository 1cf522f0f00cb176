"""Averages in each way that papers print them, and the figures that are copied from papers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import pandas as pd

from .frame import TITLES
from .papers import AVERAGE, OOD_AVERAGE, STATUSES, Published, published_figures
from .scores import Place, Sheet
from .sections import Section, section_of
from .tables import ScoreTable, in_shots

LEFT_OUT = "EuroSAT"
"""The data set that moves averages most: its figures vary by several points between seeds and reruns."""
H_OF_AVERAGES, MEAN_OF_H = "H of the averages", "mean of the H"
AVERAGES_LEGEND = (
    "H of the averages: the harmonic mean of averaged base and averaged new accuracy, as in the tables above. Mean of "
    "the H: the H of each data set, averaged. Some papers print one, some the other. "
    f"{LEFT_OUT} has few classes and varies most between seeds, so averages are also given without it."
)
COPIED_LEGEND = (
    f"Copied from papers, not measured here. Run here: whether this report has a row of that recipe. {STATUSES}"
)


def averages_section(tables: Iterable[ScoreTable]) -> Section | None:
    """Averages of all tables, with and without EuroSAT, and both kinds of H; each with its data sets and seeds."""
    rows = [row for table in tables for sheet, place in averages(table) for row in _rows(table, sheet, place)]
    columns = ["setting", "method", "shots", "number", "over", "value", "deviation", "data sets", "seeds"]
    formats = {"value": 2, "deviation": 2, "data sets": 0, "seeds": 0}
    return section_of(
        "averages",
        "Averages with and without EuroSAT, both kinds of H",
        pd.DataFrame(rows, columns=columns),
        formats,
        AVERAGES_LEGEND,
    )


def averages(table: ScoreTable) -> Iterable[tuple[Sheet, Place]]:
    """The averages of a table in each way: over all its data sets and without EuroSAT, each with both kinds of H."""
    for sheet, place in table.places():
        if not place.is_average:
            continue
        left_out = tuple(sorted({name for _, name, _ in place.cells if name == LEFT_OUT}))
        kept = [cell for cell in place.cells if cell[1] not in left_out]
        ways = [place]
        if left_out and kept:
            ways.append(replace(place, cells=kept, without=left_out))
        for way in ways:
            yield sheet, way
            if way.metric == "H":
                yield sheet, replace(way, mean_of_h=True)


def _rows(table: ScoreTable, sheet: Sheet, place: Place) -> Iterable[tuple[object, ...]]:
    number = place.metric if place.metric != "H" else MEAN_OF_H if place.mean_of_h else H_OF_AVERAGES
    over = f"without {LEFT_OUT}" if place.without else "all data sets"
    for recipe in sheet.recipes:
        score = sheet.score(recipe, place)
        remark = f" ({score['remark']})" if score["remark"] else ""
        name, shots = table.names[recipe], in_shots(place.shots)
        yield (
            *(TITLES[table.setting], name, shots, number, over + remark),
            *(score["mean"], score["deviation"], score["covered"], len(score["seeds"])),
        )


def copied_section(tables: Sequence[ScoreTable], averages_only: bool) -> Section | None:
    """Published figures of the settings in the report, set apart from what was measured; None without such tables.

    Args:
        tables: the tables of the report. Only those on the papers' data sets have published figures.
        averages_only: leave out the figures of single data sets.
    """
    settings = [setting for setting in TITLES if any(each.setting == setting and each.of_papers for each in tables)]
    run = {
        (table.setting, comparison.published.method)
        for table in tables
        for score in table.scores()
        for comparison in score.comparisons
    }
    grouped: dict[tuple[str, str, str], list[Published]] = {}
    for figure in published_figures().values():
        is_average = figure.dataset.startswith((AVERAGE, OOD_AVERAGE))
        if figure.setting in settings and (is_average or not averages_only):
            grouped.setdefault((figure.setting, figure.method, figure.dataset), []).append(figure)
    rows = []
    for (setting, method, dataset), figures in grouped.items():
        here = "yes" if (setting, method) in run else "no"
        values = {figure.metric: figure.value for figure in figures}
        halves = [values.pop(metric, math.nan) for metric in ("base", "new", "H")]
        statuses = ", ".join(dict.fromkeys(figure.status for figure in figures))
        sources = "; ".join(dict.fromkeys(figure.provenance for figure in figures))
        for metric, value in (values or {"accuracy": math.nan}).items():
            name = metric.removeprefix("accuracy@").replace("shot", " shots").replace("accuracy", "16 shots")
            rows.append((TITLES[setting], method, dataset, here, name, *halves, value, statuses, sources))
    columns = ["setting", "published as", "data set", "run here", "shots", "base", "new", "H", "accuracy"]
    values = pd.DataFrame(rows, columns=[*columns, "status", "provenance"]).dropna(axis="columns", how="all")
    formats = {name: 2 for name in ("base", "new", "H", "accuracy") if name in values}
    return section_of("copied", "Copied from papers, not run here", values, formats, COPIED_LEGEND)
