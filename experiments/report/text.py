"""Sections as terminal text, Markdown and LaTeX; scores as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from dassl.utils import in_csv, in_latex, in_markdown, printable

from .sections import LEGEND, PUBLISHED, Section

CSV_COLUMNS = [
    *("setting", "backbone", "trainer", "config", "changes", "dataset", "metric", "shots"),
    *("mean", "deviation", "n_seeds", "seeds", "expected_seeds", "partial", "mixed", "remark"),
    *PUBLISHED,
]
LATEX_STYLES = {"best": "textbf:--rwrap;", "second": "underline:--rwrap;"}


def _with_remarks(section: Section) -> pd.DataFrame:
    """The texts, without the published figures, which have a table of their own."""
    if section.remarks is None:
        return section.texts
    return section.texts + section.remarks.map(lambda remark: f" ({remark})" if remark else "")


def terminal(section: Section, width: int) -> str:
    """A table that fits into `width` characters: what does not, follows below with the text columns repeated."""
    texts = _with_remarks(section)
    lines = [section.title, "=" * len(section.title)]
    for columns in _fitting(texts, [section.is_number(name) for name in texts].index(True), width):
        lines += [_table(texts[columns], "simple"), ""]
    return "\n".join(lines + [f"* {note}" for note in section.notes] + [""] * bool(section.notes))


def _fitting(texts: pd.DataFrame, kept: int, width: int) -> Iterator[list[str]]:
    """Columns of each piece of a table: the first `kept` ones, and as many others as fit."""
    widths = {name: max(len(name), texts[name].map(len).max()) + 2 for name in texts}
    names = list(texts)
    piece = names[:kept]
    for name in names[kept:]:
        if len(piece) > kept and sum(widths[each] for each in piece) + widths[name] > width:
            yield piece
            piece = names[:kept]
        piece.append(name)
    yield piece


def _table(texts: pd.DataFrame, style: str) -> str:
    return texts.to_markdown(index=False, tablefmt=style, disable_numparse=True)


def markdown(sections: Iterable[Section], title: str, facts: Iterable[str]) -> str:
    lines = [f"# {title}", "", *(f"* {in_markdown(fact)}" for fact in facts), "", LEGEND, ""]
    for section in sections:
        texts = _with_remarks(section).map(in_markdown).rename(columns=in_markdown)
        lines += [f"## {in_markdown(section.title)}", "", _table(texts, "github"), ""]
        # a blank line behind the notes, or else the legend would belong to the last one
        lines += [
            *(f"* {in_markdown(note)}" for note in section.notes),
            *[""] * bool(section.notes),
            section.legend,
            "",
        ]
    return "\n".join(lines)


def latex(sections: Iterable[Section]) -> str:
    r"""One `table` for each block, to be \input into a document that uses the package booktabs."""
    lines = ["% needs \\usepackage{booktabs}; bold: best complete value of a column, underlined: second"]
    for section in sections:
        for number, (block, rows) in enumerate(section.blocks(), 1):
            title = section.title + (f": {block}" if block else "")
            lines.append(_latex_table(section, rows, title, f"tab:{section.slug}-{number}"))
        lines += [f"% {printable(' '.join(note.split()))}" for note in section.notes]
    return "\n".join(lines) + "\n"


def _latex_table(section: Section, rows: pd.Index, title: str, label: str) -> str:
    texts = _with_remarks(section).loc[rows].iloc[:, int(section.by_block) :]
    tones = section.tones.loc[rows, texts.columns]
    styles = tones.map(lambda tone: next((LATEX_STYLES[word] for word in tone.split() if word in LATEX_STYLES), ""))
    styler = texts.style.hide(axis="index").format(in_latex).format_index(in_latex, axis=1)
    return styler.apply(lambda _: styles, axis=None).to_latex(
        column_format="".join("r" if section.is_number(name) else "l" for name in texts),
        position_float="centering",
        hrules=True,
        caption=in_latex(title),
        label=label,
    )


def scores_csv(scores: pd.DataFrame) -> str:
    """One row for each number, at full precision; a number with several published figures has a row for each.

    Args:
        scores: as `sections.with_published` returns them.
    """
    recipes: Sequence = list(scores["recipe"])
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
    )
    return frame[CSV_COLUMNS].map(in_csv).to_csv(index=False, lineterminator="\n")
