"""Downloading a file."""

from __future__ import annotations

import os
import urllib.error
import urllib.request

from .errors import UnreadableFileError
from .files import mkdir_if_missing
from .progress import progress_bar

_CHUNK = 1 << 20


def download_url(url: str, dst: str, from_gdrive: bool = True) -> None:
    """Download `url` to the file `dst`; a failed download leaves no file.

    Args:
        from_gdrive: the address is one of Google Drive (fetched with gdown).

    Raises UnreadableFileError, naming the address.
    """
    print(f"Downloading {url} to {dst}")
    mkdir_if_missing(os.path.dirname(os.path.abspath(dst)))
    partial = f"{dst}.part"
    fetch = _fetch_gdrive if from_gdrive else _fetch
    try:
        fetch(url, partial)
        os.replace(partial, dst)
    except (OSError, urllib.error.URLError, ValueError) as error:
        raise UnreadableFileError(f"cannot download {url}: {' '.join(str(error).split())}") from error
    finally:
        if os.path.exists(partial):
            os.unlink(partial)


def _fetch_gdrive(url: str, path: str) -> None:
    import gdown

    try:
        got = gdown.download(url, path, quiet=False)
    except gdown.exceptions.GDownException as error:
        raise OSError(f"{error}") from error
    if got is None:
        raise OSError("Google Drive did not hand out the file")


def _fetch(url: str, path: str) -> None:
    with urllib.request.urlopen(url, timeout=60) as response, open(path, "wb") as file:
        total = int(response.headers["Content-Length"]) if "Content-Length" in response.headers else None
        with progress_bar(total=total, unit="B", unit_scale=True, desc=os.path.basename(path)) as bar:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    if total is not None and os.path.getsize(path) != total:
        raise OSError(f"got {os.path.getsize(path)} of {total} bytes")
