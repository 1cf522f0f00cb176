"""Listing folders and reading small files, with errors that name them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from dassl.utils import MissingFileError, UnreadableFileError, files, images_below, is_image_name
from dassl.utils.files import StrPath
from datasets.layout.errors import BadDataError, MissingDataError


def require_folder(path: str, what: str) -> str:
    """Return `path` if it is a folder.

    Raises:
        MissingDataError: it is not a folder.
    """
    if not os.path.isdir(path):
        raise MissingDataError(f"{what} {path} is missing")
    return path


def class_folders(folder: str) -> list[str]:
    """Names of the visible subfolders, ascending; files are skipped."""
    require_folder(folder, "folder")
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    if not names:
        raise MissingDataError(f"{folder} has no class folders")
    return names


def image_names(folder: str) -> list[str]:
    """Names of the visible image files of a folder, ascending, so that draws do not depend on the file system."""
    names = os.listdir(require_folder(folder, "class folder"))
    return sorted(name for name in names if not name.startswith(".") and is_image_name(name))


def usable_images_below(folder: str) -> tuple[list[str], list[str]]:
    """As `dassl.utils.images_below`, without images whose name is not UTF-8: no split file could contain it."""
    images, others = images_below(folder)
    unusable = [path for path in images if not is_plain_text(os.path.basename(path))]
    return [path for path in images if is_plain_text(os.path.basename(path))], sorted(others + unusable)


def is_plain_text(text: str) -> bool:
    """Whether a string can name a file and be printed: no NUL, no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def left_out(paths: Sequence[str], folder: str) -> str:
    """A line about unused files and folders: the number of each kind and its first path."""
    kinds: dict[str, list[str]] = {}
    for path in paths:
        kinds.setdefault(_kind(path), []).append(os.path.relpath(path, folder))
    named = ", ".join(f"{len(found):,} {kind} (first {found[0]})" for kind, found in sorted(kinds.items()))
    return f"left out in {folder}: {named}"


def _kind(path: str) -> str:
    name = os.path.basename(path.rstrip(os.sep))
    if path.endswith(os.sep):
        return "hidden or linked folders" if name.startswith(".") or os.path.islink(path[:-1]) else "folders"
    if name.startswith("."):
        return "hidden files"
    if not is_plain_text(name):
        return "files with a name that is not UTF-8"
    suffix = os.path.splitext(name)[1]
    return f"*{suffix} files" if suffix else "files without a suffix"


def require_images(paths: Sequence[str], listed_in: StrPath) -> None:
    """Check that every image that `listed_in` names exists.

    Each folder is listed once; a query per file would be slow.

    Raises:
        MissingDataError: one does not.
    """
    present: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in present:
            present[folder] = set(os.listdir(folder)) if os.path.isdir(folder) else set()
        if name not in present[folder]:
            missing.append(path)
    if missing:
        raise MissingDataError(
            f"{len(missing):,} of {len(paths):,} images of {listed_in} are missing, first {missing[0]}", missing
        )


@contextmanager
def _as_data_error(path: StrPath) -> Iterator[None]:
    """Convert the core's errors about a file into data errors."""
    try:
        yield
    except MissingFileError:
        raise MissingDataError(f"file {path} is missing") from None
    except UnreadableFileError as error:
        raise BadDataError(str(error)) from None


def read_data_text(path: StrPath) -> str:
    """As `dassl.utils.files.read_text`.

    Raises:
        MissingDataError: there is no such file.
        BadDataError: it cannot be read or is not UTF-8.
    """
    with _as_data_error(path):
        return files.read_text(path)


def read_lines(path: StrPath) -> list[str]:
    """The lines of a text file without line ends (LF or CR LF) and surrounding blanks, without empty lines."""
    return [line.strip() for line in read_data_text(path).split("\n") if line.strip()]


def read_json_object(path: StrPath) -> dict[str, Any]:
    """The content of a JSON file with an object.

    Raises:
        MissingDataError: there is no such file.
        BadDataError: it is not valid JSON or not an object.
    """
    with _as_data_error(path):
        content = files.read_json(path)
    if not isinstance(content, dict):
        raise BadDataError(f"{path} should contain a JSON object, not a {type(content).__name__}")
    return content


def read_mat(path: StrPath, variable: str) -> Any:
    """The first row of a variable in a MATLAB file, the form of the VGG and Cars annotations."""
    from scipy.io import loadmat  # slow to import, and only needed without a split file

    with _as_data_error(path):
        files.read_bytes(path)
    try:
        return loadmat(path)[variable][0]
    except KeyError:
        raise BadDataError(f"{path} has no variable {variable!r}") from None
    except Exception as error:  # scipy raises many kinds of errors for damaged files
        raise BadDataError(f"{path} is not a readable MATLAB file ({error})") from None


def lookup(table: dict[str, Any], key: str, path: StrPath, what: str) -> Any:
    """`table[key]`.

    Raises:
        BadDataError: there is no such key; the file `path` is named.
    """
    if key not in table:
        raise BadDataError(f"{path} names the unknown {what} {key!r}")
    return table[key]
