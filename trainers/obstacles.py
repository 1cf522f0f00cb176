"""Operations that a recorded function cannot contain: they wait for a value, draw random numbers, and the like."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode


class NotCapturableError(RuntimeError):
    """An operation that a recording cannot contain."""


class NotWorthwhileError(NotCapturableError):
    """A recording that would cost more than it gains."""


class CaptureCheck(TorchDispatchMode):
    """Raises NotCapturableError at the first operation that a recording cannot contain, on any device."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        check_capturable(operation, args, kwargs)
        return operation(*args, **kwargs)


def check_capturable(operation: Any, args: tuple, kwargs: dict) -> None:
    """Raise NotCapturableError if a recording cannot contain this operation.

    Args:
        operation: overload of an ATen operation.
        args: its arguments.
        kwargs: its keyword arguments.
    """
    reason = _obstacle_of_any_call(operation) or _obstacle_of_this_call(operation, args, kwargs)
    if reason:
        raise NotCapturableError(f"{operation} {reason}")


@cache
def base_name(operation: Any) -> str:
    """Name of an operation without namespace and overload, such as `add_`."""
    return operation.name().rpartition("::")[2].partition(".")[0]


@cache
def _obstacle_of_any_call(operation: Any) -> str | None:
    tags, name = operation.tags, base_name(operation)
    if torch.Tag.data_dependent_output in tags:
        return "waits for a value on the device"
    if torch.Tag.dynamic_output_shape in tags and name != "index":
        return "gives a shape that depends on values"
    if torch.Tag.nondeterministic_seeded in tags and "scaled_dot_product" not in name:
        return "draws random numbers"
    if name == "lift_fresh":
        return "makes a tensor from Python values, which is copied from the host"
    return None


def _obstacle_of_this_call(operation: Any, args: tuple, kwargs: dict) -> str | None:
    name = base_name(operation)
    if name == "index":
        is_mask = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        return "selects by a mask: the shape depends on values" if is_mask else None
    if "scaled_dot_product" in name:
        return "draws random numbers" if _has_dropout(operation, args, kwargs) else None
    source = args[1] if name == "copy_" else args[0] if name == "_to_copy" else None
    if isinstance(source, Tensor):
        target = args[0].device if name == "copy_" else kwargs.get("device") or source.device
        if torch.device(target).type != source.device.type:
            return f"copies from {source.device.type} to {torch.device(target).type}"
    return None


def _has_dropout(operation: Any, args: tuple, kwargs: dict) -> bool:
    """PyTorch's fused attention counts as random for its dropout alone."""
    if torch.Tag.nondeterministic_seeded not in operation.tags:
        return False
    names = [argument.name for argument in operation._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    return bool(given.get("dropout_p", 0.0))
