"""Paired differences between two methods, with bootstrap intervals.

Two runs are a pair if they differ in the method alone: same part, data set, shots, seed and few-shot draw. A pair of
evaluations shares its images, so the difference is computed on the same images.

The bootstrap draws seeds with replacement within each data set, and images with replacement within each drawn seed, the
same ones for both methods. Data sets are not drawn: a table is about these data sets. A mean over images depends only
on the number of images that both, one, or none of the methods gets right. So a multinomial draw of these four counts is
the bootstrap over images, without one index per image.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from experiments.figures.predictions import Evaluations, Predictions

from .recipes import Recipe
from .runs import FinishedRun
from .scores import Float, Place, Sheet, combined, seed_list

DRAWS = 2000
"""Bootstrap samples of an interval."""
LEVEL = 95
"""Percent of the samples that an interval covers."""
BOTH, FIRST, SECOND, NEITHER, DIFFERENTLY_WRONG = range(5)
"""Which of two methods gets an image right; if neither does, whether their classes differ."""
NOT_DISTINGUISHABLE = "not distinguishable"


@dataclass(frozen=True)
class Paired:
    """The difference of one number between two methods: first minus second, in points."""

    difference: float = math.nan
    low: float = math.nan
    high: float = math.nan
    seeds: tuple[int, ...] = ()
    """Seeds of the pairs; those of the union over the data sets."""
    datasets: int = 0
    resampled: str = ""
    """What was drawn: "images and seeds", "images" (one seed), "seeds" (no predictions), or nothing."""
    decisions: int = 0
    """Image-class decisions that both methods made: images times seeds."""
    differing: int = 0
    """Those in which their classes differ."""
    first_only: int = 0
    """Those that only the first method gets right."""
    second_only: int = 0

    @property
    def verdict(self) -> str:
        """What can be said: higher, lower, not distinguishable (the interval contains 0), or no interval."""
        if math.isnan(self.low):
            return "no interval" if self.seeds else "no pairs"
        if self.low <= 0 <= self.high:
            return NOT_DISTINGUISHABLE
        return "higher" if self.difference > 0 else "lower"


@dataclass
class _Cell:
    """The pairs of one part of one data set, by seed: accuracies in percent, outcomes where both have predictions."""

    accuracies: dict[int, tuple[float, float]] = field(default_factory=dict)
    outcomes: dict[int, NDArray[np.int64]] = field(default_factory=dict)
    """[5] numbers of images by outcome."""


class Pairing:
    """All pairs of two recipes of a table.

    Args:
        sheet: the numbers of the table.
        first: its number minus the second's is the difference.
        second: the baseline.
        evaluations: the predictions of the runs.
    """

    def __init__(self, sheet: Sheet, first: Recipe, second: Recipe, evaluations: Evaluations) -> None:
        self._sheet, self._pair, self._evaluations = sheet, (first, second), evaluations
        self._cell, self._draws = cache(self._pairs), cache(self._sampled)
        self.notes: list[str] = []
        """Why runs that seem to match are not compared."""

    def at(self, place: Place) -> Paired:
        """The difference at a place of the table, over the seeds that both methods have in all its parts."""
        seeds: dict[str, list[int]] = {}
        for dataset in dict.fromkeys(dataset for _, dataset, _ in place.cells):
            of_cells = [set(self._cell(cell).accuracies) for cell in place.cells if cell[1] == dataset]
            common = set.intersection(*of_cells)
            if common:
                seeds[dataset] = sorted(common)
            elif place.is_average:
                return Paired()  # an average over other data sets would be another number
        if not seeds:
            return Paired()
        cells = [cell for cell in place.cells if cell[1] in seeds]
        parts = [part for part, *_ in cells]
        means = [np.mean([self._cell(cell).accuracies[seed] for seed in seeds[cell[1]]], axis=0) for cell in cells]
        first, second = combined(np.stack(means), parts, place.mean_of_h)  # of [cells, 2]
        evaluations = [(self._cell(cell), seed) for cell in cells for seed in seeds[cell[1]]]
        outcomes = [cell.outcomes[seed] for cell, seed in evaluations if seed in cell.outcomes]
        images = len(outcomes) == len(evaluations)
        # without images, a data set with one seed would count as one without spread
        several = (any if images else all)(len(each) > 1 for each in seeds.values())
        resampled = " and ".join(["images"] * images + ["seeds"] * several)
        low = high = math.nan
        if resampled:
            draws = np.stack([self._draws(cell, tuple(seeds[cell[1]]), images) for cell in cells])
            numbers = combined(draws, parts, place.mean_of_h)  # of [cells, DRAWS, 2]
            tail = (100 - LEVEL) / 2
            low, high = np.percentile(numbers[:, 0] - numbers[:, 1], [tail, 100 - tail])
        counts = np.sum(outcomes, axis=0) if outcomes else np.zeros(5, dtype=int)
        return Paired(
            float(first - second),
            *(float(low), float(high), tuple(sorted(set().union(*seeds.values()))), len(seeds), resampled),
            *(int(counts.sum()), int(counts[[FIRST, SECOND, DIFFERENTLY_WRONG]].sum())),
            *(int(counts[FIRST]), int(counts[SECOND])),
        )

    def _sampled(self, cell: tuple[str, str, int], seeds: tuple[int, ...], images: bool) -> Float:
        """Bootstrap samples of both accuracies of a cell, [DRAWS, 2]; seeds alone are drawn without `images`.

        The parts of a data set are results of the same models, so they get the same seeds.
        """
        pairs, (part, dataset, shots) = self._cell(cell), cell
        chosen = _generator(dataset, shots).integers(len(seeds), size=(DRAWS, len(seeds)))
        if images:
            outcomes = [pairs.outcomes[seed] for seed in seeds]
            samples = _drawn_images(outcomes, chosen, _generator(dataset, shots, part))
        else:
            samples = np.array([pairs.accuracies[seed] for seed in seeds])[chosen]  # [DRAWS, seeds, 2]
        return samples.mean(axis=1)

    def _pairs(self, cell: tuple[str, str, int]) -> _Cell:
        first, second = (self._sheet.runs_by_seed(recipe, cell) for recipe in self._pair)
        matched = {seed: (first[seed], second[seed]) for seed in first.keys() & second.keys()}
        # what trains nothing has the same result with every seed
        if self._pair[1].zero_shot and second:
            matched = {seed: (run, second.get(seed, next(iter(second.values())))) for seed, run in first.items()}
        elif self._pair[0].zero_shot and first:
            matched = {seed: (first.get(seed, next(iter(first.values()))), run) for seed, run in second.items()}
        found = _Cell()
        other_draws = []
        for seed, pair in sorted(matched.items()):
            digests = {self._sheet.draw(recipe, cell, seed) for recipe in self._pair}
            if None not in digests and len(digests) > 1:  # the trainings are known to have seen different images
                other_draws.append(seed)
                continue
            found.accuracies[seed] = (pair[0].accuracy, pair[1].accuracy)
            outcomes = self._outcomes(*pair)
            if outcomes is not None:
                found.outcomes[seed] = outcomes
        if other_draws:
            what = " and ".join(recipe.label for recipe in self._pair)
            self.notes.append(f"other few-shot draws of {cell[1]}: {what} ({seed_list(other_draws)})")
        return found

    def _outcomes(self, first: FinishedRun, second: FinishedRun) -> NDArray[np.int64] | None:
        """How the predictions of two runs compare; None if one of them has none, or they are of different images."""
        pair = [self._evaluations.of(run.path.parent) for run in (first, second)]
        if pair[0] is None or pair[1] is None:
            return None
        if pair[0].subject != pair[1].subject:
            self.notes.append(f"predictions of different images: {first.path.parent} and {second.path.parent}")
            return None
        return compared(pair[0], pair[1])


def compared(first: Predictions, second: Predictions) -> NDArray[np.int64]:
    """[5] numbers of images by outcome, from two evaluations of the same images."""
    a, b, labels = first.predicted, second.predicted, first.labels
    cases = [(a == labels) & (b == labels), a == labels, b == labels, a == b]
    return np.bincount(np.select(cases, [BOTH, FIRST, SECOND, NEITHER], DIFFERENTLY_WRONG), minlength=5)


def _generator(*names: object) -> np.random.Generator:
    """Random numbers of a place: independent of those of other places, and the same in every report."""
    return np.random.default_rng(zlib.crc32(repr(names).encode("utf-8", "surrogatepass")))


def _drawn_images(
    outcomes: Sequence[NDArray[np.int64]], chosen: NDArray[np.int64], generator: np.random.Generator
) -> Float:
    """Accuracies in percent of both methods on images drawn with replacement, [draws, seeds, 2].

    A seed that is drawn twice has its images drawn twice as well.

    Args:
        outcomes: numbers of images by outcome [5], of each seed.
        chosen: [draws, seeds] indices of the drawn seeds.
        generator: random numbers.
    """
    counts = np.stack([[*each[:NEITHER], each[NEITHER:].sum()] for each in outcomes])  # [seeds, 4]
    totals = counts.sum(axis=1)
    drawn = generator.multinomial(totals[chosen], (counts / totals[:, None])[chosen])  # [draws, seeds, 4]
    right = np.stack([drawn[..., BOTH] + drawn[..., FIRST], drawn[..., BOTH] + drawn[..., SECOND]], axis=-1)
    return 100.0 * right / totals[chosen][..., None]
