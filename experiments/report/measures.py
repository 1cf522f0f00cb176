"""What evaluations measure beside accuracy: calibration, and base and new classes in one label space."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from .frame import JOINT, MEASURES, RunFrame
from .papers import AVERAGE, in_order, short_name
from .scores import harmonic_mean
from .sections import Section, in_order_of_papers, named, place_tone, section_of

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
        named(in_order_of_papers(measured))
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
    columns = {f"joint {name}": name for name in JOINT.values()}
    rows = pd.DataFrame(frame[frame[[*columns]].notna().all(axis=1)])
    if rows.empty:
        return None
    rows = in_order_of_papers(rows)
    datasets = {dataset: place for place, dataset in enumerate(in_order(rows["dataset"]))}
    found, deviations = [], []
    groups = list(dict.fromkeys(zip(rows["backbone"], rows["method"], rows["shots"], strict=True)))
    for dataset in datasets if len(datasets) == 1 else [AVERAGE, *datasets]:
        over = list(datasets) if dataset == AVERAGE else [dataset]
        for backbone, method, shots in groups:
            group = [rows["backbone"] == backbone, rows["method"] == method, rows["shots"] == shots]
            kept = pd.DataFrame(rows[group[0] & group[1] & group[2] & rows["dataset"].isin(over)])
            by_seed = _by_seed(kept, list(columns), len(over))
            if by_seed.empty:
                continue
            means = pd.DataFrame(by_seed.mean()).T
            means["joint H"] = _harmonic_means(means)  # of the means, as in the other tables
            name = AVERAGE if dataset == AVERAGE else short_name(dataset)
            found.append((name, backbone, method, shots, *means.iloc[0].tolist(), len(by_seed)))
            deviations.append(pd.DataFrame(by_seed.std()).iloc[:, 0].tolist())
    keys = ["data set", "backbone", "method", "shots"]
    values = pd.DataFrame(found, columns=[*keys, *columns.values(), "seeds"])
    formats = {"shots": 0, **dict.fromkeys(columns.values(), 2), "seeds": 0}
    section = section_of("joint", "Base and new classes together", values, formats, JOINT_LEGEND)
    if section is None:
        return None
    for place, name in enumerate(columns.values()):
        section.tones[name] = _tones(section.values.groupby(["data set", "backbone", "shots"])[name], True)
        section.texts[name] = [
            text if math.isnan(deviation[place]) else f"{text} ± {deviation[place]:.2f}"
            for text, deviation in zip(section.texts[name], deviations, strict=True)
        ]
    return section


def _tones(group: Any, higher_is_better: bool) -> list[str]:
    """Best and second of each group of a column, by pandas' `groupby`."""
    ranked = zip(group.rank(method="min", ascending=not higher_is_better), group.transform("count"), strict=True)
    return [place_tone(*each) for each in ranked]


def _by_seed(runs: pd.DataFrame, columns: list[str], datasets: int) -> pd.DataFrame:
    """Measures averaged over the data sets within each seed that has all of them."""
    complete = [seed for seed, rows in runs.groupby("seed") if len(set(rows["dataset"])) == datasets]
    means = pd.DataFrame(runs[runs["seed"].isin(complete)].groupby("seed")[columns].mean())
    if datasets > 1:
        means["joint H"] = _harmonic_means(means)
    return means


def _harmonic_means(means: pd.DataFrame) -> pd.Series:
    return pd.Series(harmonic_mean(means["joint base"].to_numpy(), means["joint new"].to_numpy()), means.index)
