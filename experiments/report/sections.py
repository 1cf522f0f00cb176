"""What a reader sees, before any format: sections of tables whose cells are texts with a value to sort by."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dassl.utils import printable

from .papers import Comparison, short_name
from .recipes import Recipe
from .runs import Run
from .sheet import Score, recipe_order
from .tables import TITLES, ScoreTable

MISSING = "missing"
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


@dataclass(frozen=True)
class Value:
    """One cell of a table."""

    text: str
    sort: float | str | None = None
    """What sorting goes by: None sorts last, behind every number and text."""
    remark: str = ""
    """What must be read with the text, for example what an average covers."""
    published: str = ""
    """The published figure and the difference."""
    tone: str = ""
    """good, bad, missing or nothing."""


@dataclass(frozen=True)
class Part:
    """Rows under a common name, which may be empty."""

    name: str
    rows: list[list[Value]]


@dataclass(frozen=True)
class Section:
    """A table with title, legend and notes."""

    slug: str
    title: str
    headers: list[str]
    parts: list[Part]
    labels: int
    """Number of leading columns that hold text; behind them stand numbers."""
    remarks: int = 0
    """Number of columns at the end that hold text again."""
    legend: str = ""
    notes: list[str] = field(default_factory=list)

    def is_number(self, column: int) -> bool:
        return self.labels <= column < len(self.headers) - self.remarks


def words(text: str) -> Value:
    return Value(text, text.lower())


def number(value: float | None, digits: int = 1) -> Value:
    return Value("–", None, tone="missing") if value is None else Value(f"{value:.{digits}f}", value)


def score_value(score: Score) -> Value:
    """ "78.30 ± 0.42 †", with the published figure below."""
    figure = score.figure
    if figure.mean is None:
        return Value(MISSING, None, tone="missing")
    text = f"{figure.mean:.2f}" + (f" ± {figure.deviation:.2f}" if figure.deviation is not None else "")
    text += f" {PARTIAL}" * figure.partial + f" {MIXED}" * figure.mixed
    published = "; ".join(f"{each.published.value:.2f} {_signed(each)}" for each in score.comparisons[:1])
    return Value(text, figure.mean, score.remark, published, _tone(score.comparisons))


def _signed(comparison: Comparison) -> str:
    """The difference with two digits; no minus before 0.00."""
    return f"{round(comparison.difference, 2) + 0.0:+.2f}".replace("-", "−")


def _tone(comparisons: Sequence[Comparison]) -> str:
    within = comparisons[0].within if comparisons else None
    return "" if within is None else "good" if within else "bad"


def seeds_value(scores: Sequence[Score]) -> Value:
    """ "3", "2 of 3", or "1–3 of 3" where the numbers of a row stand on different numbers of seeds."""
    counts = sorted({len(score.figure.seeds) for score in scores})
    expected = max(score.expected for score in scores)
    span = str(counts[-1]) if len(counts) == 1 else f"{counts[0]}–{counts[-1]}"
    return Value(span if counts == [expected] else f"{span} of {expected}", counts[0])


def score_section(table: ScoreTable, index: int) -> Section:
    parts = []
    for block in table.blocks:
        rows = [
            [words(recipe.trainer), words(recipe.variant), *map(score_value, scores), seeds_value(scores)]
            for recipe, scores in block.rows.items()
        ]
        parts.append(Part(block.name, rows))
    headers = ["trainer", "config", *table.columns, "seeds"]
    return Section(f"{table.setting}-{index}", table.title, headers, parts, labels=2, notes=table.notes)


def comparison_section(tables: Iterable[ScoreTable]) -> Section | None:
    """Every measured figure that has a published one, with provenance."""
    rows = [_comparison_row(score, each) for table in tables for score in table.scores() for each in score.comparisons]
    headers = ["setting", "trainer", "config", "data set", "metric", "measured", "seeds", "published", "difference"]
    headers += ["band", "within", "published as", "provenance", "status"]
    title = "Beside the published figures"
    return Section("published", title, headers, [Part("", rows)], labels=5, remarks=3, legend=BANDS) if rows else None


def _comparison_row(score: Score, comparison: Comparison) -> list[Value]:
    published, within = comparison.published, comparison.within
    verdict = {None: Value("no band", None), True: Value("yes", 1, tone="good"), False: Value("no", 0, tone="bad")}[
        within
    ]
    measured = score_value(score)
    return [
        *map(
            words, (TITLES[score.setting], score.recipe.trainer, score.recipe.variant, score.dataset, published.metric)
        ),
        Value(measured.text, measured.sort),
        Value(str(len(score.figure.seeds)), len(score.figure.seeds)),
        number(published.value, 2),
        Value(_signed(comparison), comparison.difference),
        Value("none", None) if published.band is None else Value(f"±{published.band:g}", published.band),
        verdict,
        *map(words, (published.method, published.provenance, published.status)),
    ]


def summary_section(tables: Iterable[ScoreTable]) -> Section | None:
    """How many figures of each recipe lie within their bands."""
    counts: defaultdict[tuple[str, Recipe, str], Counter[bool | None]] = defaultdict(Counter)
    misses: defaultdict[tuple[str, Recipe, str], list[float]] = defaultdict(list)
    for table in tables:
        for score in table.scores():
            for each in score.comparisons:
                key = (score.setting, score.recipe, each.published.method)
                counts[key][each.within] += 1
                misses[key].append(abs(each.difference))
    rows = []
    for (setting, recipe, method), count in counts.items():
        differences = misses[setting, recipe, method]
        rows.append(
            [
                *map(words, (TITLES[setting], recipe.trainer, recipe.variant, method)),
                Value(str(count[True]), count[True], tone="good" if count[True] else ""),
                Value(str(count[False]), count[False], tone="bad" if count[False] else ""),
                Value(str(count[None]), count[None]),
                number(statistics.fmean(differences), 2),
                number(max(differences), 2),
            ]
        )
    headers = ["setting", "trainer", "config", "published as", "within", "outside", "no band"]
    headers += ["mean |Δ|", "max |Δ|"]
    title = "Published figures in short"
    return Section("published-short", title, headers, [Part("", rows)], labels=4, legend=BANDS) if rows else None


def cost_section(runs: Sequence[Run], recipes: Mapping[Run, Recipe]) -> Section:
    """Time and peak memory per run, means over the runs of a recipe on a data set."""
    groups: defaultdict[tuple[str, Recipe, str, str, int], list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.setting, recipes[run], run.part, short_name(run.dataset), run.shots].append(run)
    settings = list(TITLES)
    rows = []
    for key in sorted(groups, key=lambda key: (settings.index(key[0]), recipe_order(key[1]), key[2:])):
        setting, recipe, part, dataset, shots = key
        group = groups[key]
        memory = [run.peak_memory_bytes / 2**20 for run in group if run.peak_memory_bytes is not None]
        training = [run.train_seconds for run in group if run.train_seconds is not None and run.trained]
        testing = [run.test_seconds for run in group if run.test_seconds is not None]
        rows.append(
            [
                *map(words, (TITLES[setting], recipe.trainer, recipe.variant, dataset, part.replace("_", " "))),
                number(shots, 0),
                _seconds(training),
                _seconds(testing),
                number(max(memory), 0) if memory else number(None),
                number(len(group), 0),
                words(", ".join(sorted({run.device for run in group}))),
            ]
        )
    headers = ["setting", "trainer", "config", "data set", "part", "shots", "training s", "test s", "peak MiB"]
    legend = (
        "Wall time in seconds, mean over the runs; peak memory, the largest of them (of the GPU, or of the process)."
    )
    headers += ["runs", "device"]
    return Section("cost", "Cost of a run", headers, [Part("", rows)], labels=5, remarks=1, legend=legend)


def _seconds(values: Sequence[float]) -> Value:
    return number(statistics.fmean(values) if values else None, 1)


def runs_section(runs: Iterable[Run], recipes: Mapping[Run, Recipe], output: Path) -> Section:
    """Every run, with its own cost and origin."""
    rows = []
    for run in runs:
        rows.append(
            [
                *map(words, (TITLES[run.setting], run.trainer, recipes[run].variant, short_name(run.dataset))),
                words(run.part.replace("_", " ")),
                number(run.shots, 0),
                number(run.seed, 0),
                number(run.accuracy, 2),
                number(run.train_seconds if run.trained else None),
                number(run.test_seconds),
                number(None if run.peak_memory_bytes is None else run.peak_memory_bytes / 2**20, 0),
                *map(words, (run.device, str(run.versions.get("torch", "–")), run.commit, _minute(run.date))),
                words(printable(run.path.parent.relative_to(output))),
            ]
        )
    headers = ["setting", "trainer", "config", "data set", "part", "shots", "seed", "accuracy", "training s", "test s"]
    headers += ["peak MiB", "device", "torch", "commit", "date", "folder"]
    legend = "A commit with + had changes that were not committed."
    return Section("runs", "Every run", headers, [Part("", rows)], labels=5, remarks=5, legend=legend)


def _minute(date: str) -> str:
    """ "2026-11-22T03:46:18.467Z" as "2026-11-22 03:46"."""
    return date[:16].replace("T", " ")


def classes_section(runs: Iterable[Run], recipes: Mapping[Run, Recipe], hardest: int = 10) -> Section | None:
    """The classes that a recipe gets wrong most, of the runs that recorded accuracy per class."""
    groups: defaultdict[tuple[Recipe, str, str, int], list[Run]] = defaultdict(list)
    for run in runs:
        if run.per_class:
            groups[recipes[run], short_name(run.dataset), run.part, run.shots].append(run)
    rows = []
    for (recipe, dataset, part, shots), group in groups.items():
        names = set.intersection(*(set(run.per_class) for run in group))
        means = {name: statistics.fmean(run.per_class[name] for run in group) for name in names}
        for name in sorted(means, key=lambda name: (means[name], name))[:hardest]:
            texts = (recipe.trainer, recipe.variant, dataset, part.replace("_", " "), name)
            rows.append([*map(words, texts), number(shots, 0), number(means[name], 1), number(len(group), 0)])
    headers = ["trainer", "config", "data set", "part", "class", "shots", "accuracy", "runs"]
    legend = f"The {hardest} classes with the lowest accuracy per recipe and data set."
    return Section("classes", "Hardest classes", headers, [Part("", rows)], labels=5, legend=legend) if rows else None
