"""The CPU counterpart of a CUDA graph: a recorded call, made again as a flat list of calls on fixed memory.

A training step of a small model consists of thousands of operations that take microseconds each; Python, autograd and
memory management take as long again. `CpuRecorder` runs a function once under a `Tape` and keeps only the operations
that its results depend on. Every intermediate tensor gets a place in one block of memory; tensors that are needed at
different times share bytes. All views are made once. A replay then calls one operation after the other, each of which
writes its results to their places.

The operations are those of the recorded call, in its order, so every bit is the same: each recording is replayed once
and compared before it is used.
"""

from __future__ import annotations

import gc
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_unflatten

from trainers.core.captured import Capture, Run
from trainers.core.obstacles import NotCapturableError, base_name
from trainers.core.shorten import ALIGNMENT, InnerPlace, shorten
from trainers.core.tape import Operation, Tape, Value

MOST_BYTES = 512 << 20
"""A call that makes more than this, over all its tensors, is not replayed: calls cost little beside large tensors.
A replay needs about a fifth of it as memory, since most tensors are needed for a short time."""

ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
ZEROS = {"zeros", "zeros_like", "new_zeros"}
COPIES = {"clone", "_to_copy", "to", "contiguous"}
OF_NEW_TENSORS = {"dtype", "layout", "device", "pin_memory"}

BINDINGS: Any = torch._C  # the stubs leave out most of it
PLACES = (torch, BINDINGS._nn, BINDINGS._linalg)
"""Where PyTorch has the Python functions of its operations."""

Step = Callable[[], Any]


class CpuRecorder:
    """Records functions for replays on a CPU, all in one block of memory.

    Args:
        most_bytes: functions whose tensors are larger, all together, are not recorded; None: all are.
    """

    name = "CPU replay"
    first_recorded_call = 2
    """Of each shape. Recording takes about as long as four calls: too long for a shape that occurs once."""

    def __init__(self, most_bytes: int | None = None) -> None:
        self._most_bytes = most_bytes
        self._memory = torch.UntypedStorage(0)
        """Recordings share it: the results of a replay are copied out before the next one runs."""

    def capture(self, run: Run) -> Capture:
        """Record `run`.

        Args:
            run: a function that changes nothing, and whose inputs keep their place in memory.

        Returns:
            Its outputs, filled, and a function that fills their tensors again.

        Raises:
            NotCapturableError: it does something that cannot be replayed.
            NotWorthwhileError: it makes larger tensors than allowed.
        """
        with _garbage_uncollected():
            return self._capture(run)

    def _capture(self, run: Run) -> Capture:
        with Tape(self._most_bytes) as tape:
            outputs = run()
        leaves, spec = tree_flatten(outputs)
        expected = {index: leaf for index, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
        values = {index: tape.value_of(tensor) for index, tensor in expected.items()}
        operations, inside = shorten(tape.needed_for(values.values()), tape.bytes)
        lifetimes = _lifetimes(operations, values.values(), inside)
        places, size = lay_out(lifetimes, tape.bytes, set(tape.given))
        places |= {storage: places[other] + start for storage, (other, start) in inside.items()}
        if size > self._memory.nbytes():  # tensors in it stay valid, but their content is lost
            self._memory.resize_(size)
        with torch.inference_mode():
            tensors = RecordedTensors(self._memory, places, tape.given)
            steps = [step for operation in operations for step in steps_of(operation, tensors)]
            buffers = {index: tensors[value] for index, value in values.items()}

        def replay() -> None:
            with torch.inference_mode(), torch.autocast("cpu", enabled=False):
                for step in steps:
                    step()

        replay()
        if not all(_same_bits(buffers[index], tensor) for index, tensor in expected.items()):
            raise NotCapturableError("gives other bits when it is replayed")
        return Capture(tree_unflatten([buffers.get(index, leaf) for index, leaf in enumerate(leaves)], spec), replay)


@contextmanager
def _garbage_uncollected() -> Iterator[None]:
    """Switch the garbage collector off: a recording makes many objects, none of which become garbage, and collections
    in between can take longer than the recording."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _same_bits(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal to the last bit, NaN included."""
    return torch.equal(*(tensor.detach().contiguous().flatten().view(torch.uint8) for tensor in (one, other)))


# --- memory ----------------------------------------------------------------------------------------------------------


class RecordedTensors:
    """The tensors of a recording by their values, each made once.

    Args:
        memory: where the intermediate ones lie.
        places: byte at which each storage begins there.
        given: a tensor in each other storage.
    """

    def __init__(self, memory: torch.UntypedStorage, places: Mapping[int, int], given: Mapping[int, Tensor]) -> None:
        self._memory, self._places, self._given = memory, places, given
        self._made: dict[Value, Tensor] = {}

    def __getitem__(self, value: Value) -> Tensor:
        if value not in self._made:
            start, storage = self._places.get(value.storage), self._memory
            if start is None:
                start, storage = 0, self._given[value.storage].untyped_storage()
            offset = start // value.dtype.itemsize + value.offset
            self._made[value] = torch.empty(0, dtype=value.dtype).set_(storage, offset, value.size, value.stride)
        return self._made[value]

    def in_place_of_values(self, tree: Any) -> Any:
        """A tree with the tensor for each value."""
        if isinstance(tree, Value):
            return self[tree]
        if isinstance(tree, tuple | list):
            return [self.in_place_of_values(part) for part in tree]
        return tree


def _lifetimes(
    operations: Sequence[Operation], outputs: Iterable[Value], inside: Mapping[int, InnerPlace]
) -> dict[int, tuple[int, int]]:
    """Index of the first and the last operation that uses each storage; those of outputs are needed to the end.

    A storage that lies inside another one counts as that one, and has no entry.
    """
    lifetimes: dict[int, tuple[int, int]] = {}
    uses = [(index, operation.used) for index, operation in enumerate(operations)]
    uses.append((len(operations), {value.storage for value in outputs}))
    for index, used in uses:
        for storage in used:
            outer = inside[storage].storage if storage in inside else storage
            first, _ = lifetimes.get(outer, (index, index))
            lifetimes[outer] = first, index
    return lifetimes


def lay_out(
    lifetimes: Mapping[int, tuple[int, int]], sizes: Sequence[int], without: set[int]
) -> tuple[dict[int, int], int]:
    """Lay out storages so that no two overlap while both are needed.

    They are placed in the order of their first use, each into the smallest gap that it fits into.

    Args:
        lifetimes: first and last index at which each storage is needed.
        sizes: bytes of each storage.
        without: storages that need no place.

    Returns:
        First byte of each, and the bytes of all together.
    """
    starting, ending = defaultdict(list), defaultdict(list)
    for storage, (first, last) in lifetimes.items():
        if storage not in without:
            starting[first].append(storage)
            ending[last].append(storage)
    places: dict[int, int] = {}
    gaps, end = Gaps(), 0
    for index in sorted({*starting, *ending}):
        for storage in starting[index]:
            size = _aligned(sizes[storage])
            start = gaps.take(size)
            if start is None:
                start, end = gaps.take_end(end, size)
            places[storage] = start
        for storage in ending[index]:  # after `starting`: an operation must not write over its own arguments
            gaps.give(places[storage], _aligned(sizes[storage]))
    return places, end


def _aligned(size: int) -> int:
    return max(1, -(-size // ALIGNMENT)) * ALIGNMENT


class Gaps:
    """Free stretches of memory. Neighbours are always joined."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}  # by the start
        self._starts: dict[int, int] = {}  # by the end

    def take(self, size: int) -> int | None:
        """Start of `size` bytes in the smallest gap that is large enough; None: all are too small."""
        fitting = [(length, start) for start, length in self._sizes.items() if length >= size]
        if not fitting:
            return None
        length, start = min(fitting)
        self._remove(start)
        if length > size:
            self._insert(start + size, length - size)
        return start

    def take_end(self, end: int, size: int) -> tuple[int, int]:
        """Start and end of `size` bytes that reach beyond `end`, the end of all memory used so far."""
        start = self._starts.get(end, end)  # a gap just before the end is used as well
        if start < end:
            self._remove(start)
        return start, start + size

    def give(self, start: int, size: int) -> None:
        """A stretch becomes free."""
        if start in self._starts:
            before = self._starts[start]
            size += self._remove(before)
            start = before
        if start + size in self._sizes:
            size += self._remove(start + size)
        self._insert(start, size)

    def _insert(self, start: int, size: int) -> None:
        self._sizes[start], self._starts[start + size] = size, start

    def _remove(self, start: int) -> int:
        size = self._sizes.pop(start)
        del self._starts[start + size]
        return size


# --- calls -----------------------------------------------------------------------------------------------------------


def steps_of(operation: Operation, tensors: RecordedTensors) -> list[Step]:
    """The calls that do again what an operation did, with its results in their places."""
    overload, name = operation.overload, base_name(operation.overload)
    args = tensors.in_place_of_values(operation.args)
    kwargs = {key: tensors.in_place_of_values(value) for key, value in operation.kwargs.items()}
    if operation.changed:  # in place: the results are arguments, which have their places already
        return [partial(direct(overload, args, kwargs, (Tensor, torch)), *args, **kwargs)]
    if name in ALLOCATIONS:
        return []
    buffers = tensors.in_place_of_values(operation.results)
    if name in ZEROS:
        return [buffers.zero_]
    if name in COPIES:
        return [partial(buffers.copy_, args[0])]
    if name == "constant_pad_nd" and min(args[1]) >= 0:
        return _padding(*args, buffer=buffers)
    return [_writing(overload, args, kwargs, buffers) or _copying(overload, args, kwargs, buffers)]


def _writing(overload: Any, args: tuple, kwargs: dict[str, Any], buffers: Any) -> Step | None:
    """A call of the operation's variant that writes to given tensors; None if PyTorch has no kernel for it."""
    variant, names = _out_variant(overload)
    results = buffers if isinstance(buffers, tuple | list) else (buffers,)
    if variant is None or not all(isinstance(buffer, Tensor) for buffer in results) or len(results) != len(names):
        return None
    own = {argument.name for argument in variant._schema.arguments}
    kwargs = {name: value for name, value in kwargs.items() if name in own}
    short = kwargs | {"out": buffers if len(names) == 1 else tuple(results)}
    function = direct(variant, args, short, PLACES, base_name(overload))
    if function is not variant:
        return partial(function, *args, **short)
    if not torch._C._dispatch_has_kernel_for_dispatch_key(variant.name(), "CPU"):
        return None
    return partial(variant, *args, **kwargs, **dict(zip(names, results, strict=True)))


def _padding(x: Tensor, widths: Sequence[int], value: float = 0, *, buffer: Tensor) -> list[Step]:
    """`constant_pad_nd` straight into the buffer"""
    inner = buffer
    for dim, start in enumerate(widths[::2]):  # from the last dimension on
        inner = inner.narrow(-1 - dim, start, x.shape[-1 - dim])
    return [partial(buffer.fill_, value), partial(inner.copy_, x)]


def _copying(overload: Any, args: tuple, kwargs: dict[str, Any], buffers: Any) -> Step:
    """A call of the operation itself, whose results are then copied to their places."""
    function = direct(overload, args, kwargs, PLACES)
    if isinstance(buffers, Tensor):
        return lambda: buffers.copy_(function(*args, **kwargs))
    wanted = [(index, buffer) for index, buffer in enumerate(buffers) if isinstance(buffer, Tensor)]

    def compute_and_copy() -> None:
        results = function(*args, **kwargs)
        for index, buffer in wanted:
            buffer.copy_(results[index])

    return compute_and_copy


@cache
def _out_variant(overload: Any) -> tuple[Any, tuple[str, ...]]:
    """The overload with the same arguments that writes to given tensors, and their names; None and () without one."""
    packet = overload.overloadpacket
    for variant in (getattr(packet, name) for name in packet.overloads()):
        outs = tuple(argument.name for argument in variant._schema.arguments if argument.is_out)
        if outs and _inputs(variant) == _inputs(overload):
            return variant, outs
    return None, ()


def _inputs(overload: Any) -> list[tuple[str, str]]:
    """Names and types of the arguments, without `out` and without those that describe a new tensor."""
    arguments = overload._schema.arguments
    return [(each.name, str(each.type)) for each in arguments if not each.is_out and each.name not in OF_NEW_TENSORS]


_direct: dict[tuple, Callable[..., Any]] = {}


def direct(
    overload: Any, args: tuple, kwargs: dict[str, Any], places: Iterable[Any], name: str | None = None
) -> Callable[..., Any]:
    """PyTorch's Python function for an overload, which parses arguments faster; the overload itself if there is none.

    Args:
        overload: what the function must dispatch.
        args: arguments of the call; the answer depends on their types alone.
        kwargs: its keyword arguments.
        places: modules and classes to look in.
        name: of the function; None: the overload's.
    """
    key = overload, tuple(map(type, args)), tuple((key, type(value)) for key, value in kwargs.items())
    if key not in _direct:
        found = (getattr(place, name or base_name(overload), None) for place in places)
        suitable = (function for function in found if function and _dispatched(function, args, kwargs) is overload)
        _direct[key] = next(suitable, overload)
    return _direct[key]


def _dispatched(function: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> Any:
    """The overload that a call dispatches first, without running it; None if the function refuses the arguments."""
    first = _FirstDispatch()
    try:
        with first:
            function(*args, **kwargs)
    except _Found:
        return first.overload
    except (TypeError, RuntimeError, ValueError):
        return None
    return None


class _Found(Exception):
    """Ends a call at its first operation."""


class _FirstDispatch(TorchDispatchMode):
    overload: Any = None

    def __torch_dispatch__(self, overload: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.overload = overload
        raise _Found
