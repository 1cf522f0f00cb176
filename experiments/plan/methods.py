"""What a method's name stands for: its trainer, and the config file of each setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dassl.utils.errors import UnknownNameError
from shapes_world.suites import SUITES

BACKBONE, EMBEDDED_BACKBONE = "vit_b16", "vit_shapes"
EMBEDDED = frozenset(suite.folder for suite in SUITES.values())
"""Data sets that are generated, with the small model that is shipped; by the names of their config files."""

IMAGENET_VARIANTS = ("imagenetv2", "imagenet_sketch", "imagenet_a", "imagenet_r")
SHAPES_VARIANTS = ("shapes_sketch", "shapes_night", "shapes_cluttered")


@dataclass(frozen=True)
class Recipe:
    """A config file, and the name under which its results are reported."""

    config: str
    reported: str = ""

    @property
    def name(self) -> str:
        return self.reported or self.config


@dataclass(frozen=True)
class Method:
    """One row of the tables.

    Args:
        trainer: registry name.
        folder: folder of its config files below configs/trainers.
        config: the config file without its backbone's prefix; for base-to-new, and where no other is named.
        cross_dataset: config file for cross-dataset and domain generalisation.
        few_shot: config file for few-shot classification with the large backbone.
        few_shot_by_shots: the same where it differs with the number of shots.
        learns: False for zero-shot CLIP, whose runs are all evaluations.
    """

    trainer: str
    folder: str
    config: str = ""
    cross_dataset: str = ""
    few_shot: str = ""
    few_shot_by_shots: Mapping[int, str] = field(default_factory=dict, hash=False)
    learns: bool = True


_COOP_EPOCHS = {1: "_ep50", 2: "_ep100", 4: "_ep100", 8: "", 16: ""}  # CoOp, section 4.1: 50, 100 or 200 epochs

METHODS: dict[str, Method] = {
    "zsclip": Method("ZeroshotCLIP", "CoOp", learns=False),
    "zsclip2": Method("ZeroshotCLIP2", "CoOp", learns=False),
    "coop": Method("CoOp", "CoOp", "_ep50_ctxv1", few_shot_by_shots=_COOP_EPOCHS),
    "cocoop": Method("CoCoOp", "CoCoOp", "_c4_ep10_batch1_ctxv1"),
    "vpt": Method("VPT", "VPT", "_c2_ep5_batch4_4"),
    "ivlp": Method(
        "IVLP",
        "IVLP",
        "_c2_ep20_batch4_4+4ctx",
        cross_dataset="_c2_ep20_batch4_4+4ctx_cross_datasets",
        few_shot="_c2_ep50_batch4_4+4ctx_few_shot",
    ),
    "maple": Method("MaPLe", "MaPLe", "_c2_ep5_batch4_2ctx", cross_dataset="_c2_ep5_batch4_2ctx_cross_datasets"),
    "prometar": Method(
        "ProMetaR",
        "ProMetaR",
        "_c2_ep10_batch4_4+4ctx",
        cross_dataset="_c2_ep10_batch4_4+4ctx_cross_datasets",
        few_shot="_c2_ep50_batch4_4+4ctx_few_shot",
    ),
    "prometar_coop": Method("ProMetaR", "ProMetaR", "_c2_ep10_batch4_4ctx_coop"),
    "prometar_vpt": Method("ProMetaR", "ProMetaR", "_c2_ep10_batch4_4ctx_vpt"),
}


def find_method(name: str) -> Method:
    """The method of that name. Raises UnknownNameError, which lists the names."""
    if name not in METHODS:
        raise UnknownNameError(f"unknown method {name}: choose from {', '.join(METHODS)}")
    return METHODS[name]


def default_recipe(method: Method, setting: str, dataset: str, shots: int) -> Recipe:
    """The recipe of a method for a setting; `dataset` is the one that is trained on.

    The embedded model is trained with the base-to-new config in few-shot classification too: it has no longer ones.
    """
    embedded = dataset in EMBEDDED
    backbone = EMBEDDED_BACKBONE if embedded else BACKBONE
    if setting in ("cross_dataset", "domain_generalization"):
        return Recipe(backbone + (method.cross_dataset or method.config))
    if setting == "few_shot" and not embedded:
        if method.few_shot_by_shots:
            suffix = "_ep50" if dataset == "imagenet" else method.few_shot_by_shots.get(shots, "")
            return Recipe(backbone + suffix, f"{backbone}_epochs_by_shots")
        return Recipe(backbone + (method.few_shot or method.config))
    return Recipe(backbone + method.config)


def default_source(targets: tuple[str, ...]) -> str:
    """What is trained on before these data sets are tested on."""
    return "shapes" if targets and all(name in EMBEDDED for name in targets) else "imagenet"


def setting_of_target(dataset: str) -> str:
    """cross_dataset or domain_generalization (a variant of the source's images with the source's classes)."""
    return "domain_generalization" if dataset in (*IMAGENET_VARIANTS, *SHAPES_VARIANTS) else "cross_dataset"
