"""The loop over epochs and the values for TensorBoard, without data and configuration."""

from __future__ import annotations

import os.path as osp
from typing import Any

import torch

from dassl.interruption import STOP, Interrupted
from dassl.utils.errors import UnwritableFileError

from .model_checkpoints import ModelCheckpoints


class TrainerBase(ModelCheckpoints):
    """Registered models with their optimisers and schedulers; the loop over epochs; checkpoints; TensorBoard."""

    def __init__(self) -> None:
        super().__init__()
        self.last_batch: tuple | None = None  # arguments of the last `forward_backward`
        self._writer: Any = None  # of event files; created with the first value
        self._writer_dir: str | None = None
        self._first_new_step: int | None = None

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Train from `start_epoch` (which `before_train` may change when resuming) to `max_epoch`."""
        self.start_epoch = start_epoch
        self.max_epoch = max_epoch
        self.before_train()
        self._restore_training_state()
        for epoch in range(self.start_epoch, self.max_epoch):
            self.epoch = epoch
            self.before_epoch()
            self.run_epoch()
            with STOP.deferred():  # until the epoch is saved
                self.after_epoch()
                self.between_epochs()
        self.after_train()

    def before_train(self) -> None:
        pass

    def after_train(self) -> None:
        pass

    def before_epoch(self) -> None:
        pass

    def after_epoch(self) -> None:
        pass

    def between_epochs(self) -> None:
        """After `after_epoch`, which trainers override. Stops if a signal has asked for it."""
        if STOP.number is not None:
            raise Interrupted(STOP.number)

    # Event files for TensorBoard

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

    # Defined by trainers. Not abstract: trainer files of the lineage omit methods that they do not use

    def run_epoch(self) -> None:
        raise NotImplementedError

    def test(self, split: str | None = None, is_final: bool = False) -> float:
        raise NotImplementedError

    def parse_batch_train(self, batch: Any) -> Any:
        raise NotImplementedError

    def parse_batch_test(self, batch: Any) -> Any:
        raise NotImplementedError

    def forward_backward(self, batch: Any) -> dict[str, float]:
        raise NotImplementedError

    def model_inference(self, input: Any) -> torch.Tensor:
        raise NotImplementedError
