"""What a folder without the wanted checkpoint has instead, for error messages."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path

from dassl.utils.files import StrPath
from dassl.utils.names import listed
from dassl.utils.torchtools import BEST_NAME, checkpoint_name

from .run_record import has_record
from .unfinished_epoch import has_unfinished_epoch

SHOWN = 6
SEARCHED = 2000
"""Number of folders that are searched for runs."""


def found_instead(folder: StrPath) -> str:
    """A clause about the checkpoints in a folder, in the folders below it, or beside it if it does not exist."""
    path = Path(os.path.abspath(folder))
    if path.is_file():
        return f"{path} is a file; {found_instead(path.parent)}"
    if not path.is_dir():
        return f"{path} does not exist; {folders_beside(path)}"
    if files := _checkpoints(path):
        return f"{path} has {_names((str(file.relative_to(path)) for file in files), '', '')}"
    if _checkpoints(path.parent) and has_record(path.parent):
        return f"{path} belongs to the run in {path.parent}: give that folder"
    if has_unfinished_epoch(path):
        return f"{path} has an interrupted training: finish it with the command that began it"
    runs = sorted(str(run.relative_to(path)) for run in _runs_below(path))
    return f"{path} has {_names(runs, 'trained models in', 'no trained model')}"


def folders_beside(missing: StrPath) -> str:
    """A clause about the folders in the nearest existing parent of a missing folder."""
    parent = next(each for each in Path(os.path.abspath(missing)).parents if each.is_dir())
    return f"{parent} has {_names(_folders(parent), 'the folders', 'no folders')}"


def _names(names: Iterable[str], before: str, none: str) -> str:
    names = list(names)
    return f"{before} {listed(names, SHOWN)}".strip() if names else none


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []


def _checkpoints(run: Path) -> list[Path]:
    """The checkpoints in the folder of a run."""
    return sorted(file for pattern in (checkpoint_name("*"), BEST_NAME) for file in run.glob(f"*/{pattern}"))


def _runs_below(folder: Path) -> Iterable[Path]:
    """Folders of runs with checkpoints, those that are near first; they are not searched further."""
    waiting = deque([folder])
    for _ in range(SEARCHED):
        if not waiting:
            return
        for name in _folders(each := waiting.popleft()):
            inner = each / name
            if inner.is_symlink():
                continue
            if _checkpoints(inner):
                yield inner
            else:
                waiting.append(inner)
