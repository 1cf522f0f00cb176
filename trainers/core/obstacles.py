"""Operations that cannot be recorded, such as those that wait for a value or draw random numbers."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ObstacleOfCall = Callable[[Any, tuple, dict], str | None]

DRAWS = "draws random numbers"


class NotCapturableError(RuntimeError):
    """An operation that cannot be recorded."""


class NotWorthwhileError(NotCapturableError):
    """A recording that would cost more than it gains."""


class CaptureCheck(TorchDispatchMode):
    """Stops at the first operation that cannot be recorded, on any device.

    Raises:
        NotCapturableError: at that operation.
    """

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        check_capturable(operation, args, kwargs)
        return operation(*args, **kwargs)


def check_capturable(operation: Any, args: tuple, kwargs: dict) -> None:
    """Check that an operation can be recorded.

    Args:
        operation: overload of an ATen operation.
        args: its arguments.
        kwargs: its keyword arguments.

    Raises:
        NotCapturableError: it cannot be.
    """
    obstacle = _obstacle(operation)
    if obstacle is None:
        return
    reason = obstacle if isinstance(obstacle, str) else obstacle(operation, args, kwargs)
    if reason:
        raise NotCapturableError(f"{operation} {reason}")


@cache
def base_name(operation: Any) -> str:
    """Name of an operation without namespace and overload, such as `add_`."""
    return operation.name().rpartition("::")[2].partition(".")[0]


@cache
def _obstacle(operation: Any) -> str | ObstacleOfCall | None:
    """Why an operation cannot be recorded, or a function that says so for one call; None: it can be."""
    tags, name = operation.tags, base_name(operation)
    if torch.Tag.data_dependent_output in tags:
        return "waits for a value on the device"
    if name == "index":
        return _selects_by_mask
    if torch.Tag.dynamic_output_shape in tags:
        return "gives a shape that depends on values"
    if torch.Tag.nondeterministic_seeded in tags:
        return _has_dropout if "scaled_dot_product" in name else DRAWS
    if name == "lift_fresh":
        return "makes a tensor from Python values, which is copied from the host"
    return _copies_between_devices if name in ("copy_", "_to_copy") else None


def _selects_by_mask(operation: Any, args: tuple, kwargs: dict) -> str | None:
    is_mask = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
    return "selects by a mask: the shape depends on values" if is_mask else None


def _has_dropout(operation: Any, args: tuple, kwargs: dict) -> str | None:
    """PyTorch's tag calls fused attention random, but it is so only with dropout."""
    names = [argument.name for argument in operation._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    return DRAWS if given.get("dropout_p", 0.0) else None


def _copies_between_devices(operation: Any, args: tuple, kwargs: dict) -> str | None:
    if base_name(operation) == "copy_":
        source, target = args[1].device, args[0].device
    else:
        source, target = args[0].device, torch.device(kwargs.get("device") or args[0].device)
    return None if source.type == target.type else f"copies from {source.type} to {target.type}"
