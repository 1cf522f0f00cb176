"""Compares files in a configuration by content: a file at another path may have the same weights."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from clip.clip import local_file
from dassl.config import Difference, leaves
from dassl.config.differences import BACKBONE_KEY, INIT_KEY, by_content
from dassl.utils.errors import UserError
from dassl.utils.files import file_sha256, file_sha256_if_any
from trainers.core.record import frozen_digest


def by_content_of_files(
    differences: Sequence[Difference],
    result: dict[str, Any],
    config: dict[str, Any],
    backbone_digest: Callable[[str], str | None],
) -> list[Difference]:
    """Differences between a result and a configuration, with backbone and start values compared by their files.

    Args:
        differences: of all keys, compared by value.
        result: content of result.json.
        config: the present configuration.
        backbone_digest: returns the SHA-256 of a backbone's file; called only if the result has one.
    """
    there, model, digests = result.get("full_config", {}), config["MODEL"], {}
    if digest := result.get("weights_sha256"):
        name, recorded = model["BACKBONE"]["NAME"], str(dict(leaves(there)).get(BACKBONE_KEY))
        digests[BACKBONE_KEY] = frozen_digest(recorded, str(digest)), frozen_digest(name, backbone_digest(name))
    if digest := result.get("init_weights_sha256"):
        digests[INIT_KEY] = str(digest), file_sha256_if_any(model["INIT_WEIGHTS"])
    return by_content(differences, there, config, digests)


def without_files(differences: Sequence[Difference]) -> list[Difference]:
    """Differences without those between two file paths, which only the digests in checkpoints can decide."""
    files = {BACKBONE_KEY: local_backbone_digest, INIT_KEY: file_sha256_if_any}
    return [each for each in differences if each.key not in files or not (each.there and files[each.key](each.here))]


def local_backbone_digest(backbone: str) -> str | None:
    """SHA-256 of a backbone's file, if its name is a path; None for the name of a downloaded backbone.

    Cached for each state of the file, because a launch asks for all its runs.
    """
    try:
        path = local_file(backbone)
    except UserError:
        return None
    if path is None:
        return None
    status = os.stat(path)
    return _cached_sha256(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=64)
def _cached_sha256(path: str, modified: int, size: int) -> str:
    return file_sha256(path)
