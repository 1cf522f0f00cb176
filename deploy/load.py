"""A trained method brought back from its run folder: model and class names, no data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from yacs.config import CfgNode

from dassl.config import merge_file, merge_opts
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.found_models import folders_beside, found_instead
from dassl.engine.run_record import check_piece, check_record_files, read_config
from dassl.utils import BadValueError, MissingFileError, UnreadableFileError, UserError, file_sha256, read_json
from dassl.utils.devices import chosen_device
from datasets.layout.classes import describe_same_text
from runner.config import default_cfg
from runner.plugins import check_recorded
from trainers.core.learned import find_checkpoint, read_checkpoint
from trainers.core.method import Method, prompted_clip
from trainers.core.prompted_clip import PromptedClip
from trainers.core.record import (
    CLASSNAMES_NAME,
    CONFIG_NAME,
    Record,
    backbone_digest,
    check_same_backbone,
    frozen_digest,
    read_record,
    refuse_backbone_of_the_folder,
)

PROMPTS_NAME = "prompts.safetensors"
"""Learned tensors in an exported folder, which takes the place of a run's checkpoints."""
MANIFEST_NAME = "manifest.json"
"""In an exported folder: what each of its files is, with its SHA-256."""
BACKBONE_DIGEST = "backbone_sha256"
"""Key of the manifest: `frozen_digest` of the CLIP that the prompts were trained on; earlier exports lack it."""


@dataclass(frozen=True)
class TrainedFolder:
    """Where a trained method is, and what to use instead of the recorded values.

    A folder of the published code has no record: name its `config_file` and `trainer`, and give class names.
    """

    folder: str | os.PathLike[str]
    epoch: int | None = None
    """None: the best or last, as in an evaluation."""
    config_file: str = ""
    trainer: str = ""
    options: Sequence[str] = ()
    """KEY VALUE pairs that override the configuration."""

    def record(self, classnames: Sequence[str] | None) -> Record:
        """Configuration and trained class names (empty where they are not known).

        Raises:
            UserError: neither recorded nor given; or the record names a backbone file that lies in the folder.
        """
        defaults = default_cfg()
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
        """Check that what is not recorded was given.

        Raises:
            MissingFileError: it was not; the flags are named.
        """
        needed = {
            "--config-file FILE": bool(self.config_file),
            "--trainer NAME": bool(self.trainer),
            "--classes FILE": classnames is not None,
        }
        missing = [flag for flag, is_given in needed.items() if not is_given]
        if missing:
            raise MissingFileError(
                f"{self.folder} has no {CONFIG_NAME}, which every run of this project writes; "
                f"{found_instead(self.folder)}; "
                f"for a folder of the published code, add {', '.join(missing)}"
            )


class OtherTrainer:
    """A trainer file of another repository, built for class names alone: it predicts as a `PromptedClip` does."""

    def __init__(self, cfg: CfgNode, classes: list[str], source: TrainedFolder) -> None:
        self.trainer = TRAINER_REGISTRY.get(cfg.TRAINER.NAME).for_classes(cfg, classes)
        self.classes = classes
        self.trainer.load_model(str(source.folder), source.epoch)
        self.trainer.set_model_mode("eval")

    @property
    def device(self) -> torch.device:
        return self.trainer.device

    def logits(self, images: Tensor) -> Tensor:
        return self.trainer.inferred_logits(images.to(self.device, non_blocking=True))

    def checked_models(self) -> dict[str, nn.Module | None]:
        return self.trainer.checked_models()


class Trained(NamedTuple):
    """A trained model with its configuration."""

    cfg: CfgNode
    model: PromptedClip | OtherTrainer


def load_trained(
    source: TrainedFolder, classnames: Sequence[str] | None = None, use_cuda: bool = True, precision: str | None = None
) -> Trained:
    """A trained model without its data: a `PromptedClip` with its learned tensors, or another repository's trainer.

    Args:
        source: where it is.
        classnames: classes to tell apart; None: those it was trained on.
        use_cuda: compute on a GPU where there is one, wherever the run was trained.
        precision: overrides the recorded PREC.

    Raises:
        UserError: nothing usable in the folder, or prompts that belong to other classes.
    """
    if os.path.isfile(source.folder):
        raise BadValueError(f"give the output folder of a training run: {found_instead(source.folder)}")
    if not os.path.isdir(source.folder):
        found = folders_beside(source.folder)
        raise MissingFileError(f"no such folder: {source.folder} (give the output folder of a training run); {found}")
    cfg, trained_names = source.record(classnames)
    device = chosen_device(use_cuda)
    cfg.MODEL.INIT_WEIGHTS, cfg.USE_CUDA, cfg.VERBOSE = "", device.type != "cpu", False
    kind = TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    if precision is not None and issubclass(kind, Method):
        cfg.TRAINER[kind.config_node].PREC = precision
    cfg.freeze()
    names = list(classnames) if classnames is not None else trained_names
    _check_same_text(names, given=classnames is not None, folder=source.folder)
    if not issubclass(kind, Method):
        return Trained(cfg, OtherTrainer(cfg, names, source))
    model = prompted_clip(cfg, names, device)
    if model.prompts.class_specific and trained_names and names != trained_names:
        raise UserError(f"{source.folder}: its prompts are class-specific (CSC), they do not fit other class names")
    if model.prompts.tensors():
        _load_weights(model, kind.registered_name, cfg, source)
    return Trained(cfg, model)


def _check_same_text(names: Sequence[str], given: bool, folder: str | os.PathLike[str]) -> None:
    """Refuse given class names of which two make one prompt; only warn about those of the training."""
    described = describe_same_text(names)
    if described and given:
        raise UserError(f"the given class names have {described}")
    if described:
        print(f"Warning: class names of {folder} have {described}")


def _load_weights(model: PromptedClip, name: str, cfg: CfgNode, source: TrainedFolder) -> None:
    """Learned tensors of an exported folder, or of the checkpoint of the model `name` in a run's folder."""
    prompts = Path(source.folder, PROMPTS_NAME)
    if not prompts.is_file():
        _load_checkpoint(model, name, cfg, source)
        return
    if Path(source.folder, MANIFEST_NAME).is_file():
        _check_manifest(source.folder, cfg.MODEL.BACKBONE.NAME)
    model.take(read_tensors(prompts), str(prompts), str(source.folder), classnames=None)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        UnreadableFileError: it cannot be read.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise UnreadableFileError(f"cannot read {path}: {error}") from error


def _load_checkpoint(model: PromptedClip, name: str, cfg: CfgNode, source: TrainedFolder) -> None:
    """Settings are taken as they are given, but the frozen weights must be those of the training.

    Raises:
        UserError: no such checkpoint; or it is damaged, does not fit, or was trained on another backbone.
    """
    path = str(find_checkpoint(Path(source.folder, name), source.epoch))
    checkpoint = read_checkpoint(path)
    record = check_piece(name, checkpoint, path)
    if record is None:
        print(f"{source.folder} records nothing about its training: only the shapes of its tensors are checked")
    else:
        check_record_files(record, path)
        check_same_backbone(record, cfg.MODEL.BACKBONE.NAME, path)
    print(f'Loading weights to {name} from "{path}" (epoch = {checkpoint.get("epoch")})')
    model.take(checkpoint["state_dict"], path, str(source.folder), record and record.classnames)


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of an exported folder.

    Raises:
        MissingFileError: there is none.
        UnreadableFileError: it is damaged.
    """
    path = Path(folder, MANIFEST_NAME)
    content = read_json(path)
    if not isinstance(content, dict):
        raise UnreadableFileError(f"{path} does not describe an exported classifier")
    return content


def _check_manifest(folder: str | os.PathLike[str], backbone: str) -> None:
    """Check that prompts, record and frozen CLIP are those that the manifest of an exported folder describes.

    Raises:
        UnreadableFileError: a file has another SHA-256.
        BadValueError: the prompts were trained on another CLIP than `backbone`.
    """
    manifest = read_manifest(folder)
    files = manifest.get("files")
    for name in (PROMPTS_NAME, CONFIG_NAME, CLASSNAMES_NAME):
        path, entry = Path(folder, name), files.get(name) if isinstance(files, dict) else None
        if not isinstance(entry, dict) or entry.get("sha256") != file_sha256(path):
            raise UnreadableFileError(
                f"{path} is not the file that {MANIFEST_NAME} describes (its SHA-256 differs): export the run again"
            )
    recorded = manifest.get(BACKBONE_DIGEST)
    if recorded is not None and recorded != frozen_digest(backbone, backbone_digest(backbone)):
        raise BadValueError(
            f"{folder}: its prompts were trained on another CLIP than {backbone} (SHA-256 {str(recorded)[:16]}...): "
            "name its own (--backbone)"
        )
