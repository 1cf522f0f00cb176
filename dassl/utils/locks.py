"""Locks that allow one writing process per folder.

The lock is the system's (`flock`): it is released when the process that holds it ends, even if it is killed. A
process that was started for a run inherits the lock of its parent.
"""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import UserError
from .files import StrPath, mkdir_if_missing
from .logger import LOG_NAME
from .numerals import whole_number

LOCK_NAME = ".lock"
"""Empty; keeps a second process out of the folder while one works there."""
ATTEMPTS = 100
ALREADY_AT_WORK = "another process is at work in"
"""How the message of a BusyError begins."""
INHERITED_LOCK = "RUN_LOCK_DESCRIPTOR"
"""Environment variable with the file descriptor of the lock that a child process inherits."""

_held: set[int] = set()


class BusyError(UserError):
    """Another process is working on the run."""


def lock(folder: StrPath) -> int:
    """File descriptor that holds the lock of a folder, which is created if missing.

    Raises:
        BusyError: another process holds it; its process number and computer are named.
        UserError: the folder cannot be written, or its file system does not support locks.
    """
    path = Path(folder, LOCK_NAME)
    for _ in range(ATTEMPTS):
        mkdir_if_missing(folder)
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # removed at this moment by `locked_while_writing` in another process
            continue
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror or error}") from error
        _take(descriptor, folder)
        if _is_lock_of(folder, descriptor):
            _sign(descriptor)
            return descriptor
        os.close(descriptor)  # another process removed the file in between: the lock has no effect
    raise UserError(f"cannot lock {path}: other processes keep removing it; try again")


def _take(descriptor: int, folder: StrPath) -> None:
    """Lock an open file; on failure close it and raise the errors of `lock`."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip()
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            who = f" ({holder})" if holder else ""
            raise BusyError(f"{ALREADY_AT_WORK} {folder}{who}: wait for its end, or use another folder") from error
        path = Path(folder, LOCK_NAME)
        raise UserError(
            f"cannot lock {path}: {error.strerror or error} (does the file system support locks?)"
        ) from error


@contextmanager
def locked(folder: StrPath) -> Iterator[None]:
    """Hold the lock of a run's folder. Nothing changes if this process has or inherited it already.

    A new folder is removed if a UserError occurs before the run has written more than its log.

    Raises:
        BusyError: another process holds it.
        UserError: the folder cannot be locked.
    """
    inherited = whole_number(os.environ.get(INHERITED_LOCK, ""))
    if inherited is not None and _is_lock_of(folder, inherited):
        os.set_inheritable(inherited, False)  # the run's own children do not need it
        _sign(inherited)
        _held.add(inherited)
    if any(_is_lock_of(folder, descriptor) for descriptor in _held):
        yield
        return
    with _new_lock(folder) as made:
        try:
            yield
        except UserError:
            _remove_unused(made)
            raise


@contextmanager
def locked_while_writing(folder: StrPath) -> Iterator[None]:
    """As `locked`, for a folder in which no lock file should stay.

    The file is removed before the lock is released. So is the folder, if it is new and empty. A killed process leaves
    the file, which does not stop the next process.

    Raises:
        BusyError: another process holds the lock.
        UserError: the folder cannot be locked.
    """
    with _new_lock(folder) as made:
        try:
            yield
        finally:
            with suppress(OSError):
                os.unlink(Path(folder, LOCK_NAME))
            _remove_unused(made)


@contextmanager
def _new_lock(folder: StrPath) -> Iterator[list[Path]]:
    """Take the lock and hold it. The block gets the folders that were made for it, the innermost first."""
    path = Path(os.path.abspath(folder))
    made = [each for each in (path, *path.parents) if not each.exists()]
    descriptor = lock(folder)
    _held.add(descriptor)
    try:
        yield made
    finally:
        _held.discard(descriptor)
        os.close(descriptor)


def _remove_unused(folders: list[Path]) -> None:
    """Remove new folders, the innermost first, if it contains only a log and the lock."""
    with suppress(OSError):  # another process uses it
        if not folders or {path.name for path in folders[0].iterdir()} - {LOG_NAME, LOCK_NAME}:
            return
        for name in (LOG_NAME, LOCK_NAME):
            (folders[0] / name).unlink(missing_ok=True)
        for folder in folders:
            folder.rmdir()


def _is_lock_of(folder: StrPath, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(Path(folder, LOCK_NAME)))
    except (OSError, OverflowError):  # OverflowError: the number is too large for a descriptor
        return False


def _sign(descriptor: int) -> None:
    """Write into the lock file which process holds the lock."""
    text = f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
    with suppress(OSError):  # the lock works on a full disk as well
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)


def _release_in_child() -> None:
    """Close the locks in a forked worker, which could outlive a killed run and keep its folder locked."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_release_in_child)
