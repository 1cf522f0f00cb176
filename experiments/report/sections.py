"""What a reader sees, before any format: tables of texts, beside the values that these are sorted by."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from dassl.utils import printable

from .frame import TITLES, recipe_order
from .papers import Comparison, short_name
from .tables import ScoreTable

MISSING, UNKNOWN = "missing", "–"
PARTIAL, MIXED = "†", "‡"
LEGEND = (
    "Accuracy in percent: mean ± standard deviation (n − 1) over seeds. H is the harmonic mean of base and new; of an "
    f"average row, of averaged base and averaged new. {PARTIAL} over fewer seeds or data sets than meant; {MIXED} runs "
    "of different versions, commits, weights or devices in one number: see the notes."
)
BANDS = (
    "Bands, from an outsider's full rerun of a sibling method: 0.5 points for the average H, 1 for base, 2 for new, 4 "
    "for new on DTD and EuroSAT; none is stated for other figures. Confirmed: a second source has the same figure; "
    "reprinted: read in one later paper; computed or derived: from given figures; disputed: two sources differ; "
    "recalled: sums and harmonic means agree, no second source was at hand. Averages over fewer data sets than the "
    "papers' are not compared."
)
BLOCK = "data set"
"""Column of a score section that names the block."""
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
    by_block: bool = False
    """The first column names blocks, which some formats show as tables of their own."""
    legend: str = ""
    notes: Sequence[str] = field(default_factory=list)

    def is_number(self, column: str) -> bool:
        return is_numeric_dtype(self.values[column])

    def blocks(self) -> list[tuple[str, pd.Index]]:
        """Name and rows of each block; one without a name where the section has none."""
        if not self.by_block:
            return [("", self.values.index)]
        return [(name, rows.index) for name, rows in self.texts.groupby(BLOCK, sort=False)]


def _section(
    slug: str, title: str, values: pd.DataFrame, formats: Mapping[str, int | Callable[[float], str]], legend: str
) -> Section | None:
    """A section whose numbers are shown by `formats`: with that many digits, or as the function says; None if empty."""
    if values.empty:
        return None
    values = values.astype(dict.fromkeys(formats, float))
    texts = values.astype({name: str for name in values if name not in formats}).astype(object)
    for name, how in formats.items():
        show = how if callable(how) else f"{{:.{how}f}}".format
        texts[name] = [UNKNOWN if math.isnan(value) and not callable(how) else show(value) for value in values[name]]
    tones = texts.map(lambda text: "missing" if text == UNKNOWN else "")
    return Section(slug, title, values, texts, tones, legend=legend)


def _named(frame: pd.DataFrame) -> pd.DataFrame:
    """Rows of runs or scores with the names that a reader knows."""
    frame = frame.assign(setting=frame["setting"].map(TITLES), dataset=frame["dataset"].map(short_name))
    frame = frame.assign(part=frame["part"].str.replace("_", " ")) if "part" in frame else frame
    return frame.rename(columns={"dataset": "data set"})


def signed(difference: float) -> str:
    """The difference with two digits; no minus before 0.00."""
    return f"{round(difference, 2) + 0.0:+.2f}".replace("-", "−")


def _number(score: Any) -> str:
    """ "78.30 ± 0.42 †"."""
    if math.isnan(score.mean):
        return MISSING
    text = f"{score.mean:.2f}" + ("" if math.isnan(score.deviation) else f" ± {score.deviation:.2f}")
    return text + f" {PARTIAL}" * score.partial + f" {MIXED}" * score.mixed


def _tone(score: Any, ranked: int) -> str:
    """Classes of a number: missing; in its band or not; best or second of several."""
    within = score.comparisons[0].within if score.comparisons else None
    place = {1.0: "best", 2.0: "second"}.get(score.rank, "") if ranked > 1 else ""
    return " ".join(filter(None, ["missing" * math.isnan(score.mean), {True: "good", False: "bad"}.get(within), place]))


def _seeds(row: pd.DataFrame) -> tuple[int, str]:
    """ "3", "2 of 3", or "1–3 of 3" where the numbers of a row stand on different numbers of seeds."""
    counts, expected = sorted({len(seeds) for seeds in row["seeds"]}), max(row["expected"])
    span = str(counts[-1]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    return counts[0], span if counts == [expected] else f"{span} of {expected}"


def score_section(table: ScoreTable, index: int) -> Section:
    """A table of a paper; its columns are those of the paper between the row's names and the number of seeds."""
    frame, rows, columns = table.frame, ["block", "recipe"], table.columns
    ranked = frame.groupby(["block", "column"])["rank"].transform("count")
    scores = list(frame.itertuples())
    shown = frame[[*rows, "column"]].assign(
        value=frame["mean"],
        text=[_number(score) for score in scores],
        tone=[_tone(score, count) for score, count in zip(scores, ranked, strict=True)],
        remark=frame["remark"],
        published=[
            "; ".join(f"{each.published.value:.2f} {signed(each.difference)}" for each in score.comparisons[:1])
            for score in scores
        ],
    )
    wide = shown.set_index([*rows, "column"]).unstack(sort=False)
    seeds = [_seeds(row) for _, row in frame.groupby(rows, sort=False)]
    names = pd.DataFrame(
        [(block, recipe.trainer, recipe.variant) for block, recipe in wide.index], columns=[BLOCK, "trainer", "config"]
    )
    by_block = any(names[BLOCK])
    kept = names.columns if by_block else names.columns[1:]

    def framed(kind: str, before: pd.DataFrame | str, last: Sequence[object] | str) -> pd.DataFrame:
        before = pd.DataFrame(before, names.index, names.columns) if isinstance(before, str) else before
        found = wide[kind][columns].set_axis(names.index)
        return pd.concat([before[kept], found.assign(seeds=last)], axis=1)

    return Section(
        f"{table.setting}-{index}",
        table.title,
        framed("value", names, [count for count, _ in seeds]),
        framed("text", names, [text for _, text in seeds]),
        framed("tone", "", ""),
        framed("remark", "", ""),
        framed("published", "", ""),
        by_block,
        notes=table.notes,
    )


def with_published(tables: Iterable[ScoreTable]) -> pd.DataFrame:
    """All scores, one row for each published figure beside a number, and one for each number without any."""
    frame = pd.concat([table.frame for table in tables], ignore_index=True)
    frame = frame.explode("comparisons", ignore_index=True)
    facts = [_published(each) if isinstance(each, Comparison) else {} for each in frame["comparisons"]]
    facts_frame = pd.DataFrame(facts, frame.index, columns=[*PUBLISHED, "published_metric"])
    config = frame["recipe"].map(lambda recipe: recipe.variant)
    return frame.assign(trainer=frame["recipe"].map(lambda recipe: recipe.trainer), config=config).join(facts_frame)


def _published(comparison: Comparison) -> dict[str, object]:
    published, within = comparison.published, comparison.within
    values = (published.value, comparison.difference, published.band, None if within is None else int(within))
    texts = (published.method, published.provenance, published.status, published.metric)
    return dict(zip([*PUBLISHED, "published_metric"], (*values, *texts), strict=True))


def comparison_section(scores: pd.DataFrame) -> Section | None:
    """Every measured figure that has a published one, with provenance.

    Args:
        scores: as `with_published` returns them.
    """
    rows = scores[scores["published"].notna()]
    named = _named(rows).assign(seeds=rows["seeds"].map(len), metric=rows["published_metric"])
    values = named.rename(columns={"mean": "measured", "within_band": "within", "published_method": "published as"})
    columns = ["setting", "trainer", "config", "data set", "metric", "measured", "seeds", "published", "difference"]
    values = values[[*columns, "band", "within", "published as", "provenance", "status"]]
    formats: dict[str, int | Callable[[float], str]] = {"measured": 2, "seeds": 0, "published": 2, "difference": signed}
    formats["band"] = lambda band: "none" if math.isnan(band) else f"±{band:g}"
    formats["within"] = lambda within: {0: "no", 1: "yes"}.get(within, "no band")
    section = _section("published", "Beside the published figures", values, formats, BANDS)
    if section is not None:
        section.texts["measured"] = [_number(score) for score in rows.itertuples()]
        section.tones["within"] = section.values["within"].map({0: "bad", 1: "good"}).fillna("")
    return section


def summary_section(scores: pd.DataFrame) -> Section | None:
    """How many figures of each recipe lie within their bands.

    Args:
        scores: as `with_published` returns them.
    """
    rows = scores[scores["published"].notna()]
    rows = _named(rows).rename(columns={"published_method": "published as"}).astype({"within_band": float})
    difference = rows["difference"].astype(float).abs()
    groups = rows.assign(difference=difference).groupby(["setting", "trainer", "config", "published as"], sort=False)
    values = groups.agg(
        within=("within_band", lambda within: (within == 1).sum()),
        outside=("within_band", lambda within: (within == 0).sum()),
        none=("within_band", lambda within: within.isna().sum()),
        mean=("difference", "mean"),
        max=("difference", "max"),
    ).reset_index()
    values = values.rename(columns={"none": "no band", "mean": "mean |Δ|", "max": "max |Δ|"})
    formats = {"within": 0, "outside": 0, "no band": 0, "mean |Δ|": 2, "max |Δ|": 2}
    section = _section("published-short", "Published figures in short", values, formats, BANDS)
    if section is not None:
        for column, tone in (("within", "good"), ("outside", "bad")):
            section.tones[column] = section.values[column].gt(0).map({True: tone, False: ""})
    return section


COST = {"training s": 1, "test s": 1, "peak MiB": 0}
"""Quantities of a run's cost, and the digits that are shown."""
RUN_NAMES = ["setting", "trainer", "config", "data set", "part"]


def cost_section(frame: pd.DataFrame) -> Section | None:
    """Time and peak memory of a run, by recipe and data set.

    Args:
        frame: as `run_frame` returns it.
    """
    settings = list(TITLES)
    order = [(settings.index(row.setting), recipe_order(row.recipe)) for row in frame.itertuples()]
    frame = frame.iloc[sorted(range(len(frame)), key=order.__getitem__)]
    values = (
        _named(frame)
        .groupby([*RUN_NAMES, "shots"], sort=False)
        .agg(
            **{"training s": ("training s", "mean"), "test s": ("test s", "mean"), "peak MiB": ("peak MiB", "max")},
            runs=("run", "size"),
            device=("device", lambda devices: ", ".join(sorted(set(devices)))),
        )
    )
    legend = (
        "Wall time in seconds, mean over the runs; peak memory, the largest of them (of the GPU, or of the process)."
    )
    return _section("cost", "Cost of a run", values.reset_index(), {"shots": 0, **COST, "runs": 0}, legend)


def runs_section(frame: pd.DataFrame, output: Path) -> Section | None:
    """Every run, with its own cost and origin.

    Args:
        frame: as `run_frame` returns it.
        output: folder that paths are shown below.
    """
    runs = frame["run"]
    values = _named(frame)[[*RUN_NAMES, "shots", "seed", "accuracy", *COST, "device"]].assign(
        torch=runs.map(lambda run: str(run.versions.get("torch", UNKNOWN))),
        commit=runs.map(lambda run: run.commit),
        date=runs.map(lambda run: run.date[:16].replace("T", " ")),
        folder=runs.map(lambda run: printable(run.path.parent.relative_to(output))),
    )
    legend = "A commit with + had changes that were not committed."
    return _section("runs", "Every run", values, {"shots": 0, "seed": 0, "accuracy": 2, **COST}, legend)


def classes_section(frame: pd.DataFrame, hardest: int = 10) -> Section | None:
    """The classes that a recipe gets wrong most, of the runs that recorded accuracy per class.

    Args:
        frame: as `run_frame` returns it.
    """
    rows = _named(frame[frame["run"].map(lambda run: bool(run.per_class))])
    if rows.empty:
        return None
    found = []
    for key, group in rows.groupby(["trainer", "config", "data set", "part", "shots"], sort=False):
        means = (
            pd.DataFrame([run.per_class for run in group["run"]]).mean(skipna=False).dropna()
        )  # of classes in all runs
        lowest = means.sort_index().sort_values(kind="stable")[:hardest]
        found += [(*key[:4], name, key[4], mean, len(group)) for name, mean in lowest.items()]
    values = pd.DataFrame(
        found, columns=["trainer", "config", "data set", "part", "class", "shots", "accuracy", "runs"]
    )
    legend = f"The {hardest} classes with the lowest accuracy of each recipe and data set."
    return _section("classes", "Hardest classes", values, {"shots": 0, "accuracy": 1, "runs": 0}, legend)
