"""Installing the content of an archive: unpacked into a temporary folder, then moved into place."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from dassl.utils import UserError, one_line
from dassl.utils.archives import require_plain_tree, unpack_archive
from dassl.utils.files import StrPath
from datasets.layout.sources import Download, Piece


def install(source: Download, path: StrPath, piece: Piece, folder: Path) -> None:
    """Install the content of the file `path` in the data set's `folder`; `piece.provides` comes last.

    Raises:
        UserError: the archive is damaged, has other content, or has paths that lead out of the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # inside `folder`, so that its content can be moved by renaming
    with tempfile.TemporaryDirectory(prefix=".prepare-", dir=folder, ignore_cleanup_errors=True) as stage:
        print(f"Unpacking {path}" if source.moves or source.imagenet else f"Copying {path}")
        if source.imagenet:
            arrange_imagenet(source, path, stage)
            moves = ((source.imagenet, piece.provides),)
        elif source.moves:
            unpack_archive(path, stage)
            if source.inner:
                inner = _inside(stage, source.inner, path)
                unpack_archive(inner, inner.parent)
                inner.unlink()
            moves = source.moves
        else:
            shutil.copyfile(path, Path(stage, source.file))
            moves = ((source.file, piece.provides),)
        require_plain_tree(stage)  # torchvision may have unpacked it
        pairs = [pair for inside, to in moves for pair in _pairs(_inside(stage, inside, path), to)]
        if piece.provides not in [to for _, to in pairs]:
            raise UserError(f"{path} does not contain {piece.provides}")
        for origin, to in sorted(pairs, key=lambda pair: pair[1] == piece.provides):
            _move(origin, folder / to)


def _inside(stage: str, inside: str, archive: StrPath) -> Path:
    path = Path(stage, inside)
    if not path.exists():
        raise UserError(f"{archive} does not contain {inside}")
    return path


def _pairs(origin: Path, to: str) -> list[tuple[Path, str]]:
    """(what to move, where to); for ".", everything in the folder `origin`."""
    if to != ".":
        return [(origin, to)]
    return [(path, path.name) for path in sorted(origin.iterdir())]


def _move(origin: Path, target: Path) -> None:
    """Move unless the target exists already (from an interrupted run or from the user)."""
    if os.path.lexists(target):
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    origin.rename(target)


def arrange_imagenet(source: Download, path: StrPath, stage: str) -> None:
    """Unpack ImageNet's train or val archive into `stage/train` or `stage/val`, one folder per wnid.

    torchvision does the work; it also verifies the MD5 sums.
    """
    from torchvision.datasets import imagenet

    try:
        if source.imagenet == "train":
            imagenet.parse_train_archive(stage, file=str(path))
        else:
            imagenet.parse_devkit_archive(stage, file=str(Path(path).with_name(source.companion)))
            imagenet.parse_val_archive(stage, file=str(path))
    except RuntimeError as error:  # absent or with a wrong MD5 sum
        raise UserError(one_line(error, 1000)) from None
