"""Charts of the page and of papers, drawn by matplotlib.

On the page, colours are placeholders that become CSS variables, so that its light and dark themes colour the same
drawing; in files they are the light theme's. A method has one colour, marker and dash in the whole report: it can be
told by its shape where colour is not seen.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.figures.drawing import COMMON_STYLE, write

from .calibration import Curves
from .frame import RunFrame, grouped
from .papers import AVERAGE
from .recipes import Recipe
from .runs import FinishedRun
from .tables import Block, ScoreTable

COLOURS, MARKERS, DASHES = 10, "osD^vPX<>h", ("-", (0, (4, 2)), (0, (1, 1.5)))
FONT_SIZE, SMALLEST_ON_SCREEN = 9, 10.2
"""Points in a drawing; pixels of its text on the narrowest screen."""
WIDE, PHONE = 8.6, 4.2
"""Inches. A phone 390 px wide shows the narrow form with its text in full size."""


@dataclass(frozen=True)
class Theme:
    """Colours of a drawing."""

    ink: str
    faint: str
    surface: str
    base: str
    new: str
    series: Sequence[str]
    on_page: bool
    """The page has its own legend and title; a file needs them in the drawing."""
    narrow: bool = False
    """For a phone."""

    def style(self) -> dict[Any, Any]:
        """Settings for matplotlib's `rc_context`."""
        return COMMON_STYLE | {
            "svg.fonttype": "none",  # text stays text: smaller, and the page's font
            "font.size": FONT_SIZE,
            "legend.fontsize": FONT_SIZE,
            "axes.titlesize": FONT_SIZE,
            "axes.grid": True,
            "grid.linewidth": 0.6,
            "grid.color": self.faint,
            "axes.edgecolor": self.faint,
            **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), self.ink),
            **{f"{axis}tick.major.size": 0 for axis in "xy"},
        }


PAGE = Theme(
    *("#fdfd00", "#fdfd01", "#fdfd02", "#fdfd03", "#fdfd04"), [f"#fdfe{i:02x}" for i in range(COLOURS)], on_page=True
)
VARIABLES = {PAGE.ink: "--ink", PAGE.faint: "--line", PAGE.surface: "--surface", PAGE.base: "--base", PAGE.new: "--new"}
VARIABLES |= {colour: f"--series-{index}" for index, colour in enumerate(PAGE.series)}
PRINT = Theme(
    *("#1b2330", "#d8dde5", "#ffffff", "#0b5cad", "#e08a1e"),
    ("#5b6676", "#1b2330", "#0072b2", "#d55e00", "#007a5a", "#a8367e", "#997000", "#c02942", "#2a9fd6", "#5a3fc0"),
    on_page=False,
)
"""The colours of assets/page.css in its light theme."""

BAR, GAP = 0.36, 0.02
# A method whose loss is scaled or summed in its own way reports `loss_base`, which compares with the others' loss.
LOSSES = ("loss_base", "loss")
ACCURACIES = ("acc", "accuracy", "acc_x")
VALIDATION = ("val_accuracy",)


@dataclass(frozen=True)
class Palette:
    """Colour, marker and dash of each method: the same in all settings and for all backbones."""

    names: Mapping[Recipe, str]
    """How each recipe is called, in the order of the tables."""
    theme: Theme = PAGE

    @property
    def width(self) -> float:
        """Inches of a drawing that takes the whole width."""
        return PHONE if self.theme.narrow else WIDE

    def order(self, recipe: Recipe) -> int:
        """The place of a recipe's method among all."""
        return list(dict.fromkeys(self.names.values())).index(self.names[recipe])

    def line(self, recipe: Recipe) -> dict[str, Any]:
        """Keywords of matplotlib's plot()."""
        place = self.order(recipe)
        return {
            "color": self.theme.series[place % COLOURS],
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": DASHES[place // COLOURS % len(DASHES)],
            "linewidth": 1.6,
            "markersize": 5.5,
            "markeredgewidth": 0,
        }

    def key(self, recipe: Recipe) -> Markup:
        """The line and marker of a recipe alone, for a legend in the page."""
        with matplotlib.rc_context(self.theme.style()):
            figure = Figure(figsize=(0.42, 0.16))
            axes = figure.add_axes((0, 0, 1, 1))
            axes.axis("off")
            axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], clip_on=False, **self.line(recipe))
            return _svg(figure, self.names[recipe])

    def legend(self, figure: Figure, recipes: Iterable[Recipe]) -> None:
        """Put a legend below a drawing that has no page around it."""
        if self.theme.on_page:
            return
        unique = {self.names[recipe]: recipe for recipe in sorted(recipes, key=self.order)}
        handles = [Line2D([], [], **self.line(recipe)) for recipe in unique.values()]
        columns = max(1, int(figure.get_figwidth() / 1.7))
        figure.legend(handles, list(unique), loc="upper center", bbox_to_anchor=(0.5, 0), ncols=columns)


@dataclass(frozen=True)
class Chart:
    """A figure of the report, for the page and as files."""

    name: str
    """Stem of its files."""
    caption: str
    description: str
    draw: Callable[[Palette], Figure]
    recipes: Sequence[Recipe] = field(default_factory=list)
    """Those in the legend."""

    def svg(self, palette: Palette) -> Markup:
        """The drawing as elements of the page: one for its width, and one for a phone where the first is too wide."""
        with matplotlib.rc_context(palette.theme.style()):
            wide = self.draw(palette)
            drawing = _svg(wide, self.description)
            if wide.get_figwidth() < WIDE:
                return drawing
            narrow = replace(palette, theme=replace(palette.theme, narrow=True))
            for_phone = _svg(self.draw(narrow), f"{self.description}, for a phone")
            return Markup('<div class="on-wide">{}</div><div class="on-phone">{}</div>').format(drawing, for_phone)

    def save(self, folder: Path, palette: Palette) -> None:
        """Write `<folder>/<name>.pdf` and `.png`, atomically.

        Raises:
            UnwritableFileError: a file cannot be written.
        """
        with matplotlib.rc_context(PRINT.style()):
            write(self.draw(replace(palette, theme=PRINT)), folder / self.name, dpi=200, bbox_inches="tight")


def _svg(figure: Figure, description: str) -> Markup:
    """The drawing as an element of a page: no prolog, no ids that another drawing has too, colours as variables."""
    text = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": description}):  # ids: stable, and each drawing's own
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[A-Za-z.]+_\d+"', "", svg)
    svg = re.sub(r"#fdf[de][0-9a-f]{2}", lambda match: f"var({VARIABLES[match[0]]})", svg)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"(\d\.\d\d)\d+", r"\1", svg)  # a hundredth of a point is finer than any screen
    label = description.translate({ord(mark): f"&#{ord(mark)};" for mark in "&<>\"'"})
    # narrower, its text would be too small to read; the page scrolls it then
    width = math.ceil(72 * figure.get_figwidth() * SMALLEST_ON_SCREEN / FONT_SIZE)
    return Markup(svg.replace("<svg", f'<svg role="img" aria-label="{label}" style="min-width: {width}px"', 1))


def bars(table: ScoreTable, palette: Palette) -> Figure:
    """Bars of base and new accuracy of every method, best H on top, with H and the published figures marked."""
    block = table.blocks[0]  # the average, or the one data set there is
    theme = palette.theme
    rows = [(recipe, scores) for recipe, scores in block.rows.items() if any(score.mean > 0 for score in scores[:2])]
    rows.sort(key=lambda row: 0.0 if math.isnan(row[1][2].mean) else row[1][2].mean)
    # bars start at 0 unless all would look alike; a little below the lowest value then
    lowest = min((score.mean for _, scores in rows for score in scores if score.mean == score.mean), default=0.0)
    lower = max(0.0, 10 * (lowest // 10) - 10) if lowest > 30 else 0.0
    figure = Figure(figsize=(palette.width, 0.7 + 0.45 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, (_, (base, new, h)) in enumerate(rows):
        _bar(axes, place + BAR / 2 + GAP, base, theme.base, theme)
        _bar(axes, place - BAR / 2 - GAP, new, theme.new, theme)
        style = {"color": theme.surface, "markeredgecolor": theme.ink, "markersize": 6, "markeredgewidth": 1.2}
        axes.plot(h.mean, place, "D", zorder=5, **style)  # draws nothing where it is NaN
    longest = 24 if theme.narrow else 44
    axes.set_yticks(range(len(rows)), [_row_name(palette.names[recipe], scores, longest) for recipe, scores in rows])
    axes.grid(visible=False, axis="y")
    axes.set_xlim(lower, None)
    where = "average over the data sets" if block.name == AVERAGE else block.name
    start = f" (bars start at {lower:g})" if lower else ""
    between = "\n" if theme.narrow else " "
    axes.set_xlabel(f"accuracy in percent,{between}{where}{start}")
    axes.margins(y=0.02)
    if not theme.on_page:
        kinds = [Line2D([], [], color=colour, linewidth=6) for colour in (theme.base, theme.new)]
        kinds.append(Line2D([], [], marker="D", linestyle="", color=theme.surface, markeredgecolor=theme.ink))
        figure.legend(kinds, ["base", "new", "H"], loc="outside upper right", ncols=3)
    return figure


def _row_name(name: str, scores: Sequence[Any], length: int) -> str:
    short = name if len(name) <= length else f"{name[: length - 1]}…"
    return short + (" †" if any(score.partial for score in scores) else "")


def _bar(axes: Axes, y: float, score: Any, colour: str, theme: Theme) -> None:
    """A bar with its value, its deviation, and a tick at the published figure; nothing where it is missing."""
    if math.isnan(score.mean):
        return
    deviation = 0.0 if math.isnan(score.deviation) else score.deviation
    axes.barh(y, score.mean, BAR, color=colour, xerr=deviation or None, error_kw={"ecolor": theme.ink})
    published = [comparison.published.value for comparison in score.comparisons[:1]]
    end = max([score.mean + deviation, *published])
    axes.annotate(f"{score.mean:.1f}", (end, y), xytext=(5, 0), textcoords="offset points", va="center")
    for value in published:
        axes.plot([value] * 2, (y - BAR / 2, y + BAR / 2), color=theme.ink, linewidth=2.2, solid_capstyle="butt")


def transfer_figure(table: ScoreTable, palette: Palette) -> Figure:
    """Accuracy of each method on the source, on each target and on average, with one standard deviation."""
    (block,) = table.blocks
    rows = sorted(block.rows.items(), key=lambda row: palette.order(row[0]))
    step = 0.76 / max(1, len(rows))
    height = 0.7 + len(table.columns) * max(0.32, 0.075 * len(rows))
    figure = Figure(figsize=(palette.width, height), layout="constrained")
    axes = figure.subplots()
    for place, (recipe, scores) in enumerate(rows):
        style: dict[str, Any] = palette.line(recipe) | {"linestyle": "none"}
        heights = [-index + 0.38 - step * (place + 0.5) for index in range(len(scores))]
        means = [score.mean for score in scores]
        deviations = [0.0 if math.isnan(score.deviation) else score.deviation for score in scores]
        axes.errorbar(means, heights, xerr=deviations, elinewidth=1, **style)
    axes.set_yticks([-index for index in range(len(table.columns))], table.columns)
    axes.set_yticks([-index - 0.5 for index in range(len(table.columns) - 1)], minor=True)
    axes.grid(visible=False, axis="y", which="major")
    axes.grid(visible=True, axis="y", which="minor")
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("accuracy in percent")
    palette.legend(figure, [recipe for recipe, _ in rows])
    return figure


def shots_curves(block: Block, palette: Palette) -> Figure:
    """Accuracy by number of shots; a band of one standard deviation; zero-shot recipes as level lines."""
    figure = Figure(figsize=(4.3, 3.0))
    axes = figure.add_axes((0.12, 0.15, 0.86, 0.82))
    shots = sorted({score.shots for scores in block.rows.values() for score in scores})
    axes.set_xscale("log", base=2)
    for recipe, scores in block.rows.items():
        points = pd.DataFrame(scores).set_index("shots")[["mean", "deviation"]]
        points = points.loc[[not math.isnan(score.mean) for score in scores]]
        if recipe.zero_shot and len(points):
            style = palette.line(recipe) | {"marker": None, "linestyle": (0, (6, 3))}
            axes.axhline(float(points["mean"].iloc[0]), **style)
        else:
            _with_band(axes, points, palette.line(recipe))
    axes.set_xticks(shots, [str(each) for each in shots])
    axes.minorticks_off()
    axes.set_xlabel("shots per class")
    axes.set_ylabel("accuracy in percent")
    palette.legend(figure, block.rows)
    return figure


def _panels(palette: Palette, count: int, height: float) -> tuple[Figure, list[Any]]:
    """A figure and its axes (whose stubs lack keywords) beside each other; for a phone, one below the other.

    Args:
        height: inches of each.
    """
    if palette.theme.narrow:
        figure = Figure(figsize=(palette.width, count * height), layout="constrained")
        return figure, list(figure.subplots(count, 1))
    figure = Figure(figsize=(palette.width, height))
    place = {"left": 0.07, "right": 0.99, "bottom": 0.45 / height, "top": 0.97, "wspace": 0.18}
    return figure, list(figure.subplots(1, count, gridspec_kw=place))


def _with_band(axes: Axes, points: pd.DataFrame, style: Mapping[str, Any]) -> None:
    """A line through the means by index, and a band of one deviation (of none where it is NaN)."""
    if len(points):
        mean, deviation = points["mean"], points["deviation"].fillna(0.0)
        axes.plot(points.index, mean, **style)
        band = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
        axes.fill_between(points.index, mean - deviation, mean + deviation, **band)


def training(frame: RunFrame, palette: Palette) -> Figure:
    """Loss, training accuracy and, where a run had validation, its accuracy by epoch, with one deviation over seeds.

    Args:
        palette: of the report.
    """
    panels = [("loss", LOSSES), ("training accuracy", ACCURACIES)]
    if any(_meter(run, VALIDATION) for run in frame["run"]):
        panels.append(("validation accuracy", VALIDATION))
    figure, panes = _panels(palette, len(panels), 2.6)
    by_recipe = {recipe: list(own["run"]) for recipe, own in grouped(frame, "recipe")}
    for axes, (label, meters) in zip(panes, panels, strict=True):
        for recipe in sorted(by_recipe, key=palette.order):
            points = _by_epoch(by_recipe[recipe], meters)
            _with_band(axes, points, palette.line(recipe) | {"markevery": max(1, len(points) // 8)})
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        if not any(_meter(run, meters) for run in frame["run"]):
            axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center")
    palette.legend(figure, by_recipe)
    return figure


def _meter(run: FinishedRun, names: Sequence[str]) -> str | None:
    """The first of the meters that the run has recorded."""
    return next((name for name in names if any(name in epoch for epoch in run.history)), None)


def _by_epoch(runs: Iterable[FinishedRun], names: Sequence[str]) -> pd.DataFrame:
    """Mean and deviation (n - 1) by epoch, over the runs that have the meter."""
    found = [(run, _meter(run, names)) for run in runs]
    values = [(epoch["epoch"], epoch[name]) for run, name in found if name for epoch in run.history if name in epoch]
    by_epoch = pd.DataFrame(values, columns=["epoch", "value"], dtype=float).groupby("epoch")["value"]
    return pd.DataFrame({"mean": by_epoch.mean(), "deviation": by_epoch.std()})


def calibration(curves: Mapping[Recipe, Curves], palette: Palette) -> Figure:
    """A reliability diagram and risk-coverage curves of some methods on the same images."""
    figure, (reliability, risk) = _panels(palette, 2, 3.4)
    reliability.plot([0, 100], [0, 100], color=palette.theme.ink, linewidth=0.8, linestyle=(0, (4, 3)))
    for recipe in sorted(curves, key=palette.order):
        style, found = palette.line(recipe), curves[recipe]
        reliability.plot(100 * found.confidence, 100 * found.accuracy, **style)
        points = np.linspace(0, len(found.coverage) - 1, min(len(found.coverage), 300)).astype(int)
        every = max(1, len(points) // 6)
        risk.plot(100 * found.coverage[points], 100 * found.risk[points], **style | {"markevery": every})
    reliability.set_xlabel("confidence in percent, mean of each of 15 bins")
    reliability.set_ylabel("accuracy in percent")
    risk.set_xlabel("coverage in percent: images kept, most confident first")
    risk.set_ylabel("risk in percent: errors among them")
    palette.legend(figure, curves)
    return figure
