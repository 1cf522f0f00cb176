"""Optimisers from the configuration."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import nn, optim
from yacs.config import CfgNode

from dassl.utils.errors import BadValueError
from dassl.utils.names import check_availability

AVAI_OPTIMS = ["adam", "amsgrad", "sgd", "rmsprop", "radam", "adamw"]
_ADAMS: dict[str, Callable[..., optim.Optimizer]] = {
    "adam": optim.Adam,
    "amsgrad": partial(optim.Adam, amsgrad=True),
    "radam": optim.RAdam,
    "adamw": optim.AdamW,
}


def build_optimizer(
    model: nn.Module | Iterable[nn.Parameter] | list[dict[str, Any]],
    optim_cfg: CfgNode,
    param_groups: list[dict[str, Any]] | None = None,
) -> optim.Optimizer:
    """The optimiser that `optim_cfg` (the node `cfg.OPTIM` or one like it) describes.

    Args:
        model: a module, an iterable of parameters, or parameter groups.
        param_groups: parameter groups to use instead; OPTIM.STAGED_LR has no effect then.

    Raises:
        UnknownNameError: there is no such optimiser.
        BadValueError: the settings do not fit the optimiser.
    """
    check_availability(optim_cfg.NAME, AVAI_OPTIMS, kind="optimizer")
    if param_groups is not None and optim_cfg.STAGED_LR:
        warnings.warn("OPTIM.STAGED_LR is ignored, since the parameter groups are given", stacklevel=2)
    if param_groups is None and optim_cfg.STAGED_LR:
        param_groups = _staged_groups(model, optim_cfg)
    parameters = model.parameters() if isinstance(model, nn.Module) else model
    try:
        return _make(list(parameters if param_groups is None else param_groups), optim_cfg)
    except ValueError as error:
        raise BadValueError(f"the optimizer {optim_cfg.NAME} does not accept these settings: {error}") from error


def _make(param_groups: list[Any], optim_cfg: CfgNode) -> optim.Optimizer:
    # foreach: one operation updates all tensors, instead of one operation per tensor; faster on CPUs as well
    common = {"lr": optim_cfg.LR, "weight_decay": optim_cfg.WEIGHT_DECAY, "foreach": True}
    eps = getattr(optim_cfg, "ADAM_EPS", 1e-8)  # nodes that other repositories add do not have this key
    if optim_cfg.NAME in _ADAMS:
        betas = optim_cfg.ADAM_BETA1, optim_cfg.ADAM_BETA2
        return _ADAMS[optim_cfg.NAME](param_groups, **common, betas=betas, eps=eps)
    common["momentum"] = optim_cfg.MOMENTUM
    if optim_cfg.NAME == "rmsprop":
        return optim.RMSprop(param_groups, **common, alpha=optim_cfg.RMSPROP_ALPHA)
    return optim.SGD(param_groups, **common, dampening=optim_cfg.SGD_DAMPNING, nesterov=optim_cfg.SGD_NESTEROV)


def _staged_groups(model: Any, optim_cfg: CfgNode) -> list[dict[str, Any]]:
    """Children in NEW_LAYERS learn with LR, all others with LR * BASE_LR_MULT."""
    if not isinstance(model, nn.Module):
        raise TypeError("OPTIM.STAGED_LR needs a module, since NEW_LAYERS are names of its children")
    if isinstance(model, nn.DataParallel):
        model = model.module
    named = optim_cfg.NEW_LAYERS
    new_layers = [named] if isinstance(named, str) else list(named)
    if not new_layers:
        warnings.warn("OPTIM.NEW_LAYERS is empty, so OPTIM.BASE_LR_MULT applies to every layer", stacklevel=3)
    base, new = [], []
    for name, module in model.named_children():
        (new if name in new_layers else base).extend(module.parameters())
    return [{"params": base, "lr": optim_cfg.LR * optim_cfg.BASE_LR_MULT}, {"params": new}]
