"""Charts as SVG text for the page, drawn by matplotlib.

Colours are written as placeholders and turned into CSS variables, so that the page's light and dark themes colour the
same drawing. A recipe has one colour, marker and dash on the whole page: it is told by shape where colour is not seen.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .papers import AVERAGE
from .recipes import Recipe
from .runs import Run
from .tables import Block, ScoreTable

COLOURS, MARKERS, DASHES = 10, "osD^vPX<>h", ("-", (0, (4, 2)), (0, (1, 1.5)))
INK, FAINT, SURFACE, BASE, NEW = "#fdfd00", "#fdfd01", "#fdfd02", "#fdfd03", "#fdfd04"
VARIABLES = {INK: "--ink", FAINT: "--line", SURFACE: "--surface", BASE: "--base", NEW: "--new"}
VARIABLES |= {f"#fdfe{index:02x}": f"--series-{index}" for index in range(COLOURS)}
STYLE = {
    "svg.fonttype": "none",  # text stays text: smaller, and the page's font
    "text.parse_math": False,  # a $ in a name is a dollar
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.6,
    "grid.color": FAINT,
    "axes.edgecolor": FAINT,
    **{key: INK for key in ("text.color", "axes.labelcolor", "xtick.color", "ytick.color")},
    **{f"{axis}tick.major.size": 0 for axis in "xy"},
}
BAR, GAP = 0.36, 0.02
# A method whose loss is scaled or summed in its own way reports `loss_base`, which compares with the others' loss.
LOSSES = ("loss_base", "loss")
ACCURACIES = ("acc", "accuracy", "acc_x")


class Palette:
    """Colour, marker and dash of each recipe, by its place among those with its backbone: these share drawings."""

    def __init__(self, recipes: Sequence[Recipe]) -> None:
        self.place: dict[Recipe, int] = {}
        for backbone in {recipe.backbone for recipe in recipes}:
            alike = [recipe for recipe in recipes if recipe.backbone == backbone]
            self.place |= {recipe: place for place, recipe in enumerate(alike)}

    def colour(self, recipe: Recipe) -> str:
        return f"#fdfe{self.place[recipe] % COLOURS:02x}"

    def line(self, recipe: Recipe) -> dict[str, object]:
        """Keywords of matplotlib's plot()."""
        place = self.place[recipe]
        return {
            "color": self.colour(recipe),
            "marker": MARKERS[place % len(MARKERS)],
            "linestyle": DASHES[place // COLOURS % len(DASHES)],
            "linewidth": 1.6,
            "markersize": 5.5,
            "markeredgewidth": 0,
        }

    def key(self, recipe: Recipe) -> str:
        """The line and marker of a recipe alone, for a legend in the page."""
        with matplotlib.rc_context(STYLE):
            figure = Figure(figsize=(0.42, 0.16))
            axes = figure.add_axes((0, 0, 1, 1))
            axes.axis("off")
            axes.plot([0, 1, 2], [0, 0, 0], markevery=[1], clip_on=False, **self.line(recipe))
            return _svg(figure, recipe.label)


def _svg(figure: Figure, description: str) -> str:
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
    return svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)


def base_and_new(table: ScoreTable) -> str:
    """Bars of base and new accuracy of every recipe, best H on top, with H and the published figures marked."""
    block = table.blocks[0]  # the average, or the one data set there is
    rows = [(recipe, scores) for recipe, scores in block.rows.items() if any(score.mean > 0 for score in scores[:2])]
    rows.sort(key=lambda row: 0.0 if math.isnan(row[1][2].mean) else row[1][2].mean)
    # bars start at 0 unless all would look alike; a little below the lowest value then
    lowest = min((score.mean for _, scores in rows for score in scores if score.mean == score.mean), default=0.0)
    lower = max(0.0, 10 * (lowest // 10) - 10) if lowest > 30 else 0.0
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 0.7 + 0.55 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, (_, (base, new, h)) in enumerate(rows):
            _bar(axes, place + BAR / 2 + GAP, base, BASE)
            _bar(axes, place - BAR / 2 - GAP, new, NEW)
            style = {"color": SURFACE, "markeredgecolor": INK, "markersize": 6, "markeredgewidth": 1.2, "zorder": 5}
            axes.plot(h.mean, place, "D", **style)  # draws nothing where it is NaN
        axes.set_yticks(range(len(rows)), [_row_name(*row) for row in rows])
        axes.grid(visible=False, axis="y")
        axes.set_xlim(lower, None)
        where = "average over the data sets" if block.name == AVERAGE else block.name
        axes.set_xlabel(f"accuracy in percent, {where}" + f" (bars start at {lower:g})" * bool(lower))
        axes.margins(y=0.02)
        return _svg(figure, f"Base and new accuracy by method: {table.title}")


def _row_name(recipe: Recipe, scores: Sequence[Any], length: int = 44) -> str:
    partial = " †" * any(score.partial for score in scores)
    config = recipe.variant if len(recipe.variant) <= length else f"{recipe.variant[: length - 1]}…"
    return f"{recipe.trainer}{partial}\n{config}"


def _bar(axes: Axes, y: float, score: Any, colour: str) -> None:
    """A bar with its value, its deviation, and a tick at the published figure; nothing where it is missing."""
    if math.isnan(score.mean):
        return
    deviation = 0.0 if math.isnan(score.deviation) else score.deviation
    axes.barh(y, score.mean, BAR, color=colour, xerr=deviation or None, error_kw={"ecolor": INK})
    published = [comparison.published.value for comparison in score.comparisons[:1]]
    end = max([score.mean + deviation, *published])
    axes.annotate(f"{score.mean:.1f}", (end, y), xytext=(5, 0), textcoords="offset points", va="center")
    for value in published:
        axes.plot([value] * 2, (y - BAR / 2, y + BAR / 2), color=INK, linewidth=2.2, solid_capstyle="butt")


def shots_curve(table: ScoreTable, block: Block, palette: Palette) -> str:
    """Accuracy by number of shots; a band of one standard deviation; zero-shot recipes as level lines."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.3, 3.0))
        axes = figure.add_axes((0.12, 0.15, 0.86, 0.82))
        shots = sorted({score.shots for scores in block.rows.values() for score in scores})
        axes.set_xscale("log", base=2)
        for recipe, scores in block.rows.items():
            points = pd.DataFrame(scores).set_index("shots")[["mean", "deviation"]].dropna(subset="mean")
            if recipe.zero_shot and len(points):
                style = palette.line(recipe) | {"marker": None, "linestyle": (0, (6, 3))}
                axes.axhline(points["mean"].iloc[0], **style)
            else:
                _with_band(axes, points, palette.line(recipe))
        axes.set_xticks(shots, [str(each) for each in shots])
        axes.minorticks_off()
        axes.set_xlabel("shots per class")
        axes.set_ylabel("accuracy in percent")
        return _svg(figure, f"Accuracy by shots: {table.title}, {block.name}")


def _with_band(axes: Axes, points: pd.DataFrame, style: Mapping[str, object]) -> None:
    """A line through the means by index, and a band of one deviation (of none where it is NaN)."""
    if len(points):
        mean, deviation = points["mean"], points["deviation"].fillna(0.0)
        axes.plot(points.index, mean, **style)
        band = {"color": style["color"], "alpha": 0.15, "linewidth": 0}
        axes.fill_between(points.index, mean - deviation, mean + deviation, **band)


def training_curves(frame: pd.DataFrame, palette: Palette, description: str) -> str:
    """Loss and training accuracy by epoch: mean over the seeds of each recipe, and one standard deviation.

    Args:
        frame: the runs, as `run_frame` returns them.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 2.6))
        place = {"left": 0.07, "right": 0.99, "bottom": 0.17, "top": 0.97, "wspace": 0.16}
        panels = (("loss", LOSSES), ("training accuracy", ACCURACIES))
        for axes, (label, meters) in zip(figure.subplots(1, 2, gridspec_kw=place), panels, strict=True):
            for recipe, rows in sorted(frame.groupby("recipe"), key=lambda group: palette.place[group[0]]):
                points = _by_epoch(rows["run"], meters)
                _with_band(axes, points, palette.line(recipe) | {"markevery": max(1, len(points) // 8)})
            axes.set_xlabel("epoch")
            axes.set_ylabel(label)
            axes.xaxis.get_major_locator().set_params(integer=True)
            if not any(_meter(run, meters) for run in frame["run"]):
                axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center")
        return _svg(figure, description)


def _meter(run: Run, names: Sequence[str]) -> str | None:
    """The first of the meters that the run has recorded."""
    return next((name for name in names if any(name in epoch for epoch in run.history)), None)


def _by_epoch(runs: Iterable[Run], names: Sequence[str]) -> pd.DataFrame:
    """Mean and deviation (n - 1) by epoch, over the runs that have the meter."""
    found = [(run, _meter(run, names)) for run in runs]
    values = [(epoch["epoch"], epoch[meter]) for run, meter in found for epoch in run.history if meter in epoch]
    by_epoch = pd.DataFrame(values, columns=["epoch", "value"], dtype=float).groupby("epoch")["value"]
    return by_epoch.agg(mean="mean", deviation="std")
