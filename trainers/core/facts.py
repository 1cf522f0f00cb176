"""What a method says about itself to the launcher and the report: its config files, its rows in the papers' tables.

A trainer has these as class attributes, all of them optional:

    display_name  "MMA", how tables and figures call the trainer; default: its registered name
    paper_date    "2021-09", when the method was first published; tables list the methods in this order
    recipes       {name for scripts and experiments: Recipes}
    published     the rows of `paper_figures.csv` that are this trainer's
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dassl.engine import TRAINER_REGISTRY

BASE_TO_NEW = "base2new"
CROSS_DATASET = "cross_dataset"
TRANSFER = (CROSS_DATASET, "domain_generalization")
FEW_SHOT = "few_shot"
ALL_SETTINGS = (BASE_TO_NEW, *TRANSFER, FEW_SHOT)


@dataclass(frozen=True)
class Recipes:
    """Names of a method's config files, without the prefix that names the backbone.

    Args:
        config: for base-to-new, and wherever no other is named.
        cross_dataset: for cross-dataset and domain generalisation.
        few_shot: for few-shot classification with the large backbone.
        few_shot_by_shots: the same where it differs with the number of shots.
        few_shot_by_dataset: whole names of config files for data sets that were published with their own settings in
            few-shot classification; by the number of shots where only some of them were.
        unprefixed: whole name of the config file for the large backbone, where it was published without a prefix.
        by_dataset: whole names of config files for data sets that were published with their own settings, in every
            setting that trains on them; their results are reported under the name of the others.
        dataset_pattern: the same for a method that has such a file for each data set: "name_{}".
        folder: below configs/trainers; default: the trainer's name.
        learns: False for zero-shot CLIP, whose runs are all evaluations.
        name: how tables and figures call the recipe; default: as the trainer.
    """

    config: str = ""
    cross_dataset: str = ""
    few_shot: str = ""
    few_shot_by_shots: Mapping[int, str] = field(default_factory=dict, hash=False)
    few_shot_by_dataset: Mapping[str, str | Mapping[int, str]] = field(default_factory=dict, hash=False)
    unprefixed: str = ""
    by_dataset: Mapping[str, str] = field(default_factory=dict, hash=False)
    dataset_pattern: str = ""
    folder: str = ""
    learns: bool = True
    name: str = ""


class PublishedRow(NamedTuple):
    """A method's name in `paper_figures.csv`, its config file, and the settings it was published for."""

    method: str
    config: str
    settings: tuple[str, ...]


def fact(trainer: str, name: str, default: Any) -> Any:
    """What a registered trainer says itself; what it inherits is its base's, not its own."""
    return TRAINER_REGISTRY.stated(trainer, name, default)


def learns(trainer: str) -> bool:
    """Whether a trainer learns anything: all but zero-shot CLIP do, and one that is not here is taken to."""
    recipes = getattr(TRAINER_REGISTRY.get(trainer), "recipes", {}) if trainer in TRAINER_REGISTRY else {}
    return all(each.learns for each in recipes.values())


def lineage() -> list[str]:
    """Names of all registered trainers in the order of their papers; those without a date at the end."""
    names = TRAINER_REGISTRY.registered_names()
    return sorted(names, key=lambda name: (fact(name, "paper_date", "9999"), name))
