"""The models that a trainer has registered, and a training step's update of them.

An update stops the run if a loss or a tensor is NaN or infinite.
"""

from __future__ import annotations

import os.path as osp
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from dassl.utils.errors import UnwritableFileError
from dassl.utils.files import write_text_atomically
from dassl.utils.names import listed
from dassl.utils.tools import tolist_if_not

from .anomalies import DETAILS_NAME, NonFiniteError, details, non_finite_tensors


class RegisteredModels:
    """Models under names, each with its optimiser and its schedule, if it has them."""

    epoch: int
    num_batches: int
    batch_idx: int

    def __init__(self) -> None:
        super().__init__()
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        self._optims: OrderedDict[str, Any] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()
        self._last_images: list[list[str]] = []  # paths of the last two batches, for error messages

    def register_model(self, name: str = "model", model: Any = None, optim: Any = None, sched: Any = None) -> None:
        """Register a model under a name, by which it is saved, loaded, updated and switched between modes.

        Raises:
            ValueError: `super().__init__()` was not called before.
            AssertionError: the name is taken.
        """
        if "_models" not in self.__dict__:
            raise ValueError("register_model() called before super().__init__()")
        assert name not in self._models, f'a model called "{name}" is already registered'
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names: str | list[str] | None = None) -> list[str]:
        """All registered names, or `names` as a list after checking that they are registered."""
        registered = list(self._models)
        if names is None:
            return registered
        names = tolist_if_not(names)
        for name in names:
            assert name in registered, f'no model is called "{name}"; registered: {registered}'
        return names

    def set_model_mode(self, mode: str = "train", names: str | list[str] | None = None) -> None:
        """Switch models to `train`, or to `eval` (also called `test`).

        Raises:
            KeyError: there is no such mode.
        """
        if mode not in ("train", "test", "eval"):
            raise KeyError(f'unknown mode "{mode}": train, eval or test')
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    def update_lr(self, names: str | list[str] | None = None) -> None:
        """Step the schedulers; to be called once an epoch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def get_current_lr(self, names: str | list[str] | None = None) -> float:
        """Learning rate of the first parameter group of the first model."""
        return self._optims[self.get_model_names(names)[0]].param_groups[0]["lr"]

    def model_zero_grad(self, names: str | list[str] | None = None) -> None:
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss: torch.Tensor) -> None:
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names: str | list[str] | None = None) -> None:
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss: torch.Tensor, names: str | list[str] | None = None) -> None:
        """Zero the gradients, back-propagate `loss`, step the optimisers."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    def prograd_backward_and_update(
        self, loss_a: torch.Tensor, loss_b: torch.Tensor, lambda_: float = 1, names: str | list[str] | None = None
    ) -> None:
        """A step on `loss_a`, without the part of its gradient that opposes that of `loss_b` (ProGrad).

        For each parameter, with gradients a and b and b^ = b / |b|: where a . b < 0, a - lambda_ (a . b^) b^ is used.
        """
        names = self.get_model_names(names)
        parameters = [each for name in names for each in self._models[name].parameters()]
        self.model_zero_grad(names)
        self.detect_anomaly(loss_b, "loss_b")
        loss_b.backward(retain_graph=True)  # the two losses share the graph
        opposing = [each.grad for each in parameters]
        for each in parameters:
            each.grad = None
        self.model_backward(loss_a)
        for each, b in zip(parameters, opposing, strict=True):
            if each.grad is None or b is None or not b.any():
                continue
            direction = b / b.norm()
            along = (each.grad * direction).sum()
            if along < 0:
                each.grad -= lambda_ * along * direction
        self.model_update(names)

    def detect_anomaly(self, loss: torch.Tensor, name: str = "loss") -> None:
        """Check that a loss is finite; `name` is its name in the message.

        Raises:
            NonFiniteError: it is infinite or NaN.
        """
        if not torch.isfinite(loss).all():
            self._stop_for_anomaly([f"{name} = {loss.detach().float().sum().item()}"])

    def checked_models(self) -> dict[str, nn.Module | None]:
        """Models that are searched for NaN and infinite tensors: the registered ones; a trainer adds frozen ones."""
        return dict(self._models)

    def _stop_for_anomaly(self, losses: list[str]) -> None:
        """Stop the run; a file gets all losses, tensors and images.

        Raises:
            NonFiniteError: always; it names the step, a loss and a tensor.
        """
        tensors = non_finite_tensors(self.checked_models())
        current, before = [*reversed(self._last_images), [], []][:2]
        path = self.write_details(details(losses, tensors, current, before))
        found = ", ".join(listed(names, shown) for names, shown in ((losses, 4), (tensors, 1)) if names)
        where = f"; details: {path}" if path else ""
        raise NonFiniteError(
            f"infinite or NaN{self._position()}: {found}: use a smaller OPTIM.LR or another PREC{where}"
        )

    def write_details(self, text: str) -> str | None:
        """Write what is too long for an error message; returns the file, None without an output folder."""
        folder = getattr(self, "output_dir", "")
        if not folder:
            return None
        path = osp.join(folder, DETAILS_NAME)
        try:
            write_text_atomically(path, text)
        except UnwritableFileError as error:  # the error that is explained matters more
            print(f"Note: the details are not kept: {error}")
            return None
        return path

    def _position(self) -> str:
        if not hasattr(self, "batch_idx"):
            return ""
        step = self.epoch * self.num_batches + self.batch_idx + 1
        return f" in epoch {self.epoch + 1}, batch {self.batch_idx + 1} (step {step})"
