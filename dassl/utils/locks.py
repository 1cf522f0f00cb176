"""Locks that allow one writing process per folder.

The lock is the system's (`flock`, by filelock): it is released when the process that holds it ends, even if it is
killed, and forked workers do not hold it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import UserError
from .files import StrPath, mkdir_if_missing
from .logger import LOG_NAME

LOCK_NAME = ".lock"
"""Names the process that works in the folder; keeps a second one out."""
ATTEMPTS = 100
ALREADY_AT_WORK = "another process is at work in"
"""How the message of a BusyError begins."""


class BusyError(UserError):
    """Another process is working on the run."""


def lock(folder: StrPath, again: bool = False, name: str = LOCK_NAME, wait: bool = False) -> FileLock:
    """The lock of a folder, taken. The folder is created if missing.

    Args:
        folder: where the lock file is.
        again: whether this process may take it several times; it then has to release it as often.
        name: of the lock file.
        wait: whether to wait for a process that holds it.

    Raises:
        BusyError: another process holds it; its process number and computer are named.
        UserError: the folder cannot be written, or its file system does not support locks.
    """
    path = Path(os.path.realpath(folder), name)  # the same for every way to write the folder
    for _ in range(ATTEMPTS):
        mkdir_if_missing(path.parent)
        taken = FileLock(path, timeout=0, is_singleton=again, on_acquired=_sign)
        try:
            _acquire(taken, path, wait)
            return taken
        except Timeout as error:
            who = _holder(path)
            raise BusyError(f"{ALREADY_AT_WORK} {folder}{who}: wait for its end, or use another folder") from error
        except FileNotFoundError:  # removed at this moment by `locked_while_writing` in another process
            continue
        except (OSError, NotImplementedError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"cannot lock {path}: {reason} (does the file system support locks?)") from error
    raise UserError(f"cannot lock {path}: other processes keep removing it; try again")


def _acquire(lock: FileLock, path: Path, wait: bool) -> None:
    try:
        lock.acquire()
    except Timeout:
        if not wait:
            raise
        print(f"Waiting for another process{_holder(path)}, which has {path}")
        lock.acquire(timeout=-1)


@contextmanager
def locked(folder: StrPath) -> Iterator[None]:
    """Hold the lock of a run's folder. Nothing changes if this process has it already.

    A new folder is removed if a UserError occurs before the run has written more than its log.

    Raises:
        BusyError: another process holds it.
        UserError: the folder cannot be locked.
    """
    made = _missing(folder)
    taken = lock(folder, again=True)
    try:
        yield
    except UserError:
        _remove_unused(made)
        raise
    finally:
        taken.release()


@contextmanager
def locked_while_writing(folder: StrPath, name: str = LOCK_NAME, wait: bool = False) -> Iterator[None]:
    """As `locked`, for a folder in which no lock file should stay. `name` and `wait` are those of `lock`.

    The file is removed before the lock is released. So is the folder, if it is new and empty. A killed process leaves
    the file, which does not stop the next process.

    Raises:
        BusyError: another process holds the lock.
        UserError: the folder cannot be locked.
    """
    made = _missing(folder)
    taken = lock(folder, name=name, wait=wait)
    try:
        yield
    finally:
        with suppress(OSError):
            Path(folder, name).unlink()
        _remove_unused(made)
        taken.release()


def _missing(folder: StrPath) -> list[Path]:
    """The folder and those above it that do not exist, the innermost first."""
    path = Path(folder).absolute()
    return [each for each in (path, *path.parents) if not each.exists()]


def _remove_unused(folders: list[Path]) -> None:
    """Remove new folders, the innermost first, if it contains only a log and the lock."""
    with suppress(OSError):  # another process uses it
        if not folders or {path.name for path in folders[0].iterdir()} - {LOG_NAME, LOCK_NAME}:
            return
        for name in (LOG_NAME, LOCK_NAME):
            (folders[0] / name).unlink(missing_ok=True)
        for folder in folders:
            folder.rmdir()


def _holder(path: Path) -> str:
    """Who holds a lock, in brackets; nothing if the file does not say it."""
    with suppress(OSError):
        if holder := path.read_text(errors="replace").strip():
            return f" ({holder})"
    return ""


def _sign(descriptor: int) -> None:
    """Write into the lock file which process holds the lock."""
    text = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
    with suppress(OSError):  # the lock works on a full disk as well
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
