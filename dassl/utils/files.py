"""Files and folders: reading, listing, and atomic writing."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from .errors import BadValueError, MissingFileError, UnreadableFileError, UnwritableFileError

StrPath = str | os.PathLike
_UNFINISHED = ".tmp"
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def mkdir_if_missing(dirname: StrPath) -> None:
    """Create a folder and its parents.

    Raises:
        UnwritableFileError: the folder cannot be created.
    """
    try:
        os.makedirs(dirname, exist_ok=True)
    except OSError as error:
        raise UnwritableFileError(f"cannot create the folder {dirname}: {error.strerror or error}") from error


def check_isfile(fpath: StrPath) -> bool:
    """Whether `fpath` is a file; prints a line when it is not."""
    found = os.path.isfile(fpath)
    if not found:
        print(f'No file found at "{fpath}"')
    return found


def listdir_nohidden(path: StrPath, sort: bool = False) -> list[str]:
    """Names in a folder, without those that start with a dot.

    Raises:
        MissingFileError: there is no such folder.
    """
    try:
        items = [name for name in os.listdir(path) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingFileError(f"no such folder: {path}") from error
    return sorted(items) if sort else items


def file_digest(fpath: StrPath, algorithm: str) -> str:
    """Digest of a file's content in hexadecimal digits; `algorithm` is one of `hashlib`, such as md5."""
    with open(fpath, "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def file_sha256(fpath: StrPath) -> str:
    """SHA-256 of a file's content, in hexadecimal digits."""
    return file_digest(fpath, "sha256")


def file_sha256_if_any(fpath: StrPath) -> str | None:
    """SHA-256 of a regular file; None if the path is empty or there is no such file."""
    return file_sha256(fpath) if fpath and os.path.isfile(fpath) else None


def read_bytes(fpath: StrPath) -> bytes:
    """The content of a regular file.

    Raises:
        MissingFileError: there is no such file.
        UnreadableFileError: it is not a regular file or cannot be read.
    """
    try:
        # a FIFO or device might never end
        if not stat.S_ISREG(os.stat(fpath).st_mode):
            raise UnreadableFileError(f"cannot read {fpath}: it is not a regular file")
        return Path(fpath).read_bytes()
    except FileNotFoundError as error:
        raise MissingFileError(f"no such file: {fpath}") from error
    except UnreadableFileError:  # an OSError itself
        raise
    except (OSError, ValueError) as error:  # the latter for a NUL in the path
        raise UnreadableFileError(f"cannot read {fpath}: {getattr(error, 'strerror', None) or error}") from error


def read_text(fpath: StrPath) -> str:
    """The content of a UTF-8 text file; a byte order mark at its start is dropped.

    Raises:
        MissingFileError: there is no such file.
        UnreadableFileError: it cannot be read or is not UTF-8.
    """
    try:
        return read_bytes(fpath).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UnreadableFileError(f"cannot read {fpath}: it is not UTF-8 text (byte {error.start})") from error


def read_json(fpath: StrPath) -> Any:
    """The content of a JSON file, read as in `parse_json`.

    Raises:
        MissingFileError: there is no such file.
        UnreadableFileError: it cannot be read or is not valid JSON.
    """
    text = read_text(fpath)
    try:
        return parse_json(text)
    except (ValueError, RecursionError) as error:
        raise UnreadableFileError(f"{fpath} is not valid JSON: {error}") from error


def parse_json(text: str) -> Any:
    """The content of a JSON text.

    A key that occurs twice in one object, NaN and Infinity are refused: readers disagree about the first, and the
    others are not JSON.

    Raises:
        ValueError: the text is not valid JSON.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_object_without_repeats, parse_constant=_refuse_constant)


def _object_without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        repeated = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {repeated[:80]!r} occurs twice")
    return content


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it contains {name}")


def write_json(obj: Any, fpath: StrPath) -> None:
    """Write JSON (indent 4) atomically, creating the folder when it is missing.

    Raises:
        BadValueError: the content has NaN or an infinite number, which JSON does not support.
        UnwritableFileError: the file cannot be written.
    """
    try:
        text = json.dumps(obj, indent=4, separators=(",", ": "), allow_nan=False)
    except ValueError as error:
        raise BadValueError(f"cannot write {fpath}: NaN and infinite numbers are not JSON ({error})") from error
    write_text_atomically(fpath, text)


def write_text_atomically(fpath: StrPath, text: str, replace: bool = True) -> None:
    """As `write_bytes_atomically`, for UTF-8 text."""
    write_bytes_atomically(fpath, text.encode("utf-8"), replace)


def write_bytes_atomically(fpath: StrPath, data: bytes | memoryview, replace: bool = True) -> None:
    """Write `data` to `fpath` in one step: readers see the old file or the new one, never a part.

    Args:
        replace: whether an existing file is replaced. If not, it stays, and so does the file of another process that
            writes at the same time and is first.

    Raises:
        UnwritableFileError: disk full, no permission, ...; an existing file stays as it was.
    """
    folder = Path(os.path.abspath(fpath)).parent
    mkdir_if_missing(folder)
    temporary = None
    try:
        handle, name = tempfile.mkstemp(dir=folder, prefix=f".{Path(fpath).name}.", suffix=_UNFINISHED)
        temporary = Path(name)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~current_umask())  # mkstemp gives 0600, which would lock out a group
        if replace:
            temporary.replace(fpath)
        else:
            _link_unless_it_exists(temporary, fpath)
        _sync_folder(folder)
    except OSError as error:
        raise UnwritableFileError(f"cannot write {fpath}: {error.strerror or error}") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def _link_unless_it_exists(temporary: Path, fpath: StrPath) -> None:
    try:
        os.link(temporary, fpath)  # fails if the file exists, unlike a replacement
    except FileExistsError:
        return
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        temporary.replace(fpath)


def remove_unfinished_files(folder: StrPath) -> None:
    """Remove unfinished files of killed processes from `folder`. No other process may be writing there."""
    if os.path.isdir(folder):
        for path in Path(folder).iterdir():
            if path.name.startswith(".") and path.name.endswith(_UNFINISHED):
                with contextlib.suppress(OSError):
                    path.unlink()


def remove_folder_atomically(folder: StrPath) -> None:
    """Remove a folder with its content. A killed process leaves the whole folder or nothing under this name.

    Raises:
        UnwritableFileError: the folder cannot be removed.
    """
    full = Path(os.path.abspath(folder))
    doomed = full.with_name(f".{full.name}{_UNFINISHED}")
    try:
        if os.path.isdir(doomed):  # left by a process that was killed here
            shutil.rmtree(doomed)
        if os.path.isdir(folder):
            Path(folder).rename(doomed)
            shutil.rmtree(doomed)
    except OSError as error:
        raise UnwritableFileError(f"cannot remove {folder}: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    """Make a new name in `folder` survive a power failure, on file systems that support this."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def current_umask() -> int:
    """Permission bits that new files of this process do not get."""
    current = os.umask(0)
    os.umask(current)
    return current
