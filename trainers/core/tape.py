"""The ATen operations of one call of a function, as a list: what it computes, without autograd and Python.

A `Tape` watches a call and notes each operation with its arguments. A tensor is noted as a `Value`: a view of a
numbered storage. The tensors themselves are not kept, so recording needs no more memory than the call itself.
Operations that make views are not noted, since a value says where its tensor lies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from trainers.core.obstacles import NotCapturableError, NotWorthwhileError, check_capturable


class Value(NamedTuple):
    """A tensor of a recorded call."""

    storage: int
    """number of the storage it lies in"""
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation. Arguments and results are those of the call, with a `Value` for each tensor."""

    overload: Any
    args: tuple
    kwargs: dict[str, Any]
    results: Any
    used: set[int]
    """storages that arguments and results lie in"""
    made: set[int]
    """storages that its results lie in, if they are new"""
    changed: set[int]
    """storages that it writes to in place"""


def values_in(tree: Any) -> Iterator[Value]:
    """The values in nested tuples and lists."""
    if isinstance(tree, Value):
        yield tree
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from values_in(part)


class Tape(TorchDispatchMode):
    """Notes the operations of what runs inside it; raises NotCapturableError at one that cannot be replayed.

    Args:
        most_bytes: if the tensors that are made are larger, all together, it raises NotWorthwhileError
    """

    def __init__(self, most_bytes: int | None = None) -> None:
        super().__init__()
        self._bytes_left = most_bytes
        self.operations: list[Operation] = []
        self.given: dict[int, Tensor] = {}
        """a tensor in each storage that was not made by an operation: arguments and weights"""
        self.bytes: list[int] = []
        """size of each storage"""
        self._numbers: dict[int, int] = {}
        self._addresses: list[StorageWeakRef] = []  # keeps the address of a storage from being used for another one
        self._unusual: dict[int, str] = {}

    def value_of(self, tensor: Tensor) -> Value:
        """Where a tensor lies."""
        storage = tensor.untyped_storage()
        number = self._numbers.get(storage._cdata)
        if number is None:
            number = self._add(storage, tensor)
            self.given[number] = tensor.detach()
        return Value(number, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()), tensor.dtype)

    def needed_for(self, outputs: Iterable[Value]) -> list[Operation]:
        """The operations that these outputs depend on.

        Raises:
            NotCapturableError: one of them uses a tensor that cannot be replayed.
        """
        needed, kept = {value.storage for value in outputs}, []
        # backwards, so that everything that uses a storage is seen before what wrote it
        for operation in reversed(self.operations):
            if not (needed.isdisjoint(operation.made) and needed.isdisjoint(operation.changed)):
                needed |= operation.used
                kept.append(operation)
        for number in needed:
            if reason := self._unusual.get(number) or self._obstacle_of_given(number):
                raise NotCapturableError(reason)
        return kept[::-1]

    def __torch_dispatch__(self, overload: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        check_capturable(overload, args, kwargs)
        written, changes_view = _effects(overload)
        used: set[int] = set()
        made: set[int] = set()
        noted_args = tuple([self._noted(value, used) for value in args])
        noted_kwargs = {name: self._noted(value, used) for name, value in kwargs.items()}
        values = [noted_kwargs.get(name) if index is None else noted_args[index] for index, name in written]
        changed = {value.storage for value in values_in(values)}
        if not changed.isdisjoint(self.given):
            raise NotCapturableError(f"{overload} changes a tensor that was made elsewhere")
        results = overload(*args, **kwargs)
        noted_results = self._noted_results(results, used, made)  # after the arguments, which it compares with
        if changes_view and made:
            raise NotCapturableError(f"{overload} gives a tensor another memory")
        if made or changed:
            self.operations.append(Operation(overload, noted_args, noted_kwargs, noted_results, used, made, changed))
        return results

    def _noted(self, tree: Any, used: set[int]) -> Any:
        """The tree with a `Value` for each tensor; adds their storages to `used`."""
        if isinstance(tree, Tensor):
            value = self.value_of(tree)
            used.add(value.storage)
            return value
        if isinstance(tree, (tuple, list)):  # noqa: UP038 - thousands of times a recording, and a union takes longer
            return [self._noted(part, used) for part in tree]
        return tree

    def _noted_results(self, results: Any, used: set[int], made: set[int]) -> Any:
        """As `_noted`; a storage that no argument has is new, and is added to `made` as well."""
        if isinstance(results, Tensor):
            storage = results.untyped_storage()
            if self._numbers.get(storage._cdata) not in used:
                made.add(self._add(storage, results))
                self._count(storage.nbytes())
        elif isinstance(results, tuple | list):
            return [self._noted_results(part, used, made) for part in results]
        return self._noted(results, used)

    def _count(self, size: int) -> None:
        if self._bytes_left is not None:
            self._bytes_left -= size
            if self._bytes_left < 0:
                raise NotWorthwhileError("makes large tensors, compared with which calls cost little")

    def _add(self, storage: torch.UntypedStorage, tensor: Tensor) -> int:
        number = len(self.bytes)
        self._numbers[storage._cdata] = number
        self._addresses.append(StorageWeakRef(storage))
        self.bytes.append(storage.nbytes())
        if tensor.device.type != "cpu" or tensor.layout != torch.strided:
            self._unusual[number] = f"uses a tensor on {tensor.device}, of layout {tensor.layout}"
        elif tensor.is_neg() or tensor.is_conj() or tensor._is_zerotensor() or tensor.is_quantized:
            self._unusual[number] = "uses a tensor that is not kept as its values"
        return number

    def _obstacle_of_given(self, number: int) -> str | None:
        """Why a given tensor cannot be replayed: nobody else keeps it, so it was made by something that does not show.

        Weights and arguments are kept by the caller.
        """
        given = self.given.get(number)
        if given is None or _uses(given) > _USES_OF_A_SINGLE_TENSOR:
            return None
        return f"uses a tensor of size {list(given.shape)} that no operation made"


def _uses(tensor: Tensor) -> int:
    """How many tensors and other objects use its storage; one more for this call."""
    storage = tensor.untyped_storage()
    return torch._C._storage_Use_Count(storage._cdata)


_USES_OF_A_SINGLE_TENSOR = _uses(torch.empty(1))


@cache
def _effects(overload: Any) -> tuple[Sequence[tuple[int | None, str]], bool]:
    """What an operation does to its arguments.

    Returns:
        Index (None: given by name only) and name of each argument whose content it changes; and whether it changes how
        an argument views its memory instead, as `squeeze_` does.
    """
    if torch.Tag.inplace_view in overload.tags:
        return (), True
    written = [
        (None if argument.kwarg_only else index, argument.name)
        for index, argument in enumerate(overload._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    return written, False
