"""Charts as SVG text for the page, drawn by matplotlib.

Colours are written as placeholders and turned into CSS variables, so that the page's light and dark themes colour the
same drawing. A recipe has one colour, marker and dash on the whole page: it is told by shape where colour is not seen.
"""

from __future__ import annotations

import io
import re
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence

import matplotlib
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
    rows = [(recipe, scores) for recipe, scores in block.rows.items() if scores[0].figure.mean or scores[1].figure.mean]
    rows.sort(key=lambda row: row[1][2].figure.mean or 0.0)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 0.7 + 0.55 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, (_, scores) in enumerate(rows):
            _bars(axes, place, scores)
        names = [recipe.trainer + _marks(scores) + f"\n{_shortened(recipe.variant)}" for recipe, scores in rows]
        axes.set_yticks(range(len(rows)), names)
        axes.grid(visible=False, axis="y")
        lower = _lower_limit(rows)
        axes.set_xlim(lower, None)
        where = "average over the data sets" if block.name == AVERAGE else block.name
        axes.set_xlabel(f"accuracy in percent, {where}" + f" (bars start at {lower:g})" * bool(lower))
        axes.margins(y=0.02)
        return _svg(figure, f"Base and new accuracy by method: {table.title}")


def _shortened(text: str, length: int = 44) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _marks(scores: Sequence) -> str:
    return " †" * any(score.figure.partial for score in scores)


def _bars(axes: Axes, place: int, scores: Sequence) -> None:
    base, new, h = (score.figure for score in scores)
    for figure, score, colour, offset in (
        (base, scores[0], BASE, BAR / 2 + GAP),
        (new, scores[1], NEW, -BAR / 2 - GAP),
    ):
        if figure.mean is None:
            continue
        axes.barh(place + offset, figure.mean, BAR, color=colour, xerr=figure.deviation, error_kw={"ecolor": INK})
        published = [comparison.published.value for comparison in score.comparisons[:1]]
        axes.annotate(
            f"{figure.mean:.1f}",
            (max([figure.mean + (figure.deviation or 0), *published]), place + offset),
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
        )
        for value in published:
            edges = (place + offset - BAR / 2, place + offset + BAR / 2)
            axes.plot([value] * 2, edges, color=INK, linewidth=2.2, solid_capstyle="butt")
    if h.mean is not None:
        axes.plot(h.mean, place, "D", color=SURFACE, markeredgecolor=INK, markersize=6, markeredgewidth=1.2, zorder=5)


def _lower_limit(rows: Sequence) -> float:
    """Bars start at 0 unless all would look alike; a little below the lowest value then."""
    values = [score.figure.mean for _, scores in rows for score in scores if score.figure.mean is not None]
    lowest = min(values, default=0.0)
    return max(0.0, 10 * (lowest // 10) - 10) if lowest > 30 else 0.0


def shots_curve(table: ScoreTable, block: Block, palette: Palette) -> str:
    """Accuracy by number of shots; a band of one standard deviation; zero-shot recipes as level lines."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.3, 3.0))
        axes = figure.add_axes((0.12, 0.15, 0.86, 0.82))
        shots = sorted({score.shots for scores in block.rows.values() for score in scores})
        axes.set_xscale("log", base=2)
        for recipe, scores in block.rows.items():
            points = [(score.shots, score.figure) for score in scores if score.figure.mean is not None]
            if recipe.zero_shot and points:
                style = palette.line(recipe) | {"marker": None, "linestyle": (0, (6, 3))}
                axes.axhline(points[0][1].mean, **style)
            else:
                _with_band(axes, [(x, each.mean, each.deviation or 0.0) for x, each in points], palette.line(recipe))
        axes.set_xticks(shots, [str(each) for each in shots])
        axes.minorticks_off()
        axes.set_xlabel("shots per class")
        axes.set_ylabel("accuracy in percent")
        return _svg(figure, f"Accuracy by shots: {table.title}, {block.name}")


def _with_band(axes: Axes, points: Sequence[tuple[float, float, float]], style: Mapping[str, object]) -> None:
    if not points:
        return
    xs, means, deviations = zip(*points, strict=True)
    axes.plot(xs, means, **style)
    low = [mean - deviation for mean, deviation in zip(means, deviations, strict=True)]
    high = [mean + deviation for mean, deviation in zip(means, deviations, strict=True)]
    axes.fill_between(xs, low, high, color=style["color"], alpha=0.15, linewidth=0)


def training_curves(runs: Sequence[Run], recipes: Mapping[Run, Recipe], palette: Palette, description: str) -> str:
    """Loss and training accuracy by epoch: mean over the seeds of each recipe, and one standard deviation."""
    by_recipe: defaultdict[Recipe, list[Run]] = defaultdict(list)
    for run in runs:
        by_recipe[recipes[run]].append(run)
    panels = [("loss", LOSSES), ("training accuracy", ACCURACIES)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 2.6))
        place = {"left": 0.07, "right": 0.99, "bottom": 0.17, "top": 0.97, "wspace": 0.16}
        for axes, (label, meters) in zip(figure.subplots(1, 2, gridspec_kw=place), panels, strict=False):
            for recipe in sorted(by_recipe, key=palette.place.__getitem__):
                points = _by_epoch(by_recipe[recipe], meters)
                _with_band(axes, points, palette.line(recipe) | {"markevery": max(1, len(points) // 8)})
            axes.set_xlabel("epoch")
            axes.set_ylabel(label)
            axes.xaxis.get_major_locator().set_params(integer=True)
            if not any(_meter(run, meters) for run in runs):
                axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center")
        return _svg(figure, description)


def _meter(run: Run, names: Sequence[str]) -> str | None:
    """The first of the meters that the run has recorded."""
    return next((name for name in names if any(name in epoch for epoch in run.history)), None)


def _by_epoch(runs: Sequence[Run], names: Sequence[str]) -> list[tuple[float, float, float]]:
    """(epoch, mean, standard deviation) over the runs that have the meter."""
    values: defaultdict[float, list[float]] = defaultdict(list)
    for run in runs:
        meter = _meter(run, names)
        for epoch in run.history:
            if meter in epoch:
                values[epoch["epoch"]].append(epoch[meter])
    return [
        (epoch, statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else 0.0)
        for epoch, found in sorted(values.items())
    ]
