"""The report as one HTML page that needs nothing else: style, script and drawings are inside."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape
from pandas.io.formats.style import Styler

from .charts import ChartGroup
from .figures import Chart, Palette
from .recipes import Recipe
from .sections import LEGEND, Section

ASSETS = Path(__file__).parent / "assets"
LONG, BROAD, NARROW = 24, 10, 7  # rows; columns
PageStyler = Styler.from_custom_template(str(ASSETS), html_table="table.html.jinja")


def html_table(section: Section, name: str, rows: pd.Index) -> Markup:
    """The table of a block. Each text is escaped, and stands above its config, remark and published figure."""
    texts = pd.DataFrame(section.texts.loc[rows].iloc[:, int(section.by_block) :])
    shown = texts.map(lambda text: f"<span>{escape(text)}</span>")
    if section.configs:
        configs = pd.Series([str(escape(config)) for config in section.configs], section.texts.index).loc[rows]
        shown["method"] += '<small class="config">' + configs.str.replace("_", "_<wbr>") + "</small>"
    for lines, kind in (
        (section.remarks, "remark"),
        (section.differences, "difference"),
        (section.published, "published"),
    ):
        if lines is not None:
            shown += lines.loc[rows, texts.columns].map(lambda text, kind=kind: _small(text, kind))
    numbers = [column for column in texts if section.is_number(column)]
    classes = section.tones.loc[rows, texts.columns]
    classes = classes.add([" number" if column in numbers else "" for column in texts], axis="columns")
    columns = len(texts.columns) + section.by_block
    kinds = {"broad": columns > BROAD, "narrow": columns < NARROW, "long": not section.by_block and len(rows) > LONG}
    html = (
        PageStyler(shown)
        .hide(axis="index")
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
    unbroken = escape(text.replace(", ", ",\u00a0"))  # an interval stays on one line
    return f'<small class="{kind}">{unbroken}</small>' if text else ""


def _sort_value(value: object) -> str:
    """The attribute that the page's script sorts by; what is missing has none and stays last."""
    if isinstance(value, float) and math.isnan(value):
        return ""
    return f' data-sort="{escape(str(value).lower())}"'


def _in_legend(charts: Sequence[Chart], palette: Palette) -> list[Recipe]:
    """The recipes of the charts' legend: one for each name."""
    recipes = sorted({recipe for chart in charts for recipe in chart.recipes}, key=palette.order)
    return list({palette.names[recipe]: recipe for recipe in recipes}.values())


def html_page(
    title: str,
    facts: Sequence[str],
    scores: Sequence[tuple[Section, Sequence[Chart]]],
    after: Sequence[Section],
    training: Sequence[ChartGroup],
    calibration: Sequence[ChartGroup],
    palette: Palette,
) -> str:
    """The page. Names from files are escaped here and by the template, and by matplotlib in drawings.

    Args:
        title: of the page.
        facts: lines about the whole report.
        scores: the tables of the papers with their charts.
        after: sections after the curves.
        training: curves by setting.
        calibration: diagrams by setting.
        palette: colours and names of the methods.
    """
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
        scores=scores,
        curves=training,
        calibration=calibration,
        after=after,
        html_table=html_table,
        palette=palette,
        keys={recipe: palette.key(recipe) for recipe in palette.names},
        in_legend=lambda charts: _in_legend(charts, palette),
        style=Markup((ASSETS / "page.css").read_text(encoding="utf-8")),
        script=Markup((ASSETS / "page.js").read_text(encoding="utf-8")),
    )
