"""One run: a train.py command with its output folder."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from yacs.config import CfgNode

from dassl.config import plain
from dassl.utils.safe_text import printable
from datasets.layout.custom_data import custom_data_name
from experiments.plan.methods import ConfigFile, NamedMethod
from runner.arguments import parse_args
from runner.config import default_cfg, setup_cfg
from runner.provenance import ROOT
from trainers.core.facts import fact

Options = tuple[tuple[str, str], ...]
"""Config overrides KEY VALUE, as on the command line."""


@dataclass(frozen=True)
class PlannedRun:
    """Everything that train.py is told.

    Args:
        setting: one of `runner.result.PARTS`, with its `part`.
        shots: images a class; those of the trained model where it is only tested.
        classes: DATASET.SUBSAMPLE_CLASSES.
        variant: name of these overrides, so that their folder and their row are their own.
        needs: folder of the model that is tested; None where the run trains one, or needs none.
    """

    setting: str
    part: str
    method: NamedMethod
    config_file: ConfigFile
    dataset: str
    seed: int
    shots: int
    classes: str
    options: Options
    data: Path
    folder: Path
    variant: str = ""
    needs: Path | None = None

    @property
    def trains(self) -> bool:
        return self.method.learns and self.needs is None

    @property
    def label(self) -> str:
        """The run in a line of progress."""
        config = config_variant(self.config_file.stem, self.variant)
        return f"{self.setting}/{self.part} {self.method.trainer} {config} {self._data_and_seed}"

    @property
    def short_label(self) -> str:
        """The same for a narrow terminal."""
        return f"{self.method.trainer} {self._data_and_seed} {self.part}"

    @property
    def _data_and_seed(self) -> str:
        shots = f" {self.shots} shots" if self.setting == "few_shot" else ""
        return f"{data_name(self.dataset, self.options)}{shots} seed {self.seed}"

    @property
    def arguments(self) -> list[str]:
        """What follows `train.py` on the command line, for a working directory that is the repository."""
        setting = ["--setting", f"{self.setting}/{self.part}"]
        reported = config_variant(self.config_file.reported_as, self.variant)
        if reported != self.config_file.stem:
            setting += ["--config-name", reported]
        action = [] if self.trains else ["--eval-only"]
        if self.needs is not None:
            action += ["--model-dir", short_path(self.needs)]
        return [
            *("--root", short_path(self.data)),
            *("--seed", str(self.seed)),
            *("--trainer", self.method.trainer),
            *("--dataset-config-file", f"configs/datasets/{self.dataset}.yaml"),
            *("--config-file", f"configs/trainers/{self.method.folder}/{self.config_file.stem}.yaml"),
            *("--output-dir", short_path(self.folder)),
            *setting,
            *action,
            *("DATASET.NUM_SHOTS", str(self.shots)),
            *("DATASET.SUBSAMPLE_CLASSES", self.classes),
            *(part for pair in self.options for part in pair),
        ]

    @property
    def command(self) -> str:
        """The run as a line for a shell in the repository."""
        return shlex.join(["python", "train.py", *self.arguments])

    def config(self) -> dict[str, Any]:
        """The configuration that train.py will have.

        Raises:
            UserError: a file is missing, or a key or value is invalid.
        """
        of_any_seed = replace(self, seed=0, data=ROOT, folder=ROOT)  # read once for all seeds
        return deepcopy(_config(tuple(of_any_seed.arguments))) | {"SEED": self.seed}


@lru_cache(maxsize=4096)
def _config(arguments: tuple[str, ...]) -> dict[str, Any]:
    absolute = [str(ROOT / part) if part.startswith("configs/") else part for part in arguments]
    return plain(setup_cfg(parse_args(absolute)))


@lru_cache(maxsize=1)
def default_config() -> CfgNode:
    """The defaults of all keys."""
    return default_cfg()


def dependants(run: PlannedRun, others: Iterable[PlannedRun]) -> list[PlannedRun]:
    """Those of the others that test the model which `run` trains."""
    return [other for other in others if other.needs == run.folder]


def short_path(path: Path) -> str:
    """A path as seen from the repository when it lies inside, else in full."""
    full = Path(os.path.abspath(path))
    return str(full.relative_to(ROOT) if full.is_relative_to(ROOT) else full)


def data_name(dataset: str, options: Options) -> str:
    """What the data set is called in folders and progress lines: own data by its folder or its CSV file's stem.

    Args:
        dataset: name of its config file; it names all other data, and own data whose config file has the path.
        options: overrides, perhaps with DATASET.PATH.
    """
    if not any(key == "DATASET.PATH" for key, _ in options):
        return dataset
    words = ("--dataset-config-file", f"configs/datasets/{dataset}.yaml", *(part for pair in options for part in pair))
    name = custom_data_name(_config(words)["DATASET"])
    if name is None:
        return dataset
    known = {path.stem.lower() for path in (ROOT / "configs" / "datasets").glob("*.yaml")}
    return f"{printable(name)}-own" if name.lower() in known else printable(name)


def config_variant(config: str, variant: str) -> str:
    """Name of a config with overrides that have a name of their own."""
    return f"{config}@{variant}" if variant else config


def method_subfolder(method: NamedMethod, config_file: ConfigFile, options: Options) -> str:
    """What the lineage's scripts put below a config; only CoOp's have something there."""
    name_of = fact(method.trainer, "script_subfolder", None)
    if name_of is None:
        return ""
    file = f"configs/trainers/{method.folder}/{config_file.stem}.yaml"
    return name_of(_config(("--config-file", file, *(part for pair in options for part in pair)))["TRAINER"])
