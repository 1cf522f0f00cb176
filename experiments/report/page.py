"""The report as one HTML page that needs nothing else: style, script and drawings are inside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .figures import Palette, base_and_new, shots_curve, training_curves
from .papers import in_order, short_name
from .recipes import Recipe
from .runs import Run
from .sections import LEGEND, Section
from .sheet import recipe_order
from .tables import TITLES, ScoreTable, in_shots

ASSETS = Path(__file__).parent / "assets"


@dataclass(frozen=True)
class Drawing:
    """An SVG with its caption. Only what `figures` made is marked as safe."""

    caption: str
    svg: Markup


@dataclass
class Chapter:
    """A table with the drawings that go with it."""

    section: Section
    drawings: list[Drawing] = field(default_factory=list)
    recipes: list[Recipe] = field(default_factory=list)
    """Those in the legend of the drawings."""
    bars: bool = False
    """The drawing is a bar chart of base and new."""

    @property
    def compared(self) -> bool:
        """Whether published figures stand below the measured ones."""
        return any(value.published for part in self.section.parts for row in part.rows for value in row)


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


def curve_chapters(runs: Sequence[Run], recipes: Mapping[Run, Recipe], palette: Palette) -> list[Curves]:
    """A drawing per data set, backbone and number of shots, grouped by setting; few-shot: the most shots alone."""
    groups: defaultdict[str, defaultdict[tuple[str, str, int], list[Run]]] = defaultdict(lambda: defaultdict(list))
    most = max((run.shots for run in runs if run.trained and run.setting == "few_shot"), default=0)
    for run in runs:
        if run.trained and (run.setting != "few_shot" or run.shots == most):
            groups[run.setting][run.dataset, run.backbone, run.shots].append(run)
    chapters = []
    for setting in sorted(groups, key=list(TITLES).index):
        drawings = []
        for dataset in in_order(dataset for dataset, _, _ in groups[setting]):
            for backbone, shots in sorted(key[1:] for key in groups[setting] if key[0] == dataset):
                caption = f"{short_name(dataset)}, {backbone}, {in_shots(shots)}"
                found = groups[setting][dataset, backbone, shots]
                svg = training_curves(found, recipes, palette, f"Training on {caption}")
                drawings.append(Drawing(caption, Markup(svg)))
        used = {recipes[run] for group in groups[setting].values() for run in group}
        chapters.append(Curves(TITLES[setting], drawings, sorted(used, key=recipe_order)))
    return chapters


def html_page(
    title: str,
    facts: Sequence[str],
    tables: Sequence[ScoreTable],
    score_sections: Sequence[Section],
    after: Sequence[Section],
    runs: Sequence[Run],
    recipes: Mapping[Run, Recipe],
) -> str:
    """The page. Names from files are escaped by the template, and by matplotlib in drawings.

    Args:
        score_sections: the sections of `tables`.
        after: sections behind the training curves.
    """
    palette = Palette(sorted(set(recipes.values()), key=recipe_order))
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
        legend=LEGEND,
        chapters=[
            score_chapter(table, section, palette) for table, section in zip(tables, score_sections, strict=True)
        ],
        curves=curve_chapters(runs, recipes, palette),
        after=after,
        keys={recipe: Markup(palette.key(recipe)) for recipe in palette.place},
        style=Markup((ASSETS / "page.css").read_text(encoding="utf-8")),
        script=Markup((ASSETS / "page.js").read_text(encoding="utf-8")),
    )
