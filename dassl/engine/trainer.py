"""The trainers that methods derive from.

A method is a subclass of TrainerX that builds its model (`build_model`) and trains on one batch (`forward_backward`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from typing import Any

import torch

from dassl.utils.errors import BadValueError
from dassl.utils.names import check_availability

from .simple_net import SimpleNet
from .simple_trainer import SimpleTrainer
from .trainer_base import TrainerBase


class TrainerX(SimpleTrainer):
    """Trains on labelled images."""

    def run_epoch(self) -> None:
        loader = self.train_loader_x
        self._continue_in(loader)
        self.train_on_batches(((batch,) for batch in loader), len(loader))

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        """Images, labels and domains on the trainer's device."""
        return self._on_device(batch["img"], batch["label"], batch["domain"])


class TrainerXU(SimpleTrainer):
    """Trains on labelled and unlabelled images side by side; `forward_backward(batch_x, batch_u)`.

    TRAIN.COUNT_ITER selects the loader that determines the length of an epoch; the shorter loader is repeated.
    """

    def run_epoch(self) -> None:
        if self.train_loader_u is None:
            raise BadValueError(f"{type(self).__name__} needs unlabelled images, and this data set has none")
        lengths = {"train_x": len(self.train_loader_x), "train_u": len(self.train_loader_u)}
        lengths["smaller_one"] = min(lengths.values())
        check_availability(self.cfg.TRAIN.COUNT_ITER, list(lengths), kind="TRAIN.COUNT_ITER")
        count = lengths[self.cfg.TRAIN.COUNT_ITER]
        batches_x, batches_u = _endless(self.train_loader_x), _endless(self.train_loader_u)
        self.train_on_batches(((next(batches_x), next(batches_u)) for _ in range(count)), count)

    def parse_batch_train(  # pyright: ignore[reportIncompatibleMethodOverride] - Dassl's signatures
        self, batch_x: dict[str, Any], batch_u: dict[str, Any]
    ) -> tuple[torch.Tensor, ...]:
        """Labelled images, their labels, unlabelled images, on the trainer's device."""
        return self._on_device(batch_x["img"], batch_x["label"], batch_u["img"])


def _endless(loader: Iterable) -> Iterator:
    """Endless batches. The first pass starts at once, because a loader draws a random number when it starts."""
    return chain(iter(loader), chain.from_iterable(repeat(loader)))


def __getattr__(name: str) -> Any:
    """`SummaryWriter`, which trainer files import from here; TensorBoard is slow to import."""
    if name == "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["SimpleNet", "SimpleTrainer", "TrainerBase", "TrainerX", "TrainerXU"]
