"""A trained method brought back from its run folder: model and class names, no data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file

from dassl.config import Difference, get_cfg_default, merge_file, merge_opts
from dassl.config.differences import BACKBONE_KEY
from dassl.engine import TRAINER_REGISTRY, SimpleTrainer
from dassl.engine.run_record import read_config
from dassl.utils import MissingFileError, UnreadableFileError, UserError, file_sha256, read_json
from datasets.layout.classes import describe_same_text
from runner.config import extend_cfg
from runner.plugins import check_recorded
from trainers.core.received import refuse_backbone_of_the_folder
from trainers.core.record import CLASSNAMES_NAME, CONFIG_NAME, Record, read_record
from trainers.core.trainer import PromptTrainer, load_learned

PROMPTS_NAME = "prompts.safetensors"
"""Learned tensors in an exported folder, which takes the place of a run's checkpoints."""
MANIFEST_NAME = "manifest.json"
"""In an exported folder: what each of its files is, with its SHA-256."""


@dataclass(frozen=True)
class Source:
    """Where a trained method is, and what is to be used otherwise than recorded.

    A folder of the published code holds no record: name its `config_file` and `trainer`, and give class names.
    """

    folder: str | os.PathLike[str]
    epoch: int | None = None
    """None: the best or last, as in an evaluation."""
    config_file: str = ""
    trainer: str = ""
    options: Sequence[str] = field(default=())
    """KEY VALUE pairs that overrule the configuration."""

    def record(self, classnames: Sequence[str] | None) -> Record:
        """Configuration and trained class names (empty where they are not known).

        Raises:
            UserError: neither recorded nor given; or the record names a backbone file that lies in the folder.
        """
        defaults = get_cfg_default()
        extend_cfg(defaults)
        if Path(self.folder, CONFIG_NAME).is_file():
            check_recorded(read_config(self.folder).get("PLUGINS", ()), str(self.folder))
            record = read_record(self.folder, defaults)
        else:
            self._check_says_what_is_not_recorded(classnames)
            record = Record(defaults, [])
        recorded_backbone = record.cfg.MODEL.BACKBONE.NAME
        if self.config_file:
            merge_file(record.cfg, self.config_file)
        if self.trainer:
            record.cfg.TRAINER.NAME = self.trainer
        merge_opts(record.cfg, list(self.options))
        if recorded_backbone == record.cfg.MODEL.BACKBONE.NAME and "MODEL.BACKBONE.NAME" not in self.options[::2]:
            refuse_backbone_of_the_folder(recorded_backbone, self.folder)
        return record

    def _check_says_what_is_not_recorded(self, classnames: Sequence[str] | None) -> None:
        """Raise MissingFileError that names the flags which are needed and were not given."""
        needed = {
            "--config-file FILE": bool(self.config_file),
            "--trainer NAME": bool(self.trainer),
            "--classes FILE": classnames is not None,
        }
        missing = [flag for flag, is_given in needed.items() if not is_given]
        if missing:
            raise MissingFileError(
                f"{self.folder} has no {CONFIG_NAME}, which every run of this project writes; "
                f"for a folder of the published code, add {', '.join(missing)}"
            )


def load_trained(
    source: Source, classnames: Sequence[str] | None = None, use_cuda: bool = True, precision: str | None = None
) -> SimpleTrainer:
    """The trainer with its learned tensors, ready for `model_inference`; it has no images and cannot train.

    Args:
        classnames: classes to tell apart; None: those it was trained on.
        use_cuda: compute on a GPU where there is one, wherever the run was trained.
        precision: overrules the recorded PREC.
    Raises:
        UserError: nothing usable in the folder, or prompts that belong to other classes.
    """
    if not os.path.isdir(source.folder):
        raise UserError(f"no such folder: {source.folder} (the output folder of a training run is wanted)")
    cfg, trained_names = source.record(classnames)
    cfg.MODEL.INIT_WEIGHTS, cfg.USE_CUDA, cfg.VERBOSE = "", use_cuda, False
    kind = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    if precision is not None and hasattr(kind, "config_node"):
        cfg.TRAINER[kind.config_node].PREC = precision
    cfg.freeze()
    names = list(classnames) if classnames is not None else trained_names
    _check_same_text(names, given=classnames is not None, folder=source.folder)
    trainer = _without_data(kind, names)(cfg)
    class_specific = isinstance(trainer, PromptTrainer) and trainer.prompts.class_specific
    if class_specific and trained_names and names != trained_names:
        raise UserError(f"{source.folder}: its prompts are class-specific (CSC), they stand for no other class names")
    _load_weights(trainer, source)
    trainer.set_model_mode("eval")
    return trainer


def _check_same_text(names: Sequence[str], given: bool, folder: str | os.PathLike[str]) -> None:
    """Refuse given class names of which two make one prompt; only warn about those of the training."""
    described = describe_same_text(names)
    if described and given:
        raise UserError(f"the given class names have {described}")
    if described:
        print(f"Warning: class names of {folder} have {described}")


def _load_weights(trainer: SimpleTrainer, source: Source) -> None:
    prompts = Path(source.folder, PROMPTS_NAME)
    if not (prompts.is_file() and isinstance(trainer, PromptTrainer)):
        trainer.load_model(str(source.folder), source.epoch)
        return
    for path in (prompts, *(Path(source.folder, name) for name in (CONFIG_NAME, CLASSNAMES_NAME))):
        _check_digest(path)
    try:
        state = trainer.state_for_own_classes(load_file(prompts), str(source.folder), classnames=None)
        load_learned(trainer.registered_module(), state, str(prompts))
    except (SafetensorError, OSError) as error:
        raise UnreadableFileError(f"cannot read {prompts}: {error}") from error


def _check_digest(path: Path) -> None:
    """Raise UnreadableFileError if the manifest beside an exported file knows another SHA-256 of it."""
    manifest = path.with_name(MANIFEST_NAME)
    if not manifest.is_file():
        return
    content = read_json(manifest)
    files = content.get("files") if isinstance(content, dict) else None
    entry = files.get(path.name) if isinstance(files, dict) else None
    if not isinstance(entry, dict) or entry.get("sha256") != file_sha256(path):
        raise UnreadableFileError(
            f"{path} is not the file that {manifest.name} describes (its SHA-256 differs): export the run again"
        )


def _without_data(kind: type[SimpleTrainer], classnames: list[str]) -> type[SimpleTrainer]:
    """The trainer's class, less the data set and what only training needs."""

    class WithoutData(kind):
        def build_data_loader(self) -> None:
            self.train_loader_x = self.train_loader_u = self.val_loader = self.test_loader = None
            self.num_classes, self.lab2cname = len(classnames), dict(enumerate(classnames))
            dataset = SimpleNamespace(classnames=classnames, num_classes=self.num_classes, lab2cname=self.lab2cname)
            self.dm = SimpleNamespace(dataset=dataset, num_classes=self.num_classes, lab2cname=self.lab2cname)

        def prepare_training(self) -> None:
            self.register_model(self.registered_name, self.registered_module())

        def check_folder(self, directory: str, resuming: bool) -> None:
            """Its record is what this trainer was built from."""

        def _differences(
            self, there: dict[str, Any], resuming: bool, frozen: str | None, start: str | None
        ) -> list[Difference]:
            """Settings are taken as they are given, but the frozen weights must be those of the training."""
            if frozen is None or self.frozen_weights_digest() is None:
                return []
            return [each for each in super()._differences(there, resuming, frozen, start) if each.key == BACKBONE_KEY]

    WithoutData.__name__ = kind.__name__
    return WithoutData
