"""Sections as terminal text, Markdown and LaTeX; scores as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator

from tabulate import tabulate

from dassl.utils import in_csv, in_latex, in_markdown, printable

from .papers import Comparison
from .sections import LEGEND, Section, Value
from .sheet import Score
from .tables import ScoreTable

CSV_COLUMNS = (
    *("setting", "backbone", "trainer", "config", "changes", "dataset", "metric", "shots"),
    *("mean", "deviation", "n_seeds", "seeds", "expected_seeds", "partial", "mixed", "remark"),
    *("published", "difference", "band", "within_band", "published_method", "provenance", "status"),
)


def _cell(value: Value) -> str:
    """Without the published figure, which has a table of its own."""
    return f"{value.text} ({value.remark})" if value.remark else value.text


def _flat(section: Section) -> tuple[list[str], list[list[str]]]:
    """Headers and rows, the names of several parts as a leading column."""
    named = any(part.name for part in section.parts)
    rows = [[part.name] * named + [_cell(value) for value in row] for part in section.parts for row in part.rows]
    return ["data set"] * named + section.headers, rows


def terminal(section: Section, width: int) -> str:
    """A table that fits into `width` characters: what does not, follows below with the text columns repeated."""
    headers, rows = _flat(section)
    kept = section.labels + len(headers) - len(section.headers)
    lines = [section.title, "=" * len(section.title)]
    for columns in _fitting(headers, rows, kept, width):
        cells = [[row[column] for column in columns] for row in rows]
        lines += [_table([headers[column] for column in columns], cells, "simple"), ""]
    return "\n".join(lines + [f"* {note}" for note in section.notes] + [""] * bool(section.notes))


def _fitting(headers: list[str], rows: list[list[str]], kept: int, width: int) -> Iterator[list[int]]:
    """Columns of each piece of a table: the first `kept` ones, and as many others as fit."""
    widths = [max(len(row[column]) for row in [headers, *rows]) + 2 for column in range(len(headers))]
    piece = list(range(kept))
    for column in range(kept, len(headers)):
        if len(piece) > kept and sum(widths[each] for each in piece) + widths[column] > width:
            yield piece
            piece = list(range(kept))
        piece.append(column)
    yield piece


def _table(headers: list[str], rows: list[list[str]], style: str) -> str:
    return tabulate(rows, headers=headers, tablefmt=style, disable_numparse=True)


def markdown(sections: Iterable[Section], title: str, facts: Iterable[str]) -> str:
    lines = [f"# {title}", "", *(f"* {in_markdown(fact)}" for fact in facts), "", LEGEND, ""]
    for section in sections:
        headers, rows = _flat(section)
        rows = [[in_markdown(cell) for cell in row] for row in rows]
        lines += [
            f"## {in_markdown(section.title)}",
            "",
            _table([in_markdown(each) for each in headers], rows, "github"),
        ]
        lines += [
            "",
            *(f"* {in_markdown(note)}" for note in section.notes),
            *[""] * bool(section.notes),  # else the legend would belong to the last note
            section.legend,
            "",
        ]
    return "\n".join(lines)


def latex(sections: Iterable[Section]) -> str:
    r"""One `table` per part, to be \input into a document that uses the package booktabs."""
    lines = ["% needs \\usepackage{booktabs}"]
    for section in sections:
        for part in section.parts:
            title = section.title + (f": {part.name}" if part.name else "")
            kinds = "".join("r" if section.is_number(column) else "l" for column in range(len(section.headers)))
            lines += [r"\begin{table}", r"\centering", rf"\caption{{{in_latex(title)}}}"]
            lines += [rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", _latex_row(section.headers), r"\midrule"]
            lines += [_latex_row(map(_cell, row)) for row in part.rows]
            lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}", ""]
        lines += [f"% {printable(' '.join(note.split()))}" for note in section.notes]
    return "\n".join(lines) + "\n"


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(map(in_latex, cells)) + r" \\"


def scores_csv(tables: Iterable[ScoreTable]) -> str:
    """One row a number, at full precision; a number with several published figures has a row for each."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in tables:
        for score in table.scores():
            for comparison in score.comparisons or (None,):
                writer.writerow(map(in_csv, [*_measured(score), *_published(comparison)]))
    return text.getvalue()


def _measured(score: Score) -> list[object]:
    recipe, figure = score.recipe, score.figure
    return [
        *(score.setting, recipe.backbone, recipe.trainer, recipe.config, "; ".join(recipe.changes)),
        *(score.dataset, score.metric, score.shots, figure.mean, figure.deviation),
        *(len(figure.seeds), " ".join(map(str, figure.seeds)), score.expected),
        *(int(figure.partial), int(figure.mixed), score.remark),
    ]


def _published(comparison: Comparison | None) -> list[object]:
    if comparison is None:
        return [None] * 7
    published, within = comparison.published, comparison.within
    return [
        *(published.value, comparison.difference, published.band, None if within is None else int(within)),
        *(published.method, published.provenance, published.status),
    ]
