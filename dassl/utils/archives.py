"""Unpacking archives whose content is not trusted.

Only regular files and folders are created, one by one, below the target folder. The filters of Python's `tarfile` are
not used: paths beyond the system's maximum length deceive their check of links.
"""

from __future__ import annotations

import bz2
import errno
import gzip
import io
import lzma
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

from .errors import UnreadableFileError, UnwritableFileError, one_line
from .files import StrPath

MAX_RATIO = 100
"""Largest unpacked size per byte of an archive. Images are compressed already; annotations shrink tenfold."""
MIN_LIMIT = 64 << 20
"""Unpacked bytes that are allowed for archives of any size."""
MAX_NAME_BYTES, MAX_PATH_BYTES, MAX_DEPTH = 255, 1024, 32
"""Limits of an entry: bytes of a name, bytes of the whole path, number of folders."""
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)
_CHUNK = 1 << 20
_BLOCK = 512
_COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}


class _Entry(NamedTuple):
    name: str
    size: int
    kind: str
    """ "file", "folder", or another kind; entries of other kinds are skipped."""
    open: Callable[[], IO[bytes]]


def unpack_archive(path: StrPath, folder: StrPath) -> None:
    """Unpack the files and folders of a tar (gzip, bzip2, xz or plain) or zip file into `folder`.

    Links, devices, other special entries and names with control characters are skipped; one printed line names the
    first. Permissions are those of new files. An existing file is replaced.

    Raises:
        UnreadableFileError: the archive is damaged, a name leads out of the folder or is too long, or the unpacked
            size is out of proportion; the archive is named.
        UnwritableFileError: the disk is full or the folder cannot be written.
    """
    try:
        entries = _entries(path)
        if entries is None:
            raise UnreadableFileError(f"{path} is neither a tar nor a zip archive (incomplete download?)")
        skipped = _unpack(entries, Path(path).stat().st_size, folder)
    except (UnreadableFileError, UnwritableFileError):
        raise
    except Exception as error:  # each compression library raises its own errors
        if isinstance(error, OSError) and error.errno in _UNWRITABLE:
            raise UnwritableFileError(f"cannot unpack {path} into {folder}: {error.strerror}") from error
        raise UnreadableFileError(f"cannot unpack {path}: {one_line(error, 300)}") from error
    if skipped:
        print(f"{path}: entries skipped (links, devices, unprintable names): {len(skipped):,}, first {skipped[0]}")


def require_plain_tree(folder: str) -> None:
    """Check that everything below `folder` is a folder or a regular file without hard links.

    Raises:
        UnreadableFileError: something is not.
    """
    for here, folders, files in os.walk(folder):
        for name in (*folders, *files):
            status = os.lstat(os.path.join(here, name))
            plain = stat.S_ISDIR(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink == 1)
            if not plain:
                raise UnreadableFileError(
                    f"{os.path.join(here, name)} is neither a file nor a folder: the archive is not used"
                )


def _unpack(entries: Iterator[_Entry], archive_size: int, folder: StrPath) -> list[str]:
    """Returns a description of each skipped entry."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    allowed = MAX_RATIO * archive_size + MIN_LIMIT
    free = shutil.disk_usage(folder).free
    total, skipped, made = 0, [], {""}
    for entry in entries:
        # checked before writing; a block per entry limits archives of many empty files
        total += _BLOCK + (entry.size if entry.kind == "file" else 0)
        if total > allowed:
            raise ValueError(f"it unpacks to more than {MAX_RATIO} times its size")
        if total > free:
            raise UnwritableFileError(f"cannot unpack into {folder}: only {free:,} bytes are free")
        if entry.kind not in ("file", "folder") or not entry.name.isprintable():
            skipped.append(f"{entry.name[:200]!r} ({entry.kind})")
            continue
        parts = _safe_parts(entry.name)
        _make_folders(folder, parts if entry.kind == "folder" else parts[:-1], made)
        if entry.kind == "file":
            if not parts:
                raise ValueError("a file without a name")
            _write(entry, os.path.join(folder, *parts))
    return skipped


def _safe_parts(name: str) -> list[str]:
    """Folders and name of an entry.

    Raises:
        ValueError: it is not a plain relative path, or too long.
    """
    shown = repr(name if len(name) <= 100 else f"{name[:100]}...")
    if "\\" in name or name.startswith("/") or name[1:2] == ":":
        raise ValueError(f"entry {shown} is not a plain relative path")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise ValueError(f"entry {shown} leads out of its folder")
    if any(len(os.fsencode(part)) > MAX_NAME_BYTES for part in parts) or len(os.fsencode(name)) > MAX_PATH_BYTES:
        raise ValueError(f"entry {shown} has a name that is too long")
    if len(parts) > MAX_DEPTH:
        raise ValueError(f"entry {shown} is nested in more than {MAX_DEPTH} folders")
    return parts


def _make_folders(folder: StrPath, parts: list[str], made: set[str]) -> None:
    """Create the nested folders `parts`. Whatever exists already must be a folder, not a link to one."""
    inside = ""
    for part in parts:
        inside = os.path.join(inside, part)
        if inside in made:
            continue
        place = os.path.join(folder, inside)
        try:
            os.mkdir(place)
        except FileExistsError:
            # lstat: a link to a folder would lead out of the target folder
            if not stat.S_ISDIR(os.lstat(place).st_mode):
                raise ValueError(f"{place} is not a folder") from None
        made.add(inside)


def _write(entry: _Entry, target: str) -> None:
    """Write the entry's content to a new file. An existing file or link is removed first, never written to."""
    if os.path.lexists(target):
        os.unlink(target)
    with entry.open() as source, open(target, "xb") as file:
        left = entry.size  # the checked size is the limit, even if the entry has more content
        while left:
            chunk = source.read(min(left, _CHUNK))
            if not chunk:
                raise ValueError(f"entry {entry.name[:200]!r} is incomplete")
            file.write(chunk)
            left -= len(chunk)


def _entries(path: StrPath) -> Iterator[_Entry] | None:
    """The entries of an archive in their order; None for a file of another kind."""
    try:
        return _tar_entries(*_open_tar(path))
    except tarfile.ReadError:
        return _zip_entries(zipfile.ZipFile(path)) if zipfile.is_zipfile(path) else None


class _Limited(io.RawIOBase):
    """A seekable stream with limits for the size of a read and for the position.

    `tarfile` reads an extended header at once, with the size that the header states.
    """

    def __init__(self, file: IO[bytes], limit: int) -> None:
        self._file, self._limit = file, limit

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _CHUNK:
            raise ValueError(f"a header of {size:,} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        if whence != os.SEEK_SET or offset > self._limit:
            raise ValueError(f"it unpacks to more than {MAX_RATIO} times its size")
        return self._file.seek(offset)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()
        super().close()


def _open_tar(path: StrPath) -> tuple[_Limited, tarfile.TarFile]:
    """The unpacked stream and the archive in it.

    Raises:
        tarfile.ReadError: the file is not a tar archive.
    """
    with open(path, "rb") as file:
        start = file.read(6)
    opener = next((opener for magic, opener in _COMPRESSED.items() if start.startswith(magic)), open)
    stream = _Limited(opener(path, "rb"), MAX_RATIO * Path(path).stat().st_size + MIN_LIMIT)
    try:
        return stream, tarfile.open(fileobj=stream, mode="r:")
    except BaseException:
        stream.close()
        raise


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(member)
    assert content is not None, "only regular files are opened"
    return content


def _tar_entries(stream: _Limited, archive: tarfile.TarFile) -> Iterator[_Entry]:
    with archive, stream:
        for member in archive:
            yield _Entry(member.name, member.size, _tar_kind(member), lambda member=member: _content(archive, member))
            archive.members = []  # pyright: ignore[reportAttributeAccessIssue] - tarfile keeps them all; not in its stubs
        # tarfile treats a damaged or missing header as the end of the archive; a real end is a block of zeros
        stream.seek(archive.offset)
        end = stream.read(_BLOCK)
        if end.strip(b"\0"):
            raise ValueError(f"the header at byte {archive.offset:,} is damaged")
        if len(end) < _BLOCK:
            raise ValueError("it ends without the mark of an archive's end (incomplete download?)")


def _tar_kind(member: tarfile.TarInfo) -> str:
    if member.isdir():
        return "folder"
    if member.isreg() and not member.issparse():
        return "file"
    kinds = {"link": member.issym(), "hard link": member.islnk(), "FIFO": member.isfifo(), "sparse": member.issparse()}
    return next((kind for kind, fits in kinds.items() if fits), "device")


def _zip_entries(archive: zipfile.ZipFile) -> Iterator[_Entry]:
    with archive:
        for entry in archive.infolist():
            name = entry.orig_filename  # `filename` ends at a null character
            yield _Entry(name, entry.file_size, _zip_kind(entry), lambda entry=entry: archive.open(entry))


def _zip_kind(entry: zipfile.ZipInfo) -> str:
    """The kind of an entry, from the file mode if the archive was made under Unix."""
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind in (0, stat.S_IFREG, stat.S_IFDIR):
        return "folder" if entry.is_dir() else "file"
    return {stat.S_IFLNK: "link", stat.S_IFIFO: "FIFO"}.get(kind, "device")
