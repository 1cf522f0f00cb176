"""The records of a run in its folder and its checkpoints, and whether they belong together.

The folder contains `config.yaml`, the whole configuration, and `classnames.json`, the class names in the order of their
labels. Every checkpoint contains the settings that change a number, and digests of classes, images, frozen weights and
learned weights. Published checkpoints contain none of this and still load.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_origin, get_type_hints

import torch
import yaml
from yacs.config import CfgNode

from dassl.config.differences import BACKBONE_KEY, EXTEND_KEY, INIT_KEY, Difference, leaves, without_extension
from dassl.config.node import nested, plain
from dassl.utils.errors import MismatchError, UnreadableFileError
from dassl.utils.files import StrPath, read_json, write_text_atomically
from dassl.utils.torchtools import POINTER_NAME, checkpoint_name, raw_bytes
from dassl.utils.yaml_files import read_yaml

from .unfinished_epoch import has_unfinished_epoch

CONFIG_NAME = "config.yaml"
"""The whole configuration of the run."""
CLASSNAMES_NAME = "classnames.json"
"""The class names in the order of their labels."""
ENVIRONMENT_NAME = "environment.txt"
"""Hardware and software of the process that trained last; it is not compared."""

RUN_KEY = "run"
"""Key of a checkpoint under which `RunRecord.to_text` is kept."""


@dataclass(frozen=True)
class RunRecord:
    """The record in a checkpoint of the run that wrote it.

    Args:
        config: nested configuration, without keys that change no number.
        classnames: SHA-256 of the class names in the order of their labels.
        images: SHA-256 of each part's list of images.
        epochs: number of epochs of the whole training.
        frozen: SHA-256 of the file with the frozen weights; None if unknown.
        start: SHA-256 of the file of `MODEL.INIT_WEIGHTS`; None without one.
        weights: SHA-256 of the learned weights of each registered model, all written together.
        extended_after: numbers of epochs after which the run was extended.
        files: SHA-256 of further files that the training read, by the key that names the file.
    """

    config: dict[str, Any]
    classnames: str
    images: dict[str, str]
    epochs: int
    frozen: str | None = None
    start: str | None = None
    weights: dict[str, str] = field(default_factory=dict)
    extended_after: list[int] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)

    @property
    def digests(self) -> dict[str, str | None]:
        """SHA-256 of each file that the configuration names, by its key."""
        return {BACKBONE_KEY: self.frozen, INIT_KEY: self.start, **self.files}

    def to_text(self) -> str:
        """One string, so that equal records make equal bytes in a checkpoint."""
        content = asdict(self)
        if not self.files:  # as earlier versions wrote it
            del content["files"]
        return json.dumps(content, sort_keys=True)

    @staticmethod
    def of_checkpoint(checkpoint: Mapping[str, Any], path: StrPath) -> RunRecord | None:
        """The record in a checkpoint; None if it has none (published, or from another project).

        Raises:
            UnreadableFileError: the record is damaged.
        """
        if RUN_KEY not in checkpoint:
            return None
        try:
            record = RunRecord(**json.loads(checkpoint[RUN_KEY]))
            texts = *record.images.values(), *record.weights.values(), *record.files.values()
            fits = (
                all(isinstance(getattr(record, name), kind) for name, kind in _KINDS.items())
                and all(isinstance(text, str) for text in texts)
                and all(isinstance(epoch, int) for epoch in record.extended_after)
            )
            if fits:
                return record
        except (TypeError, ValueError, AttributeError, RecursionError):
            pass
        raise UnreadableFileError(f'{path} is damaged: "{RUN_KEY}" does not describe a run')


_KINDS = {
    name: get_origin(hint) if get_origin(hint) in (dict, list) else hint
    for name, hint in get_type_hints(RunRecord).items()
}
"""What each field of a record is an instance of, without what dictionaries and lists contain."""


def write_record(folder: StrPath, cfg: CfgNode, classnames: Sequence[str]) -> None:
    """Write both files into `folder`, unless they have this content already."""
    texts = {
        CONFIG_NAME: yaml.safe_dump(plain(cfg), sort_keys=False, allow_unicode=True),
        CLASSNAMES_NAME: json.dumps(list(classnames), indent=1),
    }
    for name, text in texts.items():
        path = Path(folder, name)
        if not path.is_file() or path.read_bytes() != text.encode():
            write_text_atomically(path, text)


def read_config(folder: StrPath) -> dict[str, Any]:
    """The nested dictionary in a folder's `config.yaml`.

    Raises:
        UnreadableFileError: the file is damaged.
    """
    path = Path(folder, CONFIG_NAME)
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        raise UnreadableFileError(f"{path} does not contain a configuration")
    return tree


def read_classnames(folder: StrPath) -> list[str]:
    """The list in a folder's `classnames.json`.

    Raises:
        MissingFileError: there is no such file.
        UnreadableFileError: the file is damaged.
    """
    path = Path(folder, CLASSNAMES_NAME)
    names = read_json(path)
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise UnreadableFileError(f"{path} does not contain a list of class names")
    return names


def has_record(folder: StrPath) -> bool:
    """Whether `folder` contains the record of a run."""
    return Path(folder, CONFIG_NAME).is_file()


def has_checkpoints(folder: StrPath) -> bool:
    """Whether some model in `folder` has a checkpoint, with or without the file that points to the last one.

    The checkpoint within an epoch counts.
    """
    return has_unfinished_epoch(folder) or any(
        any(Path(folder).glob(pattern)) for pattern in (f"*/{POINTER_NAME}", f"*/{checkpoint_name('*')}")
    )


def counting_config(cfg: CfgNode, exempt: Collection[str]) -> dict[str, Any]:
    """The nested configuration without the keys in `exempt`."""
    return nested((key, value) for key, value in leaves(plain(cfg)) if key not in exempt)


def classnames_digest(classnames: Sequence[str]) -> str:
    """SHA-256 of class names in their order."""
    return hashlib.sha256(json.dumps(list(classnames)).encode()).hexdigest()


def listed_images(items: Iterable[Any], root: StrPath) -> Iterator[tuple[int, str, str]]:
    """Label, path as listed (see `listed_path`) and full path of each image."""
    root = os.path.abspath(root)
    for item in items:
        path = os.path.abspath(item.impath)
        yield item.label, listed_path(path, root), path


def listed_path(path: StrPath, root: StrPath) -> str:
    """`path` relative to `root` if it is below, else absolute."""
    path, root = os.path.abspath(path), os.path.abspath(root)
    return os.path.relpath(path, root) if os.path.commonpath([path, root]) == root else path


def images_digest(items: Iterable[Any], root: StrPath) -> str:
    """SHA-256 of a list of images: label, path relative to `root` and size in bytes, a line each."""
    digest = hashlib.sha256()
    for label, listed, path in listed_images(items, root):
        digest.update(f"{label} {listed} {os.path.getsize(path)}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def weights_digest(state: Mapping[str, Any]) -> str:
    """SHA-256 of the tensors of a state dict: names, types, shapes and bytes."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name]
        if isinstance(tensor, torch.Tensor):
            digest.update(f"{name.removeprefix('module.')} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(raw_bytes(tensor))
    return digest.hexdigest()


def check_piece(name: str, checkpoint: Mapping[str, Any], path: StrPath) -> RunRecord | None:
    """The record in the checkpoint of the model `name`, checked against the checkpoint's other content.

    Args:
        checkpoint: content of the file.
        path: the file, in a folder of the model's name in the folder of its run.

    Returns:
        None if the checkpoint has no record.

    Raises:
        MismatchError: the weights are not those that were written, or the epoch is impossible.
    """
    record = check_weights(checkpoint, path)
    if record is None:
        return None
    if name not in record.weights:
        raise MismatchError(f"{path} belongs to {', '.join(record.weights)}, not to {name}")
    _check_epoch(record, checkpoint.get("epoch"), Path(path))
    return record


def check_weights(checkpoint: Mapping[str, Any], path: StrPath) -> RunRecord | None:
    """The record in a checkpoint, None if it has none.

    Raises:
        MismatchError: the weights are not those that the run wrote.
    """
    record = RunRecord.of_checkpoint(checkpoint, path)
    if record is not None and weights_digest(checkpoint.get("state_dict") or {}) not in record.weights.values():
        raise MismatchError(f"{path} is damaged: its tensors are not those that the run wrote (SHA-256)")
    return record


def _check_epoch(record: RunRecord, epoch: Any, path: Path) -> None:
    if not isinstance(epoch, int) or not 0 <= epoch <= record.epochs:
        raise MismatchError(f"{path} is damaged: its epoch is {epoch!r}, but the run has {record.epochs} epochs")
    number = path.name.removeprefix(checkpoint_name(""))
    if number != path.name and number != str(epoch):
        raise MismatchError(f"{path} is damaged or renamed: it contains epoch {epoch}")


def check_record_files(record: RunRecord, path: StrPath) -> None:
    """Compare the record in a checkpoint with the files of its run's folder, if they exist.

    Raises:
        MismatchError: `config.yaml` or `classnames.json` is from another run or was edited.
    """
    folder = Path(path).parent.parent
    if not has_record(folder):
        return
    config = dict(leaves(read_config(folder)))
    different = [
        Difference(key, value, config.get(key))
        for key, value in leaves(record.config)
        if config.get(key) != value and key not in record.digests  # files are compared by their content
    ]
    different = without_extension(different, config.get(EXTEND_KEY) is True)
    if different:
        lines = "; ".join(f"{key} is {was!r} in the checkpoint, {now!r} in the file" for key, was, now in different)
        raise MismatchError(f"{folder / CONFIG_NAME} does not belong to {path}: {lines}")
    if classnames_digest(read_classnames(folder)) != record.classnames:
        raise MismatchError(
            f"{folder / CLASSNAMES_NAME} does not belong to {path}: these are not the class names of the training"
        )


def check_same_run(paths: Sequence[StrPath], records: Sequence[RunRecord | None]) -> None:
    """Check that the checkpoints of several models were written together by one run.

    Raises:
        MismatchError: they were not.
    """
    for path, record in zip(paths[1:], records[1:], strict=True):
        if record != records[0]:
            raise MismatchError(f"{path} and {paths[0]} were not written together: they belong to different runs")
