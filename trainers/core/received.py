"""Run folders received from others: what a record in them may not decide alone."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from clip.clip import local_file
from dassl.utils import UserError
from trainers.core.record import CONFIG_NAME


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
