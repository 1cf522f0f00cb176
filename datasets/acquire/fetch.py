"""Downloading a file: resumed where it broke off, verified, never half in place."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from urllib.parse import urlsplit

import requests

from dassl.utils import UserError
from dassl.utils.progress import progress_bar

ATTEMPTS = 5
PAUSE = 2.0  # seconds before the next attempt
TIMEOUT = 60.0  # seconds without a byte
CHUNK = 1 << 16  # what a broken connection loses at most


def fetch_url(url: str, path: str, md5: str = "") -> None:
    """Download `url` to `path`.

    What has arrived is kept in `path + ".part"`, also between runs, and the rest is asked for with a range request
    (from the start if the server knows no ranges).

    Raises:
        UserError: the address does not work, the connection keeps breaking off, the disk is full, or the MD5 is wrong.
    """
    part = path + ".part"
    os.makedirs(os.path.dirname(path), exist_ok=True)
    reason = ""
    for attempt in range(ATTEMPTS):
        if attempt:
            time.sleep(PAUSE)
        try:
            if _fetch_rest(url, part):
                break
            reason = "the connection broke off"
        except requests.RequestException as error:
            reason = _short(error)
    else:
        arrived = os.path.getsize(part) if os.path.exists(part) else 0
        raise UserError(f"cannot download {url}: {reason} ({arrived:,} bytes so far); run again to go on")
    if md5:
        check_md5(part, md5, url)
    os.replace(part, path)


def _fetch_rest(url: str, part: str) -> bool:
    """Append to `part` what is lacking; returns whether it is complete now, as far as the server says."""
    start = os.path.getsize(part) if os.path.exists(part) else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == requests.codes.requested_range_not_satisfiable:
            return _nothing_left(response, part, start)
        if not response.ok:
            raise UserError(f"cannot download {url}: the server answers {response.status_code} {response.reason}")
        if response.headers.get("Content-Type", "").startswith("text/html"):
            raise UserError(f"cannot download {url}: the address now serves a web page")
        resumed = response.status_code == requests.codes.partial_content
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
            os.remove(part)  # another range than the one asked for
            return False
        length = response.headers.get("Content-Length")
        rest = int(length) if length else None
        _check_space(part, rest, url)
        start = start if resumed else 0
        with (
            open(part, "ab" if resumed else "wb") as file,
            progress_bar(
                desc=os.path.basename(part).removesuffix(".part"),
                initial=start,
                total=None if rest is None else start + rest,
                unit="B",
                unit_scale=True,
            ) as bar,
        ):
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        return rest is None or os.path.getsize(part) == start + rest


def _nothing_left(response: requests.Response, part: str, start: int) -> bool:
    """Whether the answer "no such range" means that the file is complete; if not, begin anew."""
    if response.headers.get("Content-Range", "").endswith(f"/{start}"):
        return True
    os.remove(part)
    return False


def _check_space(part: str, needed: int | None, url: str) -> None:
    free = shutil.disk_usage(os.path.dirname(part)).free
    if needed is not None and needed > free:
        raise UserError(f"{url} has {needed:,} bytes to come, but {os.path.dirname(part)} has only {free:,} bytes free")


def fetch_drive(drive_id: str, path: str) -> None:
    """Download a Google Drive file with gdown.

    Raises:
        UserError: naming the page to open in a browser.
    """
    import gdown  # slow to import

    os.makedirs(os.path.dirname(path), exist_ok=True)
    part = path + ".part"
    try:
        got = gdown.download(id=drive_id, output=part, quiet=not sys.stderr.isatty(), resume=True)
    except Exception as error:  # gdown lets through whatever its libraries raise
        got, reason = None, _short(error)
    else:
        reason = "Google Drive did not hand it out"
    if got is None:
        page = f"https://drive.google.com/file/d/{drive_id}/view"
        raise UserError(f"cannot download {os.path.basename(path)} from {page}: {reason}")
    os.replace(part, path)


def check_md5(path: str, expected: str, origin: str) -> None:
    """Remove `path` and raise `UserError` if it is not the expected file."""
    found = md5_of(path)
    if found != expected:
        os.remove(path)
        raise UserError(f"{origin} gave a file with MD5 {found}, not {expected}; it was removed")


def md5_of(path: str) -> str:
    """The MD5 sum of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _short(error: Exception) -> str:
    """One line; the long ones of requests name objects that say nothing to a user."""
    if isinstance(error, requests.ConnectionError) and error.request is not None:
        return f"no connection to {urlsplit(error.request.url).netloc}"
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "..."
