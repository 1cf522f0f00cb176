"""Means and standard deviations over seeds, with what is missing or mixed kept in sight."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from .runs import Run


def harmonic_mean(base: float, new: float) -> float:
    """H of the base-to-new setting; 0 when both are 0."""
    return 2 * base * new / (base + new) if base + new else 0.0


@dataclass(frozen=True)
class Figure:
    """One number of a table, in percent, and what it stands on."""

    mean: float | None = None
    """None: missing."""
    deviation: float | None = None
    """Standard deviation over seeds, n - 1 in the denominator; None below two seeds."""
    seeds: tuple[int, ...] = ()
    partial: bool = False
    """Stands on fewer seeds or data sets than the other rows of its table."""
    mixed: bool = False
    """Its runs come from different versions, commits, weights or devices."""

    @classmethod
    def over_seeds(cls, values: Mapping[int, float], mean: float | None = None, **marks: bool) -> Figure:
        """Of one value per seed; `mean` is given where it is not the mean of these values."""
        if mean is None and values:
            mean = statistics.fmean(values.values())
        deviation = statistics.stdev(values.values()) if len(values) > 1 else None
        return cls(mean, deviation, tuple(sorted(values)), **marks)


@dataclass(frozen=True)
class Cell:
    """Finished runs that differ in their seed alone."""

    runs: Mapping[int, Run] = field(default_factory=dict)
    expected: frozenset[int] = frozenset()
    """Seeds that other rows of the table have."""

    @classmethod
    def of(cls, runs: Iterable[Run], expected: Iterable[int] = ()) -> Cell:
        """Of runs with different seeds; `conflicts` has taken out what claims one place.

        Args:
            expected: seeds that other rows of the table have.
        """
        given = list(runs)
        by_seed = {run.seed: run for run in given}
        assert len(by_seed) == len(given), "two runs of one seed in one cell"
        return cls(by_seed, frozenset(expected))

    @property
    def values(self) -> dict[int, float]:
        """Accuracy by seed, in percent."""
        return {seed: run.accuracy for seed, run in self.runs.items()}

    @property
    def missing(self) -> list[int]:
        """Seeds without a finished run."""
        return sorted(self.expected - set(self.runs))

    @cached_property
    def mixture(self) -> list[str]:
        """What differs between the runs though it should not, for example "torch 2.11 (seed 1), 2.15 (seeds 2, 3)"."""
        return mixture(self.runs.values())

    @cached_property
    def figure(self) -> Figure:
        return Figure.over_seeds(self.values, partial=bool(self.missing), mixed=bool(self.mixture))


def origin(run: Run) -> dict[str, str]:
    """What all runs of one number should have in common."""
    weights = "unknown" if run.weights_sha256 is None else run.weights_sha256[:9]
    versions = {name: str(version) for name, version in run.versions.items()}
    return versions | {"commit": run.commit, "weights": weights, "device": run.device}


def mixture(runs: Iterable[Run]) -> list[str]:
    """The entries of `origin` that differ among runs, each with the seeds of its values."""
    seeds: defaultdict[str, defaultdict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for name, value in origin(run).items():
            seeds[name][value].append(run.seed)
    return [
        f"{name} " + ", ".join(f"{value} ({seed_list(found)})" for value, found in by_value.items())
        for name, by_value in seeds.items()
        if len(by_value) > 1
    ]


def seed_list(seeds: Iterable[int]) -> str:
    """ "seed 1" or "seeds 1, 2"."""
    ordered = sorted(seeds)
    return f"seed{'s' * (len(ordered) > 1)} {', '.join(map(str, ordered))}"


def average(cells: Sequence[Cell], complete: bool) -> Figure:
    """Mean over data sets; its deviation is that of the seeds' averages, over the seeds that all data sets have.

    Args:
        cells: one per data set; empty ones are left out, and the figure is then marked as partial.
        complete: whether `cells` are all the data sets that the average is meant to cover.
    """
    present = [cell for cell in cells if cell.runs]
    if not present:
        return Figure()
    return Figure.over_seeds(
        {seed: statistics.fmean(cell.values[seed] for cell in present) for seed in _common_seeds(present)},
        statistics.fmean(statistics.fmean(cell.values.values()) for cell in present),
        partial=not complete or len(present) < len(cells) or any(cell.missing for cell in present),
        mixed=any(cell.mixture for cell in present),
    )


def harmonic(base: Cell, new: Cell) -> Figure:
    """H over the seeds with both halves: of the two means, as the papers do; its deviation is that of the seeds' H."""
    both = _common_seeds((base, new))
    if not both:
        return Figure()
    return Figure.over_seeds(
        {seed: harmonic_mean(base.values[seed], new.values[seed]) for seed in both},
        harmonic_mean(*(statistics.fmean(half.values[seed] for seed in both) for half in (base, new))),
        partial=bool(base.missing or new.missing) or set(base.runs) != set(new.runs),
        mixed=bool(mixture([*base.runs.values(), *new.runs.values()])),
    )


def harmonic_of_averages(base: Sequence[Cell], new: Sequence[Cell], complete: bool) -> Figure:
    """H of an average row: harmonic mean of averaged base and averaged new, over the data sets that have both."""
    pairs = [pair for pair in zip(base, new, strict=True) if pair[0].runs and pair[1].runs]
    if not pairs:
        return Figure()
    halves = [average(half, complete and len(pairs) == len(base)) for half in zip(*pairs, strict=True)]
    common = _common_seeds([cell for pair in pairs for cell in pair])
    by_seed = {
        seed: harmonic_mean(
            *(statistics.fmean(cell.values[seed] for cell in half) for half in zip(*pairs, strict=True))
        )
        for seed in common
    }
    return Figure.over_seeds(
        by_seed,
        harmonic_mean(*(half.mean for half in halves)),
        partial=any(half.partial for half in halves),
        mixed=any(half.mixed for half in halves),
    )


def _common_seeds(cells: Iterable[Cell]) -> list[int]:
    return sorted(set.intersection(*(set(cell.runs) for cell in cells)))
