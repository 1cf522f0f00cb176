"""Leaves out recorded operations whose results are in memory already.

* An operation with the same arguments as an earlier one has the same results: it is dropped, and its results lie in the
  same place.
* Tensors that `stack` or `cat` put one after the other are written there in the first place: it is dropped as well.

Memory that is changed in place is left as it is.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

from trainers.core.obstacles import base_name
from trainers.core.tape import Operation, Value, values_in

JOINING = {"stack", "cat"}
ALIGNMENT = 64
"""Bytes. As PyTorch's own allocations: some kernels add up in another order at other addresses."""


class InnerPlace(NamedTuple):
    """Where a storage lies in another one."""

    storage: int
    start: int
    """byte"""


class Shortened(NamedTuple):
    """What remains of a recording."""

    operations: list[Operation]
    inside: dict[int, InnerPlace]
    """outermost storage for each one that lies in another"""


def shorten(operations: Sequence[Operation], sizes: Sequence[int]) -> Shortened:
    """Leave out operations whose results are in memory already.

    Args:
        operations: of a recording.
        sizes: bytes of each storage.
    """
    changed = set().union(*(operation.changed for operation in operations))
    made = set().union(*(operation.made for operation in operations))
    places = _Places(sizes, made - changed)
    earlier: dict[Hashable, Operation] = {}
    kept = []
    for operation in operations:
        if not changed.isdisjoint(operation.used):  # equal arguments may have other content by then
            kept.append(operation)
            continue
        first = earlier.setdefault(places.key_of(operation), operation)
        if first is operation:
            kept.append(operation)
        else:
            pairs = zip(values_in(operation.results), values_in(first.results), strict=True)
            for own, other in pairs:
                places.put(own.storage, other.storage, 0)
    # only now, since joining moves tensors, and with them the keys of the operations that use them
    kept = [operation for operation in kept if not places.join(operation)]
    return Shortened(kept, {storage: places.of(storage) for storage in places.inside})


class _Places:
    """Storages and which of them lie in others."""

    def __init__(self, sizes: Sequence[int], movable: set[int]) -> None:
        self.sizes, self.movable = sizes, movable
        self.inside: dict[int, InnerPlace] = {}

    def of(self, storage: int) -> InnerPlace:
        """The outermost storage that one lies in, and where."""
        start = 0
        while storage in self.inside:
            storage, offset = self.inside[storage]
            start += offset
        return InnerPlace(storage, start)

    def put(self, storage: int, other: int, start: int) -> None:
        """From now on, a storage lies in another one."""
        self.inside[storage] = InnerPlace(other, start)

    def key_of(self, operation: Operation) -> Hashable:
        """Equal for operations that compute the same."""
        return operation.overload, self._key(operation.args), self._key(list(operation.kwargs.items()))

    def _key(self, tree: Any) -> Hashable:
        if isinstance(tree, Value):
            return self.of(tree.storage), tree[1:]
        if isinstance(tree, tuple | list):
            return tuple([self._key(part) for part in tree])
        return type(tree), tree  # 1, 1.0 and True are equal, but not as arguments

    def join(self, operation: Operation) -> bool:
        """Make the arguments of `stack` or `cat` parts of its result, if that is possible.

        Returns:
            Whether it was, so that the operation can be dropped.
        """
        result = operation.results
        if base_name(operation.overload) not in JOINING or not isinstance(result, Value):
            return False
        parts, dim = operation.args[0], operation.args[1] if len(operation.args) > 1 else 0
        lengths = [math.prod(part.size) * part.dtype.itemsize for part in parts]
        storages = [part.storage for part in parts]
        one_behind_the_other = math.prod(result.size[: dim % len(result.size)]) == 1  # all dimensions before `dim`
        if (
            not one_behind_the_other
            or result.storage not in self.movable
            or len({*storages}) < len(storages)  # a tensor that is put in twice cannot lie in two places
            or not all(self._is_whole(part, result) for part in parts)
            or any(length % ALIGNMENT for length in lengths[:-1])
        ):
            return False
        start = 0
        for storage, length in zip(storages, lengths, strict=True):
            self.put(storage, result.storage, start)
            start += length
        return True

    def _is_whole(self, part: Value, result: Value) -> bool:
        """Whether a tensor fills its storage, in order, and may be moved into the result."""
        return (
            part.storage in self.movable
            and part.storage not in self.inside
            and self.of(result.storage).storage != part.storage
            and part.dtype == result.dtype
            and part.offset == 0
            and part.stride == _contiguous(part.size)
            and math.prod(part.size) * part.dtype.itemsize == self.sizes[part.storage] > 0
        )


def _contiguous(size: Sequence[int]) -> tuple[int, ...]:
    return tuple([math.prod(size[index + 1 :]) for index in range(len(size))])
