"""Checks whether the state of an optimiser or a schedule from a checkpoint fits the present one.

PyTorch accepts nearly any state and fails at the next step, with an error that names neither file nor key.
"""

from __future__ import annotations

from numbers import Real
from typing import Any

import torch

_MAX_NUMBER = 2**53
_POSITIVE_KEYS = ("T_max", "step_size", "warmup_epoch")
_COUNT_KEYS = ("last_epoch", "_step_count")
_IMPLEMENTATION_KEYS = ("foreach", "fused", "capturable", "differentiable")
"""Settings of an optimiser's implementation, not of its algorithm: never taken from a file."""
_SHAPED_LIKE_PARAMETER = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq", "square_avg", "grad_avg")


def check_optimizer_state(optimizer: torch.optim.Optimizer, state: Any) -> None:
    """Check that `state` fits the optimiser, from which missing settings are taken.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(state, dict) or not isinstance(state.get("param_groups"), list):
        raise ValueError("it has no parameter groups")
    if not isinstance(state.get("state"), dict):
        raise ValueError("it has no state of the parameters")
    own = optimizer.state_dict()["param_groups"]
    if len(own) != len(state["param_groups"]):
        raise ValueError(f"it has {len(state['param_groups'])} parameter groups instead of {len(own)}")
    parameters: dict[Any, torch.Tensor] = {}
    for ours, given, group in zip(own, state["param_groups"], optimizer.param_groups, strict=True):
        if not isinstance(given, dict):
            raise ValueError("a parameter group is not a dictionary")
        _check_like(ours, given, "param_groups")
        if "params" not in given:
            raise ValueError("a parameter group lists no parameters")
        parameters |= zip(given["params"], group["params"], strict=True)
        given.update({key: value for key, value in ours.items() if key not in given or key in _IMPLEMENTATION_KEYS})
    for index, values in state["state"].items():
        if not isinstance(values, dict):
            raise ValueError(f"the state of parameter {index} is not a dictionary")
        _check_tensors(index, values, parameters.get(index))


def _check_tensors(index: Any, values: dict[str, Any], parameter: torch.Tensor | None) -> None:
    for name, value in list(values.items()):
        if name in _SHAPED_LIKE_PARAMETER and value is not None:
            if not isinstance(value, torch.Tensor) or value.is_complex():
                raise ValueError(f"{name} of parameter {index} is not a tensor of real numbers")
            if parameter is not None and value.shape != parameter.shape:
                shape, expected = tuple(value.shape), tuple(parameter.shape)
                raise ValueError(f"{name} of parameter {index} has shape {shape} instead of {expected}")
            values[name] = value.clone(memory_format=torch.contiguous_format)  # tensors in a file may share memory
        elif name == "step" and not (isinstance(value, Real) or (isinstance(value, torch.Tensor) and value.dim() == 0)):
            raise ValueError(f"the step count of parameter {index} is not a number")


def check_scheduler_state(scheduler: Any, state: Any) -> None:
    """Check that `state` has the kinds of values of the schedule's own state.

    Raises:
        ValueError: it does not.
    """
    if not isinstance(state, dict):
        raise ValueError("it is not a dictionary")
    _check_like(scheduler.state_dict(), state, "state")


def _check_like(own: Any, given: Any, name: str) -> None:
    """Check that numbers are numbers, lists have our length, and common keys of dictionaries have fitting values."""
    if isinstance(own, dict) and isinstance(given, dict):
        if name == "milestones":  # epochs as keys
            fits = all(isinstance(number, int) for pair in given.items() for number in pair)
        else:
            fits = True
            for key in own.keys() & given.keys():
                _check_like(own[key], given[key], str(key))
    elif isinstance(own, Real) or own is None:
        fits = given is None if own is None and not isinstance(given, Real) else _is_like_number(given, name)
    elif isinstance(own, (list, tuple)):
        fits = isinstance(given, (list, tuple)) and len(given) == len(own)
        for one, other in zip(own, given if fits else (), strict=False):
            _check_like(one, other, name)
    else:
        fits = not isinstance(own, dict)
    if not fits:
        raise ValueError(f"{name} is {str(given)[:80]!r} instead of a value like {str(own)[:80]!r}")


def _is_like_number(value: Any, name: str) -> bool:
    if not isinstance(value, (int, float)) or not abs(value) < _MAX_NUMBER:  # NaN is not less
        return False
    if name in _COUNT_KEYS:
        return isinstance(value, int) and value >= 0
    return value > 0 if name in _POSITIVE_KEYS else True
