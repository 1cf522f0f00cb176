"""The checkpoint within an epoch: one file for all models, beside the folders of their checkpoints.

It is written at intervals and when a run is asked to stop, and removed when the checkpoint of an epoch is written. Only
a resumed training reads it.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dassl.utils.errors import UnreadableFileError
from dassl.utils.files import StrPath, remove_unfinished_files
from dassl.utils.meters import MetricMeter
from dassl.utils.torchtools import load_checkpoint, write_checkpoint_file

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
    write_checkpoint_file(content, path)
    return path


def read_unfinished_epoch(folder: StrPath) -> dict[str, Any] | None:
    """The content of the file in the folder of a run; None: there is no file.

    Raises:
        UnreadableFileError: the file is damaged.
    """
    path, remedy = unfinished_epoch_path(folder), "delete it to continue from the last epoch"
    if not os.path.isfile(path):
        return None
    try:
        content = load_checkpoint(path)
    except UnreadableFileError as error:
        raise UnreadableFileError(f"{error}: {remedy}") from error
    for key, kind in _KINDS.items():
        if not isinstance(content.get(key), kind):
            raise UnreadableFileError(f'{path} is damaged: "{key}" is missing or not a {kind.__name__}: {remedy}')
    return content


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
        TypeError, ValueError: it is damaged.
    """
    meter = MetricMeter()
    for name, (total, count, last) in plain.items():
        each = meter.meters[name]
        each.sum, each.count, each.val = float(total), int(count), float(last)
        each.avg = each.sum / each.count if each.count else 0.0
    return meter
