"""Which runs are of one recipe: trainer, config file, backbone, and the settings changed on the command line.

A row of a table is one recipe. Settings that differ from those of the config file are part of its name; where there is
no such file, settings that differ between runs which would share a cell.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from dassl.config import leaves, merge_file, plain
from dassl.config.differences import INIT_KEY
from experiments.plan.runs import ROOT, default_config
from runner.result import SAME_RECIPE, WORKERS
from trainers.core.facts import TRANSFER, learns
from trainers.core.record import changes_no_number

from .runs import FinishedRun

CONFIGS = ROOT / "configs" / "trainers"
# Settings that a row's own columns show, or that make no difference to what a run computes.
NOT_RECIPE = (
    *("DATALOADER.TEST.", "MODEL.BACKBONE.", "SEED", "TEST.NO_TEST", "TRAINER.NAME", "VERSION"),
    *("DATASET.NAME", "DATASET.PATH", "DATASET.NUM_SHOTS", "DATASET.SUBSAMPLE_CLASSES"),
    "DATASET.FEWSHOT_SPLIT",  # published draws are one file a seed
    *sorted(changes_no_number()),
)
# Settings without effect on an evaluation: those of the training that made the model count there.
OF_TRAINING = ("OPTIM", "DATALOADER.", "TRAIN.", INIT_KEY)


@dataclass(frozen=True, order=True)
class Recipe:
    """What distinguishes one row of a table from another."""

    trainer: str
    config: str
    backbone: str
    changes: tuple[str, ...] = ()
    """"KEY value" of each setting that is not the config file's."""

    @property
    def variant(self) -> str:
        """Config name with the changed settings."""
        return self.config + "".join(f" [{change}]" for change in self.changes)

    @property
    def as_published(self) -> bool:
        """Whether no setting is changed that makes another recipe."""
        return all(change.split(" ")[0] in SAME_RECIPE for change in self.changes)

    @property
    def label(self) -> str:
        return f"{self.trainer} ({self.variant})"

    @property
    def zero_shot(self) -> bool:
        return not learns(self.trainer)


def recipes(runs: Sequence[FinishedRun]) -> dict[FinishedRun, Recipe]:
    """The recipe of every run."""
    groups: defaultdict[tuple[str, str, str], list[FinishedRun]] = defaultdict(list)
    for run in runs:
        groups[run.trainer, run.config, run.backbone].append(run)
    found = {}
    for names, group in groups.items():
        file = declared(*names[:2])
        settings = _settings(group)
        differing = _differing(group, settings)
        for run in group:
            changed = {key for key, value in settings[run].items() if key in file and str(file[key]) != value}
            keys = sorted(changed | (differing - file.keys()))
            found[run] = Recipe(*names, tuple(f"{key} {settings[run].get(key, 'unset')}" for key in keys))
    return found


@cache
def declared(trainer: str, config: str) -> Mapping[str, Any]:
    """Settings by dotted key of a trainer's config file; empty where this project has no such file, or several.

    A name may have a variant's name behind an @, which is not part of the file's.

    Raises:
        UserError: the file cannot be read.
    """
    found = list(CONFIGS.glob("*/*.yaml"))
    found = [path for path in found if path.stem == config.partition("@")[0]]
    found = [path for path in found if path.parent.name == trainer] or found
    if len(found) != 1:
        return {}
    cfg = default_config().clone()
    merge_file(cfg, str(found[0]))
    return dict(leaves(plain(cfg)))


def _settings(group: Iterable[FinishedRun]) -> dict[FinishedRun, dict[str, str]]:
    """Flat settings of each run; those of training taken from the run that made the model, where there is just one."""
    settings = {}
    for run in group:
        flat = leaves(dict(run.full_config))
        ignored = NOT_RECIPE + OF_TRAINING * run.zero_shot + (WORKERS,) * (not run.trained)
        settings[run] = {key: str(value) for key, value in flat if not key.startswith(ignored)}
        if run.init_weights_sha256 and INIT_KEY in settings[run]:  # the file counts, not its path
            settings[run][INIT_KEY] = f"SHA-256 {run.init_weights_sha256[:9]}"
    origins: defaultdict[tuple[object, ...], list[FinishedRun]] = defaultdict(list)
    for run in group:
        if run.trained:
            origins[_origin(run)].append(run)
    for run in group:
        made_by = origins[_origin(run)]
        if not run.trained and len(made_by) == 1:
            training = {key: value for key, value in settings[made_by[0]].items() if key.startswith(OF_TRAINING)}
            settings[run] |= training
    return settings


def _origin(run: FinishedRun) -> tuple[object, ...]:
    """Equal for a training run and the evaluations of its model."""
    transfer = run.setting in TRANSFER
    return ("transfer",) * transfer or (run.setting, run.dataset), run.shots, run.seed


def _differing(group: Iterable[FinishedRun], settings: Mapping[FinishedRun, Mapping[str, str]]) -> set[str]:
    """Keys with several values among the runs of one cell (all but the seed alike)."""
    values: defaultdict[tuple[object, ...], set[str]] = defaultdict(set)
    for run in group:
        for key, value in settings[run].items():
            values[run.setting, run.part, run.dataset, run.subsample_classes, run.shots, key].add(value)
    return {str(cell[-1]) for cell, different in values.items() if len(different) > 1}
