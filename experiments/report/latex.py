r"""Sections as LaTeX: each is one float, or a few where one page cannot take it, that compiles as it is pasted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import pandas as pd

from dassl.utils import in_latex, printable

from .sections import BLOCK, LEGEND, Section, in_words

HEAD = (
    "% In the preamble: \\usepackage{booktabs} and \\usepackage{graphicx}.",
    "% Bold: best complete value of a column, underlined: second.",
    f"% {LEGEND}",
)
STYLES = {"best": "textbf:--rwrap;", "second": "underline:--rwrap;"}
SMALL = "scriptsize:--wrap;"
LINES, PANEL_LINES = 45, 80
"""Lines of a table on one page; of tables beside each other, which are smaller."""
PANELS, PANELS_WITH_DIFFERENCES = 3, 2
"""Tables beside each other."""
SHRUNK = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"
"""A table keeps its size unless it is too wide."""


def latex(sections: Iterable[Section]) -> str:
    r"""Floats to be pasted or \input into a document."""
    lines = [printable(line) for line in HEAD]
    for section in sections:
        lines += ["", *_floats(section)]
        lines += [f"% {printable(' '.join(note.split()))}" for note in section.notes]
    return "\n".join(lines) + "\n"


def _floats(section: Section) -> list[str]:
    """The floats of a section: panels beside each other for its blocks, else a table in as many pieces as needed."""
    blocks = section.blocks()
    shared = {name: text for name, text in section.shared.items() if name != BLOCK or not section.by_block}
    if len(blocks) > 1:
        per_row = max(len(_rows(section, rows).index) for _, rows in blocks) + 5
        panels = _columns(section) * max(1, PANEL_LINES // per_row)
        pieces = [blocks[start : start + panels] for start in range(0, len(blocks), panels)]
        bodies = [_panels(section, piece) for piece in pieces]
    else:
        ((_, rows),) = blocks
        per_page = LINES // 2 if section.differences is not None else LINES
        starts = range(0, len(rows), per_page)
        bodies = [[SHRUNK, _tabular(section, rows[start : start + per_page]) + "}"] for start in starts]
    kind = "table*" if len(blocks) > 1 else "table"
    lines: list[str] = []
    for number, body in enumerate(bodies, 1):
        of = f" ({number} of {len(bodies)})" if len(bodies) > 1 else ""
        title = section.title if blocks[0][0] == "" or len(blocks) > 1 else f"{section.title}: {blocks[0][0]}"
        title += f" ({in_words(shared)})" if shared else ""
        label = f"tab:{section.slug}" + (f"-{number}" if number > 1 else "")
        lines += [f"\\begin{{{kind}}}[tbp]", r"\centering", f"\\caption{{{in_latex(title + of)}}}"]
        lines += [f"\\label{{{label}}}", *body, f"\\end{{{kind}}}"]
    return lines


def _columns(section: Section) -> int:
    return PANELS if section.differences is None else PANELS_WITH_DIFFERENCES


def _panels(section: Section, blocks: Sequence[tuple[str, pd.Index]]) -> list[str]:
    lines = []
    columns = _columns(section)
    width = math.floor(100 / columns) / 100 - 0.01
    for place, (name, rows) in enumerate(blocks, 1):
        last = place % columns == 0 or place == len(blocks)
        lines += [
            f"\\begin{{minipage}}[t]{{{width:.2f}\\linewidth}}",
            r"\centering",
            rf"{{\small {in_latex(name)}}}\\[2pt]",
            SHRUNK,
            _tabular(section, rows) + "}",
            r"\end{minipage}" + (r"\par\medskip" if last else r"\hfill"),
        ]
    return lines


def _rows(section: Section, rows: pd.Index) -> pd.DataFrame:
    """Texts of some rows; with a baseline, each is followed by the row of its differences.

    What all rows of the section share is in the caption, and the name of a block above its table. What an average
    covers is left to its mark and the notes: it would make the column too wide.
    """
    elsewhere = {*section.shared, *([BLOCK] if section.by_block else [])}
    texts = pd.DataFrame(section.texts.loc[rows, [name for name in section.texts if name not in elsewhere]])
    if section.differences is None:
        return texts
    below = pd.DataFrame(section.differences.loc[rows, texts.columns])
    below = pd.DataFrame(below[below.ne("").any(axis=1)])
    return pd.concat({0: texts, 1: below}).swaplevel().sort_index(kind="stable")


def _tabular(section: Section, rows: pd.Index) -> str:
    texts = _rows(section, rows)
    tones = section.tones.loc[rows, texts.columns]
    styles = tones.map(lambda tone: next((STYLES[word] for word in tone.split() if word in STYLES), ""))
    if section.differences is not None:
        small = pd.DataFrame(SMALL, rows, texts.columns)
        styles = pd.concat({0: styles, 1: small}).swaplevel().loc[texts.index]
    shown = texts.reset_index(drop=True)
    styles = pd.DataFrame(styles.to_numpy(), shown.index, shown.columns)
    styler = shown.style.hide(axis="index")
    styler.format(in_latex).format_index(in_latex, axis=1)
    columns = "".join("r" if section.is_number(str(name)) else "l" for name in texts)
    found = styler.apply(lambda _: styles, axis=None).to_latex(column_format=columns, hrules=True)
    return str(found).rstrip("\n")
