"""Unpacking archives whose content is not trusted."""

from __future__ import annotations

import os
import tarfile
import zipfile

from .errors import UnreadableFileError


def unpack_archive(path: str, folder: str) -> None:
    """Unpack a tar (any compression) or zip file into ``folder``; entries that would leave it are refused.

    Raises UnreadableFileError, naming the archive.
    """
    try:
        if tarfile.is_tarfile(path):
            with tarfile.open(path) as archive:
                archive.extractall(folder, filter="data")  # refuses paths and links that lead outside, and devices
        elif zipfile.is_zipfile(path):
            _unpack_zip(path, folder)
        else:
            raise UnreadableFileError(f"{path} is neither a tar nor a zip archive (download broken off?)")
    except UnreadableFileError:
        raise
    except Exception as error:  # each compression has errors of its own; a full disk is an OSError
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableFileError(f"cannot unpack {path}: {reason[:300]}") from error


def _unpack_zip(path: str, folder: str) -> None:
    root = os.path.realpath(folder)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if os.path.commonpath([root, os.path.realpath(os.path.join(root, name))]) != root:
                raise ValueError(f"entry {name!r} lies outside the folder")
        archive.extractall(root)  # each name was checked above, and zipfile makes no links
