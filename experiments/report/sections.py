"""What a reader sees, before any format: tables of texts, beside the values that these are sorted by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import pandas as pd
from pandas.api.types import is_numeric_dtype

from dassl.utils import printable

from .comparisons import Baseline, interval, signed
from .frame import COSTS, TITLES, RunFrame, recipe_order
from .papers import STATUSES, Comparison, short_name
from .recipes import Recipe
from .runs import FinishedRun
from .tables import ScoreTable

MISSING, UNKNOWN = "missing", "–"
PARTIAL, MIXED = "†", "‡"
LEGEND = (
    "Accuracy in percent: mean ± standard deviation (n − 1) over seeds. H is the harmonic mean of base and new; of an "
    f"average row, of averaged base and averaged new. {PARTIAL} over fewer seeds or data sets than meant; {MIXED} runs "
    "of different versions, commits, files, weights or devices in one number: see the notes."
)
BANDS = (
    "Bands, from an outsider's full rerun of a sibling method: 0.5 points for the average H, 1 for base, 2 for new, 4 "
    "for new on DTD and EuroSAT; none is stated for other figures. Averages over fewer data sets than the papers' are "
    f"not compared. {STATUSES}"
)
HARDEST = 10
"""Classes that are shown of each recipe and data set."""
BLOCK = "data set"
"""Column of a score section that names the block."""
METHOD, COUNTS = "method", ("shots", "seeds", "runs")
"""Columns of many sections."""
PUBLISHED = ("published", "difference", "band", "within_band", "published_method", "provenance", "status")


@dataclass(frozen=True)
class Section:
    """A table with title, legend and notes. All its frames have the same rows and columns."""

    slug: str
    title: str
    values: pd.DataFrame
    """What a column is sorted by: numbers, NaN where there is none, or texts."""
    texts: pd.DataFrame
    """What is shown."""
    tones: pd.DataFrame
    """CSS classes: good, bad, missing, best, second, or nothing."""
    remarks: pd.DataFrame | None = None
    """What must be read with a text, for example what an average covers."""
    published: pd.DataFrame | None = None
    """The published figure and the difference."""
    differences: pd.DataFrame | None = None
    """The difference to the baseline and its interval."""
    configs: Sequence[str] = ()
    """The config of each row; none where the rows are not recipes."""
    by_block: bool = False
    """The first column names blocks, which some formats show as their own tables."""
    legend: str = ""
    notes: Sequence[str] = field(default_factory=list)

    def is_number(self, column: str) -> bool:
        return is_numeric_dtype(self.values[column])

    @cached_property
    def shared(self) -> dict[str, str]:
        """What all rows have in common, by column: narrow formats say it once. The methods stay in their rows."""
        if len(self.texts) < 2:
            return {}
        candidates = [str(name) for name in self.texts if name in COUNTS or not self.is_number(str(name))]
        return {
            name: str(self.texts[name].iloc[0])
            for name in candidates
            if name != METHOD and len(set(self.texts[name])) == 1
        }

    @property
    def compared(self) -> bool:
        """Whether published figures stand below the measured ones."""
        return self.published is not None and bool(self.published.ne("").to_numpy().any())

    def blocks(self) -> list[tuple[str, pd.Index]]:
        """Name and rows of each block; one without a name where the section has none."""
        if not self.by_block:
            return [("", self.values.index)]
        return [(str(name), rows.index) for name, rows in self.texts.groupby(BLOCK, sort=False)]


def in_words(shared: Mapping[str, str]) -> str:
    """ "data set Shapes; 16 shots" """
    return "; ".join(_in_words(name, text) for name, text in shared.items())


def _in_words(name: str, text: str) -> str:
    if name not in COUNTS:
        return f"{name} {text}"
    if text.endswith(name):
        return text
    return f"{text} {name[:-1] if text == '1' else name}"


Formats = Mapping[str, int | Callable[[float], str]]


def section_of(
    slug: str,
    title: str,
    values: pd.DataFrame,
    formats: Formats,
    legend: str,
    notes: Sequence[str] = (),
) -> Section | None:
    """A section whose numbers are shown by `formats`: with that many digits, or as the function says; None if empty."""
    if len(values) == 0:
        return None
    values = values.astype(dict.fromkeys(formats, float))
    texts = values.astype({str(name): str for name in values if name not in formats}).astype(object)
    for name, how in formats.items():
        show = how if callable(how) else f"{{:,.{how}f}}".format
        texts[name] = [UNKNOWN if math.isnan(value) and not callable(how) else show(value) for value in values[name]]
    tones = texts.map(lambda text: "missing" if text == UNKNOWN else "")
    return Section(slug, title, values, texts, tones, legend=legend, notes=notes)


def with_display_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of runs or scores with the names that a reader knows."""
    frame = frame.assign(setting=frame["setting"].map(TITLES.get), dataset=frame["dataset"].map(short_name))
    frame = frame.assign(part=frame["part"].str.replace("_", " ")) if "part" in frame else frame
    if "backbone" in frame and len(set(frame["backbone"])) > 1:
        frame = frame.assign(method=frame["method"] + ", " + frame["backbone"])
    return frame.rename(columns={"dataset": "data set"})


def _number(score: Any) -> str:
    """ "78.30 ± 0.42 †"."""
    if math.isnan(score.mean):
        return MISSING
    text = f"{score.mean:.2f}" + ("" if math.isnan(score.deviation) else f" ± {score.deviation:.2f}")
    return text + f" {PARTIAL}" * score.partial + f" {MIXED}" * score.mixed


def _tone(score: Any, ranked: int) -> str:
    """Classes of a number: missing; in its band or not; best or second of several."""
    within = score.comparisons[0].within if score.comparisons else None
    band = "" if within is None else "good" if within else "bad"
    return " ".join(filter(None, ["missing" * math.isnan(score.mean), band, place_tone(score.rank, ranked)]))


def place_tone(rank: float, ranked: int) -> str:
    """The class of the best and the second of several numbers."""
    return {1.0: "best", 2.0: "second"}.get(rank, "") if ranked > 1 else ""


def _seeds(row: pd.DataFrame) -> tuple[int, str]:
    """ "3", "2 of 3", or "1–3 of 3" where the numbers of a row stand on different numbers of seeds."""
    counts, expected = sorted({len(seeds) for seeds in row["seeds"]}), max(row["expected"])
    span = str(counts[-1]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    return counts[0], span if counts == [expected] else f"{span} of {expected}"


def score_section(table: ScoreTable, index: int, baseline: Baseline | None = None) -> Section:
    """A table of a paper; its columns are those of the paper between the row's name and the number of seeds.

    Args:
        table: the scores.
        index: place among the tables of the report.
        baseline: differences to one of the methods, which are shown with the numbers.
    """
    frame = table.frame
    ranked = frame.groupby(["block", "column"])["rank"].transform("count")
    scores: list[Any] = list(frame.itertuples())
    keys = list(dict.fromkeys((score.block, score.recipe) for score in scores))
    names = pd.DataFrame([(block, table.names[recipe]) for block, recipe in keys], columns=[BLOCK, "method"])
    by_block = any(names[BLOCK])
    names = names if by_block else names.drop(columns=BLOCK)
    unnamed = pd.DataFrame("", names.index, names.columns)
    seeds = [_seeds(rows) for _, rows in frame.groupby(["block", "recipe"], sort=False)]
    cells = pd.MultiIndex.from_arrays([frame["block"], frame["recipe"], frame["column"]])

    def framed(shown: Sequence[Any], missing: Any, before: pd.DataFrame = unnamed, last: Any = "") -> pd.DataFrame:
        """A frame with one cell for each number."""
        wide = pd.Series(shown, cells).unstack().reindex(index=keys, columns=table.columns).fillna(missing)
        return pd.concat([before, wide.set_axis(names.index).assign(seeds=last)], axis=1)

    return Section(
        f"{table.setting}-{index}",
        table.title,
        framed([score.mean for score in scores], math.nan, names, [count for count, _ in seeds]),
        framed([_number(score) for score in scores], MISSING, names, [text for _, text in seeds]),
        framed([_tone(score, count) for score, count in zip(scores, ranked, strict=True)], "missing"),
        framed([score.remark for score in scores], ""),
        framed([_beside(score) for score in scores], ""),
        framed([_to_baseline(score, baseline) for score in scores], "") if baseline else None,
        [recipe.variant for _, recipe in keys],
        by_block,
        legend=f"Below a number: its difference to {baseline.name}, and the 95 % interval." if baseline else "",
        notes=table.notes,
    )


def _beside(score: Any) -> str:
    """ "78.16 +0.14", the published figure and the difference from it."""
    return "; ".join(f"{each.published.value:.2f} {signed(each.difference)}" for each in score.comparisons[:1])


def _to_baseline(score: Any, baseline: Baseline) -> str:
    """ "+1.20 [+0.30, +2.10]"; nothing for the baseline itself and where nothing can be compared."""
    found = baseline.differences.get((score.recipe, score.block, score.column))
    if found is None or math.isnan(found.difference):
        return ""
    return f"{signed(found.difference)} {interval(found)}".strip()


def with_published(tables: Sequence[ScoreTable]) -> ScoreFrame:
    """All scores, one row for each published figure beside a number, and one for each number without any."""
    frame = pd.concat([table.frame.assign(table=table.title) for table in tables], ignore_index=True)
    frame = frame.explode("comparisons", ignore_index=True)
    facts = [_published(each) if isinstance(each, Comparison) else {} for each in frame["comparisons"]]
    facts_frame = pd.DataFrame(facts, frame.index, columns=[*PUBLISHED, "published_metric"])
    recipes: list[Recipe] = list(frame["recipe"])
    names = {recipe: name for table in tables for recipe, name in table.names.items()}
    frame = frame.assign(
        method=[names[recipe] for recipe in recipes],
        trainer=[recipe.trainer for recipe in recipes],
        config=[recipe.variant for recipe in recipes],
    )
    return frame.join(facts_frame)


def _published(comparison: Comparison) -> dict[str, object]:
    published, within = comparison.published, comparison.within
    values = (published.value, comparison.difference, published.band, None if within is None else int(within))
    texts = (published.method, published.provenance, published.status, published.metric)
    return dict(zip([*PUBLISHED, "published_metric"], (*values, *texts), strict=True))


ScoreFrame: TypeAlias = pd.DataFrame
"""Scores as `with_published` returns them."""


def comparison_section(scores: ScoreFrame) -> Section | None:
    """Every measured figure that has a published one, with provenance."""
    rows = pd.DataFrame(scores[scores["published"].notna()])
    shown = with_display_names(rows).assign(seeds=rows["seeds"].map(len), metric=rows["published_metric"])
    values = shown.rename(columns={"mean": "measured", "within_band": "within", "published_method": "published as"})
    columns = ["setting", "method", "data set", "metric", "measured", "seeds", "published", "difference"]
    values = pd.DataFrame(values[[*columns, "band", "within", "published as", "provenance", "status"]])
    formats: dict[str, int | Callable[[float], str]] = {"measured": 2, "seeds": 0, "published": 2, "difference": signed}
    formats["band"] = lambda band: "none" if math.isnan(band) else f"±{band:g}"
    formats["within"] = lambda within: "no band" if math.isnan(within) else "yes" if within else "no"
    section = section_of("published", "Beside the published figures", values, formats, BANDS)
    if section is not None:
        section.texts["measured"] = [_number(score) for score in rows.itertuples()]
        section.tones["within"] = section.values["within"].map(
            lambda within: "" if math.isnan(within) else "good" if within else "bad"
        )
    return section


def summary_section(scores: ScoreFrame) -> Section | None:
    """How many figures of each recipe lie within their bands."""
    rows = with_display_names(pd.DataFrame(scores[scores["published"].notna()]))
    rows = rows.rename(columns={"published_method": "published as"}).astype({"within_band": float})
    difference = rows["difference"].astype(float).abs()
    groups = rows.assign(difference=difference).groupby(["setting", "method", "published as"], sort=False)
    values = groups.agg(
        within=("within_band", lambda within: (within == 1).sum()),
        outside=("within_band", lambda within: (within == 0).sum()),
        none=("within_band", lambda within: within.isna().sum()),
        mean=("difference", "mean"),
        max=("difference", "max"),
    ).reset_index()
    values = values.rename(columns={"none": "no band", "mean": "mean |Δ|", "max": "max |Δ|"})
    formats = {"within": 0, "outside": 0, "no band": 0, "mean |Δ|": 2, "max |Δ|": 2}
    section = section_of("published-short", "Published figures in short", values, formats, BANDS)
    if section is not None:
        for column, tone in (("within", "good"), ("outside", "bad")):
            section.tones[column] = section.values[column].map(lambda count, tone=tone: tone if count > 0 else "")
    return section


COST: Formats = dict(zip(COSTS, (1, 1, 0, 0, 2), strict=True))
"""Quantities of a run's cost, and the digits that are shown."""
RUN_NAMES = ["setting", "method", "data set", "part"]


def in_order_of_papers(frame: pd.DataFrame) -> pd.DataFrame:
    """Runs by setting, then by method."""
    settings = list(TITLES)
    keys = zip(frame["setting"], frame["recipe"], strict=True)
    order = [(settings.index(setting), recipe_order(recipe)) for setting, recipe in keys]
    return frame.iloc[sorted(range(len(frame)), key=order.__getitem__)]


def cost_section(frame: RunFrame) -> Section | None:
    """Time, memory and learned values of a run, by method and data set."""
    values = (
        with_display_names(in_order_of_papers(frame))
        .groupby([*RUN_NAMES, "shots"], sort=False)
        .agg(
            **{name: (name, "max" if name == "peak MiB" else "mean") for name in COST},
            runs=("run", "size"),
            device=("device", lambda devices: ", ".join(sorted(set(devices)))),
        )
    )
    legend = (
        "Wall time in seconds, mean over the runs; peak memory, the largest of them (of the GPU, or of the process); "
        "learned values and GFLOP of a training step (torch.utils.flop_counter), where the runs recorded them."
    )
    values = values.reset_index().dropna(axis="columns", how="all")
    formats = {"shots": 0, **{name: how for name, how in COST.items() if name in values}, "runs": 0}
    return section_of("cost", "Cost of a run", values, formats, legend)


def runs_section(frame: RunFrame, output: Path) -> Section | None:
    """Every run, with its own cost and origin.

    Args:
        output: folder that paths are shown below.
    """
    runs: list[FinishedRun] = list(frame["run"])
    costs = {name: how for name, how in COST.items() if any(frame[name].notna())}
    names = ["setting", "method", "trainer", "config", "data set", "part"]
    values = with_display_names(frame)[[*names, "shots", "seed", "accuracy", *costs, "device"]].assign(
        torch=[str(run.versions.get("torch", UNKNOWN)) for run in runs],
        commit=[", ".join((*run.earlier_commits, run.commit)) for run in runs],
        date=[run.date[:16].replace("T", " ") for run in runs],
        folder=[printable(run.path.parent.relative_to(output)) for run in runs],
    )
    legend = "A commit with + had changes that were not committed. Several: the training was continued with other code."
    formats = {"shots": 0, "seed": 0, "accuracy": 2, **costs}
    return section_of("runs", "Every run", pd.DataFrame(values), formats, legend)


def classes_section(frame: RunFrame) -> Section | None:
    """The classes that a recipe gets wrong most, of the runs that recorded accuracy per class."""
    recorded = [bool(run.per_class) for run in frame["run"]]
    rows = with_display_names(pd.DataFrame(frame[recorded]))
    if rows.empty:
        return None
    keys, found = ["method", "data set", "part", "shots"], []
    for _, group in rows.groupby(keys, sort=False):
        # classes that are in all runs
        means = pd.DataFrame([run.per_class for run in group["run"]]).dropna(axis="columns").mean()
        lowest = means.sort_index().sort_values(kind="stable").iloc[:HARDEST]
        found += [(*group[keys].iloc[0], *entry, len(group)) for entry in zip(lowest.index, lowest, strict=True)]
    values = pd.DataFrame(found, columns=[*keys, "class", "accuracy", "runs"])
    values = pd.DataFrame(values[["method", "data set", "part", "class", "shots", "accuracy", "runs"]])
    legend = f"The {HARDEST} classes with the lowest accuracy of each method and data set."
    return section_of("classes", "Hardest classes", values, {"shots": 0, "accuracy": 1, "runs": 0}, legend)


def recipes_section(frame: RunFrame) -> Section | None:
    """What each name in the tables stands for: trainer, config file and changed settings."""
    values = in_order_of_papers(frame)[["setting", "backbone", "method", "trainer", "config"]].drop_duplicates()
    values = values.assign(setting=[TITLES[setting] for setting in values["setting"]])
    legend = "Config: name of the file below configs/trainers, with changed settings in brackets."
    return section_of("recipes", "Names of the methods", pd.DataFrame(values), {}, legend)
