"""Sections as terminal text and Markdown; scores and paired differences as CSV."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from dassl.utils import in_csv, in_markdown

from .comparisons import Baseline
from .recipes import Recipe
from .sections import LEGEND, PUBLISHED, ScoreFrame, Section, in_words

BASELINE = ["baseline", "baseline_difference", "baseline_low", "baseline_high", "baseline_verdict"]
CSV_COLUMNS = [
    *("setting", "backbone", "method", "trainer", "config", "changes", "dataset", "metric", "shots"),
    *("mean", "deviation", "n_seeds", "seeds", "expected_seeds", "partial", "mixed", "remark"),
    *PUBLISHED,
    *BASELINE,
]


def _condensed(section: Section) -> tuple[pd.DataFrame, list[str]]:
    """The texts without the columns that are the same in all rows, and a line that says those; none if none are.

    Remarks and differences to the baseline stand after the texts. Published figures have their own table.
    """
    texts = section.texts
    for behind in (section.remarks, section.differences):
        if behind is not None:
            texts = texts + behind.map(lambda text: f" ({text})" if text else "")
    said = [f"All rows: {in_words(section.shared)}."] if section.shared else []
    return texts.drop(columns=[*section.shared]), said


def terminal(section: Section, width: int) -> str:
    """A table that fits into `width` characters: what does not, follows below with the text columns repeated."""
    texts, of_all_rows = _condensed(section)
    lines = [section.title, "=" * len(section.title), *of_all_rows]
    for columns in _fitting(texts, [section.is_number(name) for name in texts].index(True), width):
        lines += [_table(pd.DataFrame(texts[columns]), "simple"), ""]
    notes = [*([section.legend] if section.differences is not None else []), *(f"* {note}" for note in section.notes)]
    return "\n".join([*lines, *notes, *([""] if notes else [])])


def _fitting(texts: pd.DataFrame, kept: int, width: int) -> Iterator[list[str]]:
    """Columns of each piece of a table: the first `kept` ones, and as many others as fit."""
    names = [str(name) for name in texts]
    widths = {name: max(len(name), *(len(text) for text in texts[name])) + 2 for name in names}
    piece = names[:kept]
    for name in names[kept:]:
        if len(piece) > kept and sum(widths[each] for each in piece) + widths[name] > width:
            yield piece
            piece = names[:kept]
        piece.append(name)
    yield piece


def _table(texts: pd.DataFrame, style: str) -> str:
    return str(texts.to_markdown(index=False, tablefmt=style, disable_numparse=True))


def markdown(sections: Iterable[Section], title: str, facts: Iterable[str]) -> str:
    lines = [f"# {title}", "", *(f"* {in_markdown(fact)}" for fact in facts), "", LEGEND, ""]
    for section in sections:
        texts, of_all_rows = _condensed(section)
        texts = texts.map(in_markdown).rename(columns=in_markdown)
        lines += [f"## {in_markdown(section.title)}", ""]
        lines += [part for line in of_all_rows for part in (in_markdown(line), "")]
        lines += [_table(texts, "github"), ""]
        # a blank line after the notes, or else the legend would belong to the last one
        lines += [
            *(f"* {in_markdown(note)}" for note in section.notes),
            *[""] * bool(section.notes),
            section.legend,
            "",
        ]
    return "\n".join(lines)


def scores_csv(scores: ScoreFrame, baselines: Sequence[Baseline] = ()) -> str:
    """One row for each number, at full precision; a number with several published figures has a row for each.

    Args:
        baselines: differences to one of the methods, of each table that has it.
    """
    recipes: Sequence[Recipe] = list(scores["recipe"])
    differences = {
        (each.table, *cell): (each.name, found.difference, found.low, found.high, found.verdict)
        for each in baselines
        for cell, found in each.differences.items()
    }
    cells = zip(scores["table"], recipes, scores["block"], scores["column"], strict=True)
    beside = [differences.get(cell, [math.nan] * len(BASELINE)) for cell in cells]
    frame = scores.assign(
        backbone=[recipe.backbone for recipe in recipes],
        config=[recipe.config for recipe in recipes],
        changes=["; ".join(recipe.changes) for recipe in recipes],
        n_seeds=scores["seeds"].map(len),
        seeds=[" ".join(map(str, seeds)) for seeds in scores["seeds"]],
        expected_seeds=scores["expected"],
        partial=scores["partial"].astype(int),
        mixed=scores["mixed"].astype(int),
        within_band=["" if pd.isna(within) else int(within) for within in scores["within_band"]],
    ).join(pd.DataFrame(beside, scores.index, BASELINE))
    return as_csv(pd.DataFrame(frame[CSV_COLUMNS]))


def as_csv(frame: pd.DataFrame) -> str:
    """A frame at full precision, with texts that no spreadsheet takes for a formula."""
    return frame.map(in_csv).to_csv(index=False, lineterminator="\n")
