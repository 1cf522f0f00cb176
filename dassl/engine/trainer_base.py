"""The loop over epochs, without data and configuration."""

from __future__ import annotations

from typing import Any

import torch

from dassl.interruption import STOP, Interrupted

from .event_files import EventFiles
from .model_checkpoints import ModelCheckpoints


class TrainerBase(ModelCheckpoints, EventFiles):
    """Registered models with their optimisers and schedulers; the loop over epochs; checkpoints; TensorBoard."""

    def __init__(self) -> None:
        super().__init__()
        self.last_batch: tuple | None = None  # arguments of the last `forward_backward`

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
