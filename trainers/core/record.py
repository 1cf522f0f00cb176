"""A run folder's record as a configuration of this project, so that its checkpoints can be used without their data.

The content of the folder is written and compared by `dassl.engine.run_record`.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from yacs.config import CfgNode

from clip.backbones.open_clip import is_open_clip
from clip.clip import checkpoint_file_of, local_file
from dassl.config import CHANGES_NO_NUMBER
from dassl.config.differences import BACKBONE_KEY, by_content
from dassl.config.merge import type_words
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.found_models import found_instead
from dassl.engine.run_record import CLASSNAMES_NAME, CONFIG_NAME, RunRecord, StrPath, read_classnames, read_config
from dassl.engine.run_record import write_record as write_record
from dassl.utils import (
    BadTypeError,
    BadValueError,
    MissingFileError,
    UnknownKeyError,
    UnknownNameError,
    UserError,
    file_sha256,
)


def changes_no_number() -> frozenset[str]:
    """Config keys that say where a run works and what it tells: with or without them every bit it learns is the same.

    A trainer names its own in `tells_only`.
    """
    trainers = (TRAINER_REGISTRY.get(name) for name in TRAINER_REGISTRY.registered_names())
    return CHANGES_NO_NUMBER.union(
        {"DATASET.SPLITS_DIR", "TRAINER.CPU_REPLAY", "TRAINER.CUDA_GRAPH"},
        *(getattr(each, "tells_only", ()) for each in trainers),
    )


class Record(NamedTuple):
    """A run's configuration and class names."""

    cfg: CfgNode
    classnames: list[str]


def backbone_digest(backbone: str) -> str | None:
    """SHA-256 of the file behind a backbone's name; None where there is no such file (another project's backbone)."""
    try:
        path = Path(checkpoint_file_of(backbone)) if backbone else None
    except UserError:
        return None
    if path is None or not path.is_file():
        return None
    return file_sha256(path)


def check_same_backbone(record: RunRecord, backbone: str, path: StrPath) -> None:
    """Check that the frozen CLIP is the one that the prompts of a checkpoint were trained on; files are compared.

    Args:
        record: of the checkpoint.
        backbone: name of the frozen CLIP.
        path: the checkpoint, for the error message.

    Raises:
        BadValueError: it is another one.
    """
    own = frozen_digest(backbone, backbone_digest(backbone))
    here = {BACKBONE_KEY: backbone}
    for difference in by_content([], record.config, here, {BACKBONE_KEY: (record.frozen, own)}):
        raise BadValueError(f"{path} was trained with another configuration: {difference}: name its own (--backbone)")


def frozen_digest(backbone: str, file_digest: str | None) -> str | None:
    """SHA-256 that two backbones share if they compute the same: of the file and of how it is read.

    open_clip's model names say that: with and without quickgelu, one file gives two models.

    Args:
        backbone: its name.
        file_digest: SHA-256 of its file; None where it is not known.
    """
    if file_digest is None or not is_open_clip(backbone):
        return file_digest
    return hashlib.sha256(f"{backbone.partition('/')[0]} {file_digest}".encode()).hexdigest()


def read_record(folder: str | os.PathLike[str], defaults: CfgNode) -> Record:
    """What `write_record` wrote, merged into `defaults` (which stays as it is).

    Raises:
        UserError: a file is missing or damaged.
    """
    config, names = Path(folder, CONFIG_NAME), Path(folder, CLASSNAMES_NAME)
    for path in (config, names):
        if not path.is_file():
            found = found_instead(folder)
            raise MissingFileError(f"{folder} is not the folder of a trained model: it has no {path.name}; {found}")
    cfg = defaults.clone()
    _restore(cfg, _without_absent_methods(read_config(folder), defaults, config), config)
    return Record(cfg, read_classnames(folder))


def _without_absent_methods(tree: dict[str, Any], defaults: CfgNode, path: Path) -> dict[str, Any]:
    """Leave out the nodes of methods whose files are not here; a run of another method did not use them.

    Raises:
        UnknownNameError: the run's own method is not here.
    """
    methods = tree.get("TRAINER")
    if not isinstance(methods, dict):
        return tree
    absent = {key for key, value in methods.items() if isinstance(value, dict) and key not in defaults.TRAINER}
    name = str(methods.get("NAME"))
    if absent and name not in TRAINER_REGISTRY:
        raise UnknownNameError(
            f"{path}: there is no trainer {name} here: put its file into trainers/, or name its plug-in (--plugin)"
        )
    own = getattr(TRAINER_REGISTRY.get(name), "config_node", None) if absent else None
    if own not in methods:
        return tree
    return tree | {"TRAINER": {key: value for key, value in methods.items() if key not in absent}}


def _restore(node: CfgNode, tree: dict[str, Any], path: Path, prefix: str = "") -> None:
    """Put recorded values into `node` as they are; yacs' own merging would take the string "1" for a number."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in node and not node.is_new_allowed():
            raise UnknownKeyError(f"{path}: unknown config key {name}")
        default = node.get(key)
        if isinstance(default, CfgNode) != isinstance(value, dict):
            raise BadTypeError(f"{path}: config key {name} cannot be {value!r}")
        if isinstance(default, CfgNode):
            _restore(default, value, path, f"{name}.")
        else:
            node[key] = _of_type(default, value, f"{path}: config key {name}")


def _of_type(default: Any, value: Any, what: str) -> Any:
    """The value as a configuration holds it: YAML knows no tuples, and writes some floats like integers."""
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if default is not None and value is not None and type(value) is not type(default):
        raise BadTypeError(f"{what} should be {type_words(default)}, not {value!r}")
    return value


def refuse_backbone_of_the_folder(backbone: str, folder: str | os.PathLike[str]) -> None:
    """Check that a backbone that only the record names is not a file that may have come with the folder.

    Raises:
        UserError: it may be.
    """
    path = local_file(backbone)
    if path is not None and _lies_in(path, folder):
        raise UserError(
            f"{Path(folder, CONFIG_NAME)} names a backbone file in the same folder: if you trust this file, "
            f"add --backbone {shlex.quote(backbone)}"
        )


def _lies_in(path: str, folder: str | os.PathLike[str]) -> bool:
    """Whether a file lies below a folder, as its path is written or after links are followed."""
    try:
        resolved = Path(path).resolve(strict=True), Path(folder).resolve(strict=True)
    except (OSError, RuntimeError):  # links that cannot be followed to their end may lead anywhere
        return True
    written = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    return any(file.is_relative_to(where) for file, where in (resolved, written))
