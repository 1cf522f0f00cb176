"""How tables and figures call a recipe: the method's name, and what tells it from others of that name.

A method's file states its names (`display_name` of the trainer, `name` of a recipe); nothing is listed here.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping

from dassl.engine import TRAINER_REGISTRY
from trainers.core.facts import Recipes, fact

from .recipes import Recipe
from .runs import Run

BACKBONE_PREFIX = re.compile(r"^(vit_[a-z0-9]+|rn\d+(x\d+)?)(_|$)")
"""What the names of config files begin with; tables name the backbone in their titles."""


def names_of(recipe_of: Mapping[Run, Recipe]) -> dict[Recipe, str]:
    """The name of each recipe, unique among the recipes of its setting and backbone.

    A recipe that a method's file does not state, and recipes that would share a name, have their config behind it.
    Changed settings always follow, and a trainer that is not in this project keeps its whole config name.
    """
    tables: defaultdict[tuple[str, str], set[Recipe]] = defaultdict(set)
    for run, recipe in recipe_of.items():
        tables[run.setting, recipe.backbone].add(recipe)
    clashing: set[Recipe] = set()
    for rivals in tables.values():
        counts = Counter(map(method_name, rivals))
        clashing |= {recipe for recipe in rivals if counts[method_name(recipe)] > 1}
    return {recipe: method_name(recipe, recipe in clashing) for recipe in dict.fromkeys(recipe_of.values())}


def method_name(recipe: Recipe, with_config: bool = False) -> str:
    """ "MaPLe" for a recipe that the method's file states, else "MaPLe (its config)"; changed settings in brackets.

    Args:
        with_config: name the config in either case.
    """
    stated, short = _stated_name(recipe), short_config(recipe.config)
    name = stated or _trainer_name(recipe.trainer)
    if with_config or (stated is None and short):
        name += f" ({short or recipe.config})"
    return name + "".join(f" [{change}]" for change in recipe.changes)


def _trainer_name(trainer: str) -> str:
    """How the trainer's file calls it; another project's trainer by its own name."""
    known = trainer in TRAINER_REGISTRY.registered_names()
    return fact(trainer, "display_name", trainer) if known else trainer


def short_config(config: str) -> str:
    """The config's name without the backbone that it begins with."""
    return BACKBONE_PREFIX.sub("", config)


def _stated_name(recipe: Recipe) -> str | None:
    """The name that the method's file gives the config; None if it does not state the config."""
    if recipe.trainer not in TRAINER_REGISTRY.registered_names():
        return None
    for recipes in fact(recipe.trainer, "recipes", {}).values():
        if not recipes.learns or short_config(recipe.config) in _short_configs(recipes):
            return recipes.name or _trainer_name(recipe.trainer)
    return None


def _short_configs(recipes: Recipes) -> set[str]:
    """All configs that the recipes name, without backbones."""
    suffixes = {recipes.config, recipes.cross_dataset, recipes.few_shot, *recipes.few_shot_by_shots.values()}
    whole = {recipes.unprefixed, *recipes.by_dataset.values()}
    for by_dataset in recipes.few_shot_by_dataset.values():
        whole |= {by_dataset} if isinstance(by_dataset, str) else set(by_dataset.values())
    if recipes.few_shot_by_shots:
        whole.add("epochs_by_shots")
    return {suffix.removeprefix("_") for suffix in suffixes if suffix} | {short_config(name) for name in whole if name}
