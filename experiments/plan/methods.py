"""What a method's name stands for: its trainer, and the config file of each setting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trainers  # noqa: F401  registers the methods
from dassl.utils.errors import UnknownNameError
from datasets.acquire.names import generated, readers
from datasets.layout.base import TargetDataset
from experiments.plan.schema_errors import suggestion
from runner.provenance import ROOT
from trainers.core.facts import TRANSFER, Recipes, fact, lineage

BACKBONE, EMBEDDED_BACKBONE = "vit_b16", "vit_shapes"
EMBEDDED = frozenset(readers()[name].dataset_dir for name in generated())
"""Data sets that are generated, with the small model that is shipped; by the names of their config files."""

VARIANTS = frozenset(
    cls.dataset_dir if cls.generated else cls.__module__.rpartition(".")[2]
    for cls in readers().values()
    if issubclass(cls, TargetDataset)
)
"""Data sets with the classes of another one, which are only tested on; by the names of their config files."""


@dataclass(frozen=True)
class ConfigFile:
    """A config file, and the name under which its results are reported."""

    stem: str
    """Its name without .yaml."""
    reported: str = ""

    @property
    def reported_as(self) -> str:
        return self.reported or self.stem


@dataclass(frozen=True)
class NamedMethod:
    """One row of the tables: a trainer with its recipes, under the name that scripts and experiments use."""

    trainer: str
    recipes: Recipes

    @property
    def folder(self) -> str:
        """Folder of the config files below configs/trainers."""
        return self.recipes.folder or self.trainer

    def config_path(self, stem: str) -> Path:
        """Path of the config file of that name."""
        return ROOT / "configs" / "trainers" / self.folder / f"{stem}.yaml"

    @property
    def learns(self) -> bool:
        return self.recipes.learns


METHODS: dict[str, NamedMethod] = {
    name: NamedMethod(trainer, recipes)
    for trainer in lineage()
    for name, recipes in fact(trainer, "recipes", {}).items()
}


def find_method(name: str) -> NamedMethod:
    """The method of that name.

    Raises:
        UnknownNameError: there is none; the message suggests the nearest name or lists all.
    """
    if name not in METHODS:
        raise UnknownNameError(f"unknown method {name}; {suggestion(name, list(METHODS))}")
    return METHODS[name]


def default_config_file(method: NamedMethod, setting: str, dataset: str, shots: int) -> ConfigFile:
    """The config file of a method for a setting; `dataset` is the one that is trained on.

    A data set with its own settings is reported under the name of the others.
    """
    usual = _usual_config_file(method, setting, dataset, shots)
    own = _config_of_dataset(method, setting, dataset, shots)
    return ConfigFile(own, usual.reported_as) if own else usual


def _config_of_dataset(method: NamedMethod, setting: str, dataset: str, shots: int) -> str:
    """The config file of a data set that was published with its own settings; "" for others."""
    recipes = method.recipes
    if setting == "few_shot" and (own := recipes.few_shot_by_dataset.get(dataset)):
        return own if isinstance(own, str) else own.get(shots, "")
    if dataset in recipes.by_dataset:
        return recipes.by_dataset[dataset]
    own = recipes.dataset_pattern.format(dataset)
    return own if own and method.config_path(own).is_file() else ""


def _usual_config_file(method: NamedMethod, setting: str, dataset: str, shots: int) -> ConfigFile:
    """The config file for data sets without their own settings.

    The embedded model is trained with the base-to-new config in few-shot classification too: it has no longer ones.
    """
    embedded = dataset in EMBEDDED
    backbone = EMBEDDED_BACKBONE if embedded else BACKBONE
    recipes = method.recipes
    usual = recipes.unprefixed if recipes.unprefixed and not embedded else backbone + recipes.config
    if setting in TRANSFER:
        return ConfigFile(backbone + recipes.cross_dataset if recipes.cross_dataset else usual)
    if setting == "few_shot" and not embedded:
        if recipes.few_shot_by_shots:
            suffix = "_ep50" if dataset == "imagenet" else recipes.few_shot_by_shots.get(shots, "")
            return ConfigFile(backbone + suffix, f"{backbone}_epochs_by_shots")
        return ConfigFile(backbone + recipes.few_shot if recipes.few_shot else usual)
    return ConfigFile(usual)


def default_source(targets: tuple[str, ...]) -> str:
    """What is trained on before these data sets are tested on."""
    return "shapes" if targets and all(name in EMBEDDED for name in targets) else "imagenet"


def setting_of_target(dataset: str) -> str:
    """cross_dataset or domain_generalization (a variant of the source's images with the source's classes)."""
    return "domain_generalization" if dataset in VARIANTS else "cross_dataset"
