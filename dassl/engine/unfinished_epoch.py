"""The checkpoint within an epoch: one file for all models, beside the folders of their checkpoints.

It is written at intervals and when a run is asked to stop, and removed when the checkpoint of an epoch is written. Only
a resumed training reads it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from dassl.utils.errors import UnreadableFileError, one_line
from dassl.utils.files import StrPath, remove_unfinished_files
from dassl.utils.meters import MetricMeter
from dassl.utils.torchtools import load_checkpoint, raw_bytes, save_atomically

FOLDER = "unfinished_epoch"
FILE_NAME = "state.pth.tar"
"""In `unfinished_epoch/`: the state of a run within an epoch; the epoch's checkpoint replaces it."""
LARGEST_SHARE = 0.02
"""Of the time between two such checkpoints, for writing one."""

_KINDS: dict[str, type] = {
    "epoch": int,
    "batches": int,
    "models": dict,
    "training_state": dict,
    "position": dict,
    "averages": dict,
    "seconds": float,
}
_DIGEST = "sha256"
"""Key of the digest of everything else in the file: no part of it can be changed alone."""


def unfinished_epoch_path(folder: StrPath) -> str:
    """The file in the folder of a run."""
    return os.path.join(folder, FOLDER, FILE_NAME)


def has_unfinished_epoch(folder: StrPath) -> bool:
    """Whether a run's folder has the file."""
    return os.path.isfile(unfinished_epoch_path(folder))


def write_unfinished_epoch(folder: StrPath, content: Mapping[str, Any]) -> str:
    """Write the file into the folder of a run; returns its path.

    Args:
        content: `epoch` (completed ones), `batches` (of the next), `models` (their checkpoints by name),
            `training_state`, `position` (of the loader; empty between epochs), `averages`, `seconds`, and the record
            of the run.
    """
    path = unfinished_epoch_path(folder)
    save_atomically({**content, _DIGEST: content_digest(content)}, path)
    return path


def read_unfinished_epoch(folder: StrPath) -> dict[str, Any] | None:
    """The content of the file in the folder of a run; None: there is no file.

    Raises:
        UnreadableFileError: the file is damaged.
    """
    path = unfinished_epoch_path(folder)
    if not os.path.lexists(path):
        return None
    try:
        if not os.path.isfile(path):
            raise UnreadableFileError(f"{path} is not a file")
        content = load_checkpoint(path)
        _check_content(content, path)
    except UnreadableFileError as error:
        raise UnreadableFileError(f"{error}: delete it to continue from the last epoch") from error
    return content


def _check_content(content: dict[str, Any], path: str) -> None:
    """Check the parts of the file and their digest, which is removed; and that they agree about epoch and batches.

    Raises:
        UnreadableFileError: a part is missing or damaged, or the parts do not agree.
    """
    for key, kind in _KINDS.items():
        if not isinstance(content.get(key), kind):
            raise UnreadableFileError(f'{path} is damaged: "{key}" is missing or not a {kind.__name__}')
    recorded = content.pop(_DIGEST, None)
    try:
        is_whole = recorded == content_digest(content)
    except (RuntimeError, TypeError) as error:  # lists that contain themselves, tensors without values
        raise UnreadableFileError(f"{path} is damaged ({one_line(error)})") from error
    if not is_whole:
        raise UnreadableFileError(f"{path} is damaged or was edited: its content does not match its digest")
    epoch, batches = content["epoch"], content["batches"]
    models, position = content["models"].values(), content["position"]
    counts_fit = not isinstance(epoch, bool) and not isinstance(batches, bool) and epoch >= 0 and batches >= 0
    models_fit = all(isinstance(model, dict) and model.get("epoch") == epoch for model in models)
    position_fits = not batches or position.get("batches") == batches
    if not (counts_fit and models_fit and position_fits):
        raise UnreadableFileError(f"{path} is damaged: its parts are not from one step")


def content_digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of nested dictionaries, lists, numbers, texts and tensors."""
    digest = hashlib.sha256()
    for piece in _pieces(content):
        digest.update(piece)
    return digest.hexdigest()


def _pieces(value: Any) -> Iterator[bytes | memoryview]:
    """The bytes of a value. Objects of other classes count by their place alone: they are not read from a file."""
    if isinstance(value, torch.Tensor):
        yield f"tensor {value.dtype} {tuple(value.shape)}\n".encode()
        yield raw_bytes(value)
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)}\n".encode()
        for key, each in value.items():
            yield from _pieces(key)
            yield from _pieces(each)
    elif isinstance(value, list | tuple):
        yield f"list {len(value)}\n".encode()
        for each in value:
            yield from _pieces(each)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield f"int {value:x}\n".encode()
    else:
        kind = next((kind for kind in (bool, float, str) if isinstance(value, kind)), None)
        shown = "None" if value is None else "object" if kind is None else f"{kind.__name__} {kind(value)!r}"
        yield f"{shown}\n".encode(errors="surrogatepass")


def remove_unfinished_epoch(folder: StrPath) -> None:
    """Remove the file and its folder, and what a killed process left of them."""
    place = Path(folder, FOLDER)
    if not place.is_dir():
        return
    remove_unfinished_files(place)
    (place / FILE_NAME).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there is something else in it
        place.rmdir()


class Timer:
    """When the next checkpoint within an epoch is due.

    Args:
        seconds: time between two of them, 0 for none. It is longer where writing takes longer than `LARGEST_SHARE`
            of it.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._interval = seconds
        self._last = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the time is over."""
        return self._seconds > 0 and time.monotonic() - self._last >= self._interval

    def restart(self, spent: float = 0.0) -> None:
        """Count from now.

        Args:
            spent: seconds that writing took.
        """
        self._last = time.monotonic()
        self._interval = max(self._seconds, spent / LARGEST_SHARE)


def plain_averages(meter: MetricMeter) -> dict[str, list[float]]:
    """Sum, number and last value of each metric, as numbers for a checkpoint."""
    return {name: [float(each.sum), each.count, float(each.val)] for name, each in meter.meters.items()}


def averages_of(plain: Mapping[str, Any]) -> MetricMeter:
    """The meter that `plain_averages` described.

    Raises:
        TypeError, ValueError, OverflowError: it is damaged.
    """
    meter = MetricMeter()
    for name, (total, count, last) in plain.items():
        if not isinstance(name, str):
            raise TypeError(f"{name!r} is not the name of a metric")
        each = meter.meters[name]
        each.sum, each.count, each.val = float(total), int(count), float(last)
        each.avg = each.sum / each.count if each.count else 0.0
    return meter
