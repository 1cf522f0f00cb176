"""Downloads: resumed after an interruption, verified, and under their final name only when complete."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .errors import MissingFileError, UnwritableFileError, one_line
from .files import StrPath, file_digest, mkdir_if_missing
from .progress import progress_bar

ATTEMPTS = 5
PAUSE = 2.0  # seconds before the next attempt
TIMEOUT = 60.0  # seconds without a byte
CHUNK = 1 << 16  # bytes; a broken connection loses one chunk at most


def download_url(url: str, dst: str, from_gdrive: bool = True) -> None:
    """Download `url` to the file `dst`.

    Args:
        from_gdrive: whether the address is one of Google Drive.

    Raises:
        MissingFileError: the file cannot be downloaded; the address is named.
        UnwritableFileError: the disk is full or the folder cannot be written.
    """
    print(f"Downloading {url} to {dst}")
    if from_gdrive:
        _fetch_with_gdown(os.path.abspath(dst), url, url=url)
    else:
        fetch_url(url, os.path.abspath(dst))


def fetch_url(url: str, path: StrPath, md5: str = "") -> None:
    """Download a file from a web server.

    Received bytes are kept in `<path>.part`, also between runs. The rest is requested with a range request; a
    server without ranges sends the file from the start.

    Args:
        path: absolute path of the new file.
        md5: of the file, if known.

    Raises:
        MissingFileError: the server does not send the file, the connection keeps failing, or the MD5 is wrong.
        UnwritableFileError: the disk is full or the folder cannot be written.
    """
    import requests  # slow to import

    part = _part_of(path)
    mkdir_if_missing(part.parent)
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE)
        try:
            if _fetch_rest(url, part):
                break
            reason = "the connection was lost"
        except requests.RequestException as error:
            reason = _reason(error)
        except (MissingFileError, UnwritableFileError):  # both are OSErrors
            raise
        except OSError as error:
            raise UnwritableFileError(f"cannot write {part}: {error.strerror or error}") from error
    else:
        received = _size(part)
        raise MissingFileError(f"cannot download {url}: {reason} ({received:,} bytes so far); run again to continue")
    if md5:
        _check_md5(part, md5, url)
    part.replace(path)


def _part_of(path: StrPath) -> Path:
    return Path(f"{path}.part")


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


def _check_md5(path: Path, expected: str, origin: str) -> None:
    """Remove `path` and raise MissingFileError if it is not the expected file."""
    found = file_digest(path, "md5")
    if found != expected:
        path.unlink()
        raise MissingFileError(f"{origin} gave a file with MD5 {found}, not {expected}; it was removed")


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

    part = _part_of(path)
    mkdir_if_missing(part.parent)
    reason = "Google Drive did not send it"
    try:
        received = gdown.download(**source, output=str(part), quiet=not sys.stderr.isatty(), resume=True)
    except Exception as error:  # gdown lets through whatever its libraries raise
        received, reason = None, _reason(error)
    if received is None:
        raise MissingFileError(f"cannot download {part.stem} from {page}: {reason}")
    part.replace(path)


def _reason(error: Exception) -> str:
    """One line; the messages of requests name internal objects that do not help a user."""
    import requests

    if isinstance(error, requests.ConnectionError) and error.request is not None:
        return f"no connection to {urlsplit(error.request.url).netloc}"
    return one_line(error)
