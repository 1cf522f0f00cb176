"""Prepares a data set: download, unpack, arrange, check. What exists is kept."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dassl.utils import UnreadableFileError, UserError, file_digest
from dassl.utils.downloads import fetch_drive, fetch_url
from dassl.utils.locks import locked_while_writing
from datasets.acquire.check import print_report
from datasets.acquire.install import install
from datasets.acquire.names import expected_counts, readers
from datasets.layout.sources import CLASSNAMES, Download, Piece


class PrepareOptions(NamedTuple):
    """Sources and targets of the files.

    Attributes:
        root: the data folder.
        from_dir: a folder with archives that the user has, or "".
        mirror: an address below which all files have their own names, or "".
        any_hash: accept archives from `from_dir` with another MD5 (for instance repacked ones).
        keep_archives: do not remove downloaded archives.
    """

    root: str
    from_dir: str = ""
    mirror: str = ""
    any_hash: bool = False
    keep_archives: bool = False

    @property
    def downloads(self) -> Path:
        return Path(self.root, ".downloads")


def prepare(name: str, options: PrepareOptions) -> bool:
    """Install a data set and check it; returns whether it is valid.

    Raises:
        BusyError: another process is preparing this data set.
        UserError: a file could not be downloaded; the files to download by hand are named.
    """
    cls = readers()[name]
    folder = Path(options.root, cls.dataset_dir)
    if cls.generated:
        from shapes_world.generate import generate

        generate(options.root, [name])
    else:
        with locked_while_writing(folder):  # two downloads would append to the same file
            missing = [piece for piece in cls.pieces if not _in_place(piece, folder, options)]
        if missing:
            raise UserError(f"{name}: {_by_hand(missing, name, options.root)}")
    return print_report(cls.at(str(folder)), fast=True, counts=expected_counts(name))


def _in_place(piece: Piece, folder: Path, options: PrepareOptions) -> bool:
    """Install one piece unless it exists; returns whether it exists now, and prints the reason if not."""
    try:
        if not (folder / piece.provides).exists():
            _place(piece, folder, options)
        return True
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
    except OSError as error:
        print(f"error: cannot write {error.filename or folder}: {error.strerror or error}", file=sys.stderr)
    return False


def _place(piece: Piece, folder: Path, options: PrepareOptions) -> None:
    """Install one piece from the first source that has it.

    Raises:
        UserError: no source has it; the reason of the last one.
    """
    if _copy_classnames(piece, folder, options.root):
        return
    for source in piece.sources:
        path = _own_copy(source, options)
        if path:
            install(source, path, piece, folder)
            return
    error = UserError(f"{piece.provides}: {piece.sources[0].by_hand}")
    for source in piece.sources:
        if not (source.url or source.drive_id or options.mirror):
            continue
        try:
            _download(source, options)
            install(source, options.downloads / source.file, piece, folder)
            _clean_up(source, options.downloads, options.keep_archives)
            return
        except UnreadableFileError as unreadable:  # a later run must not find the damaged file
            _clean_up(source, options.downloads, keep=False)
            error = unreadable
        except UserError as failed:
            error = failed
        if source is not piece.sources[-1]:
            print(f"{error}; trying another source")
    raise error


def _copy_classnames(piece: Piece, folder: Path, root: str) -> bool:
    """Copy the class names of ImageNet, which several data sets share, from another data set's folder."""
    if piece != CLASSNAMES:
        return False
    sharing = [cls.dataset_dir for cls in readers().values() if piece in cls.pieces]
    copies = [Path(root, other, piece.provides) for other in sharing]
    copy = next((path for path in copies if os.path.isfile(path)), None)
    if copy:
        install(Download(piece.provides), copy, piece, folder)
    return copy is not None


def _own_copy(source: Download, options: PrepareOptions) -> str | None:
    """Path of the source's file in the user's folder; None if it is not there."""
    path = os.path.join(options.from_dir, source.file) if options.from_dir else ""
    if not os.path.isfile(path):
        return None
    if source.md5 and not options.any_hash and file_digest(path, "md5") != source.md5:
        raise UserError(f"{path} does not have the MD5 {source.md5}; download it again, or add --any-hash")
    return path


def _files(source: Download) -> list[str]:
    return [source.file, source.companion] if source.companion else [source.file]


def _download(source: Download, options: PrepareOptions) -> None:
    """Download the files of a source, unless an earlier run kept them."""
    for file in _files(source):
        path = options.downloads / file
        if path.is_file():
            continue
        print(f"Downloading {file}")
        if options.mirror:
            fetch_url(f"{options.mirror.rstrip('/')}/{file}", path, source.md5 if file == source.file else "")
        elif source.url:
            fetch_url(source.url, path, source.md5)
        else:
            fetch_drive(source.drive_id, path)


def _clean_up(source: Download, downloads: Path, keep: bool) -> None:
    """Remove the downloaded files of a source, and the folder when it is empty."""
    if keep:
        return
    for file in _files(source):
        (downloads / file).unlink()
    if not any(downloads.iterdir()):
        downloads.rmdir()


def _by_hand(pieces: Sequence[Piece], name: str, root: str) -> str:
    """Instructions for a manual download."""
    files = [" or ".join(" and ".join(_files(source)) for source in piece.sources) for piece in pieces]
    command = f"python -m datasets.prepare {name} --root {shlex.quote(root)} --from-dir FOLDER"
    return f"download by hand: {', '.join(files)} (addresses: --list); put them into a FOLDER and run: {command}"
