"""Downloads: resumed after an interruption, verified, and under their final name only when complete."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .errors import MissingFileError, UnwritableFileError, one_line
from .files import StrPath, file_digest
from .locks import locked_while_writing
from .progress import progress_bar

ATTEMPTS = 5
PAUSE = 2.0  # seconds before the next attempt
TIMEOUT = 60.0  # seconds without a byte
CHUNK = 1 << 16  # bytes; a broken connection loses one chunk at most
_DIGESTS = {"MD5": "md5", "SHA-256": "sha256"}


def download_url(url: str, dst: str, from_gdrive: bool = True) -> None:
    """Download `url` to the file `dst`.

    Args:
        from_gdrive: whether the address is one of Google Drive.

    Raises:
        MissingFileError: the file cannot be downloaded; the address is named.
        UserError: the disk is full, or the folder cannot be written or locked.
    """
    print(f"Downloading {url} to {dst}")
    if from_gdrive:
        _fetch_with_gdown(os.path.abspath(dst), url, url=url)
    else:
        fetch_url(url, os.path.abspath(dst))


def fetch_url(url: str, path: StrPath, digest: str = "", kind: str = "MD5") -> None:
    """Download a file from a web server, unless `path` has the expected digest already.

    Received bytes are kept in `<path>.part`, also between runs. The rest is requested with a range request; a
    server without ranges sends the file from the start. A second process that wants the same file waits.

    Args:
        path: of the new file.
        digest: of the file in hexadecimal digits, if known.
        kind: of the digest, MD5 or SHA-256.

    Raises:
        MissingFileError: the server does not send the file, the connection keeps failing, or the digest is wrong.
        UserError: the disk is full, or the folder cannot be written or locked.
    """
    if _has_digest(path, digest, kind):
        return
    with _part_of(path) as part:
        if _has_digest(path, digest, kind):  # another process has fetched it
            return
        _fetch(url, part)
        if digest and (found := file_digest(part, _DIGESTS[kind])) != digest:
            part.unlink()
            raise MissingFileError(f"{url} gave a file with {kind} {found}, not {digest}; it was removed")
        _move(part, path)


def _move(part: Path, path: StrPath) -> None:
    """Give a complete file its name."""
    try:
        part.replace(path)
    except OSError as error:
        raise UnwritableFileError(f"cannot write {path}: {error.strerror or error}") from error


def _has_digest(path: StrPath, digest: str, kind: str) -> bool:
    return bool(digest) and os.path.isfile(path) and file_digest(path, _DIGESTS[kind]) == digest


@contextmanager
def _part_of(path: StrPath) -> Iterator[Path]:
    """The part file of a download, for this process alone."""
    part = Path(f"{path}.part")
    with locked_while_writing(part.parent, f"{part.name}.lock", wait=True):
        yield part


def _fetch(url: str, part: Path) -> None:
    """Append the missing bytes to `part`, with several attempts."""
    import requests  # slow to import

    reason, received = "", _size(part)
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE)
        try:
            if _fetch_rest(url, part):
                return
            reason = "the connection was lost"
        except requests.RequestException as error:
            reason = _reason(error)
            if isinstance(error, requests.ConnectionError) and not attempt and _size(part) == received:
                break  # there is no connection, so there is none to be lost
        except (MissingFileError, UnwritableFileError):  # both are OSErrors
            raise
        except OSError as error:
            raise UnwritableFileError(f"cannot write {part}: {error.strerror or error}") from error
    raise MissingFileError(f"cannot download {url}: {reason} ({_size(part):,} bytes so far); run again to continue")


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _fetch_rest(url: str, part: Path) -> bool:
    """Append the missing bytes to `part`; returns whether it is complete now, if the server reports its size."""
    import requests

    start = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            if response.headers.get("Content-Range", "").endswith(f"/{start}"):  # there is nothing after the part
                return True
            part.unlink()  # it is not a part of this file: start over
            return False
        if not response.ok:
            raise MissingFileError(
                f"cannot download {url}: the server answers {response.status_code} {response.reason}"
            )
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise MissingFileError(f"cannot download {url}: the address now serves a web page")
        resumed = response.status_code == requests.codes.partial_content
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            part.unlink()  # the server sends another range than requested: start over
            return False
        length = response.headers.get("Content-Length")
        rest = int(length) if length else None
        _check_space(part, rest, url)
        start = start if resumed else 0
        total = None if rest is None else start + rest
        with (
            open(part, "ab" if resumed else "wb") as file,
            progress_bar(desc=part.stem, initial=start, total=total, unit="B", unit_scale=True) as bar,
        ):
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        return total is None or part.stat().st_size == total


def _check_space(part: Path, needed: int | None, url: str) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed is not None and needed > free:
        raise UnwritableFileError(f"{url} needs {needed:,} bytes more, but {part.parent} has only {free:,} bytes free")


def fetch_drive(drive_id: str, path: StrPath) -> None:
    """Download a Google Drive file with gdown.

    Args:
        path: absolute path of the new file.

    Raises:
        MissingFileError: it cannot be downloaded; the page to open in a browser is named.
    """
    _fetch_with_gdown(path, f"https://drive.google.com/file/d/{drive_id}/view", id=drive_id)


def _fetch_with_gdown(path: StrPath, page: str, **source: Any) -> None:
    import gdown  # slow to import

    reason = "Google Drive did not send it"
    with _part_of(path) as part:
        try:
            received = gdown.download(**source, output=str(part), quiet=not sys.stderr.isatty(), resume=True)
        except Exception as error:  # gdown lets through whatever its libraries raise
            received, reason = None, _reason(error)
        if received is None:
            raise MissingFileError(f"cannot download {part.stem} from {page}: {reason}")
        _move(part, path)


def _reason(error: Exception) -> str:
    """One line; the messages of requests name internal objects that do not help a user."""
    import requests

    if isinstance(error, requests.ConnectionError) and error.request is not None:
        return f"no connection to {urlsplit(error.request.url).netloc}"
    return one_line(error)
