"""The values that a trainer writes for TensorBoard."""

from __future__ import annotations

import os.path as osp
from typing import Any

from dassl.utils.errors import UnwritableFileError


class EventFiles:
    """A trainer's writer of event files. It is created with the first value."""

    def __init__(self) -> None:
        super().__init__()
        self._writer: Any = None
        self._writer_dir: str | None = None
        self._first_new_step: int | None = None

    def init_writer(self, log_dir: str) -> None:
        """Write event files to `log_dir`; the writer is created with the first value."""
        if self._writer_dir is None:
            shown = "" if osp.dirname(log_dir) == getattr(self, "output_dir", None) else f" (log_dir={log_dir})"
            print(f"Initialize tensorboard{shown}")
            self._writer_dir = log_dir

    def flush_writer(self) -> None:
        """Write all values to disk.

        Raises:
            UnwritableFileError: the file cannot be written.
        """
        if self._writer is not None:
            self._use_writer("flush")

    def close_writer(self) -> None:
        if self._writer is not None:
            self._use_writer("close")
            self._writer = None
        self._writer_dir = None

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Add a value to the event file; without `init_writer` nothing happens."""
        if self._writer_dir is None and self._writer is None:  # a trainer may make its own writer
            return
        self._use_writer("add_scalar", tag, scalar_value, global_step)

    def _use_writer(self, method: str, *arguments: Any) -> None:
        try:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter  # slow to import

                # hides the values of a killed run for the steps that are now repeated
                self._writer = SummaryWriter(log_dir=self._writer_dir, purge_step=self._first_new_step)
            getattr(self._writer, method)(*arguments)
        except OSError as error:
            self._writer = None
            raise UnwritableFileError(f"cannot write to {self._writer_dir}: {error.strerror or error}") from error
