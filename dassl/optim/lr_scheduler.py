"""Learning-rate schedules from the configuration, with warm-up.

Schedules are stepped once an epoch. Their state dicts hold plain data only, so that a checkpoint can be read with
`weights_only=True` and a resumed run gets the same rates.
"""

from __future__ import annotations

import warnings
from collections import Counter
from typing import Any

from torch import Tensor
from torch.optim import Optimizer, lr_scheduler
from yacs.config import CfgNode

from dassl.utils.errors import BadValueError, MismatchError
from dassl.utils.names import check_availability

AVAI_SCHEDS = ["single_step", "multi_step", "cosine"]
AVAI_WARMUPS = ["linear", "constant"]


class _WarmupScheduler(lr_scheduler.LRScheduler):
    """Sets the rates of the first `warmup_epoch` epochs, then hands over to `successor`."""

    def __init__(
        self, optimizer: Optimizer, successor: lr_scheduler.LRScheduler, warmup_epoch: int, last_epoch: int
    ) -> None:
        self.successor = successor
        self.warmup_epoch = warmup_epoch
        super().__init__(optimizer, last_epoch)

    def warmup_lr(self) -> list[float | Tensor]:
        """The rate of each parameter group in epoch `self.last_epoch`, in the warm-up; each subclass defines it."""
        raise NotImplementedError

    def get_lr(self) -> list[float | Tensor]:
        if self.last_epoch >= self.warmup_epoch:
            return self.successor.get_last_lr()
        return self.warmup_lr()

    def step(self, epoch: int | None = None) -> None:
        if self.last_epoch >= self.warmup_epoch:
            self.successor.step()
            self._last_lr = self.successor.get_last_lr()
        else:
            super().step()

    def state_dict(self) -> dict[str, Any]:
        """Plain data; `successor` is the successor's own state dict."""
        hidden = ("optimizer", "successor")
        own = {key: value for key, value in vars(self).items() if key not in hidden}
        return {**own, "successor": self.successor.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Accepts our state dicts and Dassl's, in which `successor` was an object with the same values."""
        successor = state_dict.get("successor")
        if not isinstance(successor, dict):
            raise MismatchError("the scheduler state does not contain the schedule after the warm-up")
        super().load_state_dict(_known(state_dict, vars(self), without=("optimizer", "successor")))
        self.successor.load_state_dict(_known(successor, self.successor.state_dict()))


def _known(state: dict[str, Any], template: dict[str, Any], without: tuple[str, ...] = ()) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key in template and key not in without}


class ConstantWarmupScheduler(_WarmupScheduler):
    """The rate `cons_lr` during the warm-up."""

    def __init__(
        self,
        optimizer: Optimizer,
        successor: lr_scheduler.LRScheduler,
        warmup_epoch: int,
        cons_lr: float,
        last_epoch: int = -1,
        verbose: bool = False,
    ) -> None:
        self.cons_lr = cons_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch)

    def warmup_lr(self) -> list[float | Tensor]:
        return [self.cons_lr for _ in self.base_lrs]


class LinearWarmupScheduler(_WarmupScheduler):
    """The rate `min_lr` in the first epoch, then `lr * epoch / warmup_epoch`."""

    def __init__(
        self,
        optimizer: Optimizer,
        successor: lr_scheduler.LRScheduler,
        warmup_epoch: int,
        min_lr: float,
        last_epoch: int = -1,
        verbose: bool = False,
    ) -> None:
        self.min_lr = min_lr
        super().__init__(optimizer, successor, warmup_epoch, last_epoch)

    def warmup_lr(self) -> list[float | Tensor]:
        if self.last_epoch == 0:
            return [self.min_lr for _ in self.base_lrs]
        return [lr * self.last_epoch / self.warmup_epoch for lr in self.base_lrs]


class _PlainMultiStepLR(lr_scheduler.MultiStepLR):
    """MultiStepLR whose state dict holds a plain dictionary of milestones."""

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "milestones": dict(self.milestones)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "milestones": Counter(state_dict["milestones"])})


def build_lr_scheduler(optimizer: Optimizer, optim_cfg: CfgNode) -> lr_scheduler.LRScheduler:
    """The schedule that `optim_cfg` (`cfg.OPTIM` or a node like it) describes, to be stepped after every epoch.

    Raises:
        UnknownNameError: there is no such schedule or warm-up.
        BadValueError: STEPSIZE does not fit the schedule.
    """
    check_availability(optim_cfg.LR_SCHEDULER, AVAI_SCHEDS, kind="learning-rate scheduler")
    scheduler = _main_schedule(optimizer, optim_cfg)
    if optim_cfg.WARMUP_EPOCH <= 0:
        return scheduler
    check_availability(optim_cfg.WARMUP_TYPE, AVAI_WARMUPS, kind="warm-up")
    if not optim_cfg.WARMUP_RECOUNT:
        scheduler.last_epoch = optim_cfg.WARMUP_EPOCH
    if optim_cfg.WARMUP_TYPE == "constant":
        return ConstantWarmupScheduler(optimizer, scheduler, optim_cfg.WARMUP_EPOCH, optim_cfg.WARMUP_CONS_LR)
    return LinearWarmupScheduler(optimizer, scheduler, optim_cfg.WARMUP_EPOCH, optim_cfg.WARMUP_MIN_LR)


def enter_schedule(scheduler: lr_scheduler.LRScheduler, epochs: int) -> None:
    """Advance a new schedule and its optimiser's rates by some epochs.

    Args:
        scheduler: not stepped yet.
        epochs: number of completed epochs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch expects a step of the optimiser before each
        for _ in range(epochs):
            scheduler.step()


def _main_schedule(optimizer: Optimizer, optim_cfg: CfgNode) -> lr_scheduler.LRScheduler:
    if optim_cfg.LR_SCHEDULER == "cosine":
        return lr_scheduler.CosineAnnealingLR(optimizer, T_max=float(optim_cfg.MAX_EPOCH))  # pyright: ignore[reportArgumentType] - as in Dassl's checkpoints
    stepsize = optim_cfg.STEPSIZE
    if optim_cfg.LR_SCHEDULER == "single_step":
        last = stepsize[-1] if isinstance(stepsize, (list, tuple)) else stepsize
        if not isinstance(last, int):
            raise BadValueError(f"OPTIM.STEPSIZE should be a whole number of epochs for single_step, not {stepsize!r}")
        return lr_scheduler.StepLR(optimizer, last if last > 0 else optim_cfg.MAX_EPOCH, gamma=optim_cfg.GAMMA)
    if not isinstance(stepsize, (list, tuple)) or not all(isinstance(epoch, int) for epoch in stepsize):
        raise BadValueError(f"OPTIM.STEPSIZE should be a list of epochs for multi_step, not {stepsize!r}")
    return _PlainMultiStepLR(optimizer, list(stepsize), gamma=optim_cfg.GAMMA)
