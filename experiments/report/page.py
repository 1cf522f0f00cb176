"""The report as one HTML page that needs nothing else: style, script and drawings are inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from pandas.io.formats.style import Styler

from .figures import Palette, base_and_new, shots_curve, training_curves
from .frame import TITLES, recipe_order
from .papers import in_order, short_name
from .recipes import Recipe
from .sections import LEGEND, Section
from .tables import ScoreTable, in_shots

ASSETS = Path(__file__).parent / "assets"
LONG, BROAD, NARROW = 24, 10, 7  # rows; columns
PageStyler = Styler.from_custom_template(str(ASSETS), html_table="table.html.jinja")


@dataclass(frozen=True)
class Drawing:
    """An SVG with its caption. Only what `figures` made is marked as safe."""

    caption: str
    svg: Markup


@dataclass
class Chapter:
    """Tables with the drawings that go with them."""

    section: Section
    drawings: list[Drawing] = field(default_factory=list)
    recipes: list[Recipe] = field(default_factory=list)
    """Those in the legend of the drawings."""
    bars: bool = False
    """The drawing is a bar chart of base and new."""

    @cached_property
    def tables(self) -> list[tuple[str, int, Markup]]:
        """Name, number of rows and HTML of each block's table."""
        return [(name, len(rows), html_table(self.section, name, rows)) for name, rows in self.section.blocks()]

    @property
    def compared(self) -> bool:
        """Whether published figures stand below the measured ones."""
        return self.section.published is not None and bool(self.section.published.ne("").to_numpy().any())


def html_table(section: Section, name: str, rows: pd.Index) -> Markup:
    """The table of a block. Each text is escaped, and stands above its config, remark and published figure."""
    texts = section.texts.loc[rows].iloc[:, int(section.by_block) :]
    shown = texts.map(lambda text: f"<span>{escape(text)}</span>")
    if "trainer" in texts:
        below = texts["config"].map(lambda text: str(escape(text)).replace("_", "_<wbr>"))
        shown["trainer"] += '<small class="config">' + below + "</small>"
    for lines, kind in ((section.remarks, "remark"), (section.published, "published")):
        if lines is not None:
            small = lines.loc[rows, texts.columns].map(lambda text, kind=kind: _small(text, kind))
            shown += small
    numbers = [column for column in texts if section.is_number(column)]
    classes = section.tones.loc[rows, texts.columns]
    classes = classes.add([" number" if column in numbers else "" for column in texts], axis="columns")
    columns = len(texts.columns) + section.by_block
    kinds = {"broad": columns > BROAD, "narrow": columns < NARROW, "long": not section.by_block and len(rows) > LONG}
    html = (
        PageStyler(shown)
        .hide(axis="index")
        .hide(["config"], axis="columns")
        .set_td_classes(classes)
        .to_html(
            exclude_styles=True,
            caption=str(escape(section.title + (f": {name}" if name else ""))),
            sort=section.values.loc[rows, texts.columns].map(_sort_value).to_numpy().tolist(),
            numbers=numbers,
            table_class=" ".join(["sortable", *(kind for kind, is_so in kinds.items() if is_so)]),
        )
    )
    return Markup(html)


def _small(text: str, kind: str) -> str:
    return f'<small class="{kind}">{escape(text)}</small>' if text else ""


def _sort_value(value: object) -> str:
    """The attribute that the page's script sorts by; what is missing has none and stays last."""
    if isinstance(value, float) and math.isnan(value):
        return ""
    return f' data-sort="{escape(str(value).lower())}"'


def score_chapter(table: ScoreTable, section: Section, palette: Palette) -> Chapter:
    """The table of a setting with the paper's Figure 1 (base to new) or its shot curves."""
    if table.setting == "base2new":
        return Chapter(section, [Drawing("", Markup(base_and_new(table)))], bars=True)
    if table.setting == "few_shot":
        drawings = [Drawing(block.name, Markup(shots_curve(table, block, palette))) for block in table.blocks]
        return Chapter(section, drawings, table.recipes())
    return Chapter(section)


@dataclass(frozen=True)
class Curves:
    """Training curves of one setting."""

    title: str
    drawings: list[Drawing]
    recipes: list[Recipe]


def curve_chapters(frame: pd.DataFrame, palette: Palette) -> list[Curves]:
    """A drawing for each data set, backbone and number of shots, by setting; few-shot: the most shots alone."""
    frame = frame[frame["run"].map(lambda run: run.trained)]
    few_shot = frame["setting"] == "few_shot"
    frame = frame[~few_shot | (frame["shots"] == frame["shots"][few_shot].max())]
    chapters = []
    for setting, runs in sorted(frame.groupby("setting"), key=lambda group: list(TITLES).index(group[0])):
        drawings = []
        for dataset in in_order(runs["dataset"]):
            for (backbone, shots), found in runs[runs["dataset"] == dataset].groupby(["backbone", "shots"]):
                caption = f"{short_name(dataset)}, {backbone}, {in_shots(shots)}"
                svg = training_curves(found, palette, f"Training on {caption}")
                drawings.append(Drawing(caption, Markup(svg)))
        chapters.append(Curves(TITLES[setting], drawings, sorted(runs["recipe"].unique(), key=recipe_order)))
    return chapters


def html_page(
    title: str,
    facts: Sequence[str],
    tables: Sequence[ScoreTable],
    score_sections: Sequence[Section],
    after: Sequence[Section],
    frame: pd.DataFrame,
) -> str:
    """The page. Names from files are escaped here and by the template, and by matplotlib in drawings.

    Args:
        score_sections: the sections of `tables`.
        after: sections behind the training curves.
        frame: the runs, as `run_frame` returns them.
    """
    palette = Palette(sorted(frame["recipe"].unique(), key=recipe_order))
    environment = Environment(
        loader=FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        title=title,
        facts=facts,
        legend=f"{LEGEND} Bold: the best complete value of a column, underlined: the second.",
        long=LONG,
        chapters=[
            score_chapter(table, section, palette) for table, section in zip(tables, score_sections, strict=True)
        ],
        curves=curve_chapters(frame, palette),
        after=[Chapter(section) for section in after],
        keys={recipe: Markup(palette.key(recipe)) for recipe in palette.place},
        style=Markup((ASSETS / "page.css").read_text(encoding="utf-8")),
        script=Markup((ASSETS / "page.js").read_text(encoding="utf-8")),
    )
