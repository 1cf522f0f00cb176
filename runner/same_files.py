"""Compares files in a configuration by content: a file at another path may have the same weights.

Of data and of what only a training reads, the path counts as well: paths in a CSV file are relative to it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from clip.clip import local_file
from dassl.config import Difference, leaves
from dassl.config.differences import BACKBONE_KEY, INIT_KEY, by_content
from dassl.engine import TRAINER_REGISTRY
from dassl.utils.errors import UnreadableFileError, UserError
from dassl.utils.files import file_sha256
from datasets import FILE_KEYS
from trainers.core.record import frozen_digest


def file_digests(config: dict[str, Any], trains: bool) -> dict[str, str]:
    """SHA-256 of the data's and the trainer's files, by the key that names each.

    Args:
        config: nested configuration.
        trains: whether to include files that only the training reads.

    Raises:
        UnreadableFileError: a file cannot be read.
    """
    names = dict(leaves(config))
    of_trainer = getattr(TRAINER_REGISTRY.get(names["TRAINER.NAME"]), "training_files", ())
    found = {key: _digest_if_any(names.get(key)) for key in (*FILE_KEYS, *(of_trainer if trains else ()))}
    return {key: digest for key, digest in found.items() if digest is not None}


def by_content_of_files(
    differences: Sequence[Difference],
    result: dict[str, Any],
    config: dict[str, Any],
    backbone_digest: Callable[[str], str | None],
    base: str = "",
) -> list[Difference]:
    """Differences between a result and a configuration, with all files that they name compared by content.

    Args:
        differences: of all keys, compared by value.
        result: content of result.json.
        config: the present configuration.
        backbone_digest: returns the SHA-256 of a backbone's file; called only if the result has one.
        base: folder that relative paths of the other files are below; "": the working folder.

    Raises:
        UnreadableFileError: a file cannot be read.
    """
    there, model, digests = result.get("full_config", {}), config["MODEL"], {}
    recorded, present = dict(leaves(there)), dict(leaves(config))
    for key, digest in (result.get("files_sha256") or {}).items():
        if key in present and present[key] == recorded.get(key):
            digests[key] = str(digest), _digest_if_any(present[key], base)
    if digest := result.get("weights_sha256"):
        name = model["BACKBONE"]["NAME"]
        own = frozen_digest(name, backbone_digest(name))
        digests[BACKBONE_KEY] = frozen_digest(str(recorded.get(BACKBONE_KEY)), str(digest)), own
    if digest := result.get("init_weights_sha256"):
        digests[INIT_KEY] = str(digest), _digest_if_any(model["INIT_WEIGHTS"], base)
    return by_content(differences, there, config, digests)


def without_files(differences: Sequence[Difference]) -> list[Difference]:
    """Differences without those between two file paths, which only the digests in checkpoints can decide."""
    files = {BACKBONE_KEY: local_backbone_digest, INIT_KEY: _digest_if_any}
    return [each for each in differences if each.key not in files or not (each.there and files[each.key](each.here))]


def local_backbone_digest(backbone: str) -> str | None:
    """SHA-256 of a backbone's file, if its name is a path; None for the name of a downloaded backbone."""
    try:
        return _digest_if_any(local_file(backbone))
    except UserError:
        return None


def _digest_if_any(path: str | None, base: str = "") -> str | None:
    """SHA-256 of a file; None if there is none. Cached for each state of it: a launch asks for all its runs."""
    path = os.path.join(base, os.path.expanduser(path)) if path else ""
    if not os.path.isfile(path):
        return None
    status = os.stat(path)
    return _cached_sha256(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _cached_sha256(path: str, modified: int, size: int) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise UnreadableFileError(f"cannot read {path}: {error.strerror or error}") from error
