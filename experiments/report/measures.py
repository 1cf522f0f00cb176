"""What evaluations measure beside accuracy: calibration, and base and new classes in one label space."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from .frame import JOINT, MEASURES, RunFrame
from .papers import AVERAGE, in_order, short_name
from .scores import harmonic_means
from .sections import Section, in_order_of_papers, place_tone, section_of, with_display_names

HIGHER_IS_BETTER = {"macro acc.": True} | dict.fromkeys(("NLL", "ECE", "adaptive ECE", "Brier"), False)
DIGITS = {"macro acc.": 2, "NLL": 3, "ECE": 2, "adaptive ECE": 2, "Brier": 3}
MEASURES_LEGEND = (
    "Means over seeds. Macro acc.: mean accuracy of the classes, in percent. NLL: negative log-likelihood of the "
    "label, in nats. ECE: expected calibration error over 15 bins of equal width, adaptive ECE over 15 bins of equal "
    "numbers of images, in percent. Brier: squared error of the probabilities, summed over the classes (0 to 2). Bold "
    "and underlined: best and second of a data set and part."
)
JOINT_LEGEND = (
    "The model of the base classes, evaluated on base and new classes in one label space: accuracy on the images of "
    "base and of new classes, H of the two, AUROC of telling base from new images by the maximum score, and "
    "OpenworldAUC; all in percent, means ± standard deviation over seeds. The H of the average is that of averaged "
    "base and averaged new. The tables of base and new test them apart, which is easier."
)


def measures_section(frame: RunFrame) -> Section | None:
    """Calibration of each method on each part of each data set; None if no run measured it."""
    shown = [name for name in MEASURES.values() if any(frame[name].notna())]
    measured = pd.DataFrame(frame[frame[shown].notna().any(axis=1)]) if shown else frame.iloc[:0]
    if measured.empty:
        return None
    keys = ["setting", "data set", "part", "shots", "method"]
    values = (
        with_display_names(in_order_of_papers(measured))
        .groupby(keys, sort=False)
        .agg(**{name: (name, "mean") for name in shown}, runs=("run", "size"))
        .reset_index()
    )
    values = values.sort_values(keys[:4], kind="stable", ignore_index=True)
    formats = {"shots": 0, **{name: DIGITS[name] for name in shown}, "runs": 0}
    section = section_of("measures", "Calibration and macro accuracy", values, formats, MEASURES_LEGEND)
    if section is not None:
        for name in shown:
            section.tones[name] = _tones(section.values.groupby(keys[:4])[name], HIGHER_IS_BETTER[name])
    return section


def joint_section(frame: RunFrame) -> Section | None:
    """Base and new classes together: accuracies, AUROC and OpenworldAUC by data set, and their averages.

    An average stands where a method has every data set of the section.
    """
    columns, group = [f"joint {name}" for name in JOINT.values()], ["backbone", "method", "shots"]
    rows = in_order_of_papers(frame.dropna(subset=columns))
    if rows.empty:
        return None
    datasets = in_order(rows["dataset"])
    by_seed = pd.DataFrame(rows[["dataset", *group, "seed", *columns]])  # one run of each data set and seed
    by_seed = by_seed.sort_values("dataset", key=lambda names: names.map(datasets.index), kind="stable")
    if len(datasets) > 1:  # averages over the data sets, of the seeds that have all of them
        complete: Any = by_seed.groupby([*group, "seed"]).filter(lambda runs: len(runs) == len(datasets))
        averages = complete.groupby([*group, "seed"], sort=False, as_index=False)[columns].mean()
        by_seed = pd.concat([averages.assign(**{"dataset": AVERAGE, "joint H": _harmonic_means(averages)}), by_seed])
    found: Any = by_seed.groupby(["dataset", *group], sort=False)
    means, deviations = found[columns].apply(pd.DataFrame.mean), found[columns].std()
    means["joint H"] = _harmonic_means(means)  # of the means, as in the other tables
    values = means.assign(seeds=found.size()).reset_index()
    values = values.set_axis(["data set", *group, *JOINT.values(), "seeds"], axis="columns")
    values["data set"] = values["data set"].map(short_name)
    formats = {"shots": 0, **dict.fromkeys(JOINT.values(), 2), "seeds": 0}
    section = section_of("joint", "Base and new classes together", values, formats, JOINT_LEGEND)
    if section is None:
        return None
    for name in JOINT.values():
        section.tones[name] = _tones(section.values.groupby(["data set", "backbone", "shots"])[name], True)
        section.texts[name] = [
            text if math.isnan(deviation) else f"{text} ± {deviation:.2f}"
            for text, deviation in zip(section.texts[name], deviations[f"joint {name}"], strict=True)
        ]
    return section


def _tones(group: Any, higher_is_better: bool) -> list[str]:
    """Best and second of each group of a column, by pandas' `groupby`."""
    ranked = zip(group.rank(method="min", ascending=not higher_is_better), group.transform("count"), strict=True)
    return [place_tone(*each) for each in ranked]


def _harmonic_means(means: pd.DataFrame) -> pd.Series:
    return pd.Series(harmonic_means(means["joint base"].to_numpy(), means["joint new"].to_numpy()), means.index)
