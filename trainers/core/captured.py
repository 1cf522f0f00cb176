"""Functions of tensors, recorded once and replayed: as CUDA graphs on a GPU, as a list of operations on a CPU.

A training step of small batches waits for the host: it launches thousands of operations, each of which takes longer to
launch than to run. A CUDA graph launches them all by one call; `trainers.core.replay` removes the overhead around them
on a CPU. Both are *graphs* here, made by a `Recorder`. `CapturedFunctions` captures any function that

* depends on nothing but its tensor arguments and on tensors that stay where they are (frozen weights);
* changes nothing and draws no random numbers;
* does not wait for the device: no `.item()`, no shape that depends on values, no copy between devices.

A graph works on fixed memory. Arguments of a step are copied into its input buffers, results are copied out of its
output buffers, so no caller ever holds memory of a graph. Resident arguments (learned tensors, which optimisers change
in place) are read where they lie.

One graph serves one shape signature: the shapes, strides and types of all arguments, and the arguments that are not
tensors. All graphs share their memory. What cannot be captured runs eagerly, and one line says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from dassl.utils import one_line
from trainers.core.obstacles import CaptureCheck, NotWorthwhileError

WARM_UP_CALLS = 3
MOST_GRAPHS = 32
"""Bound on the graphs of one trainer. A batch of four needs 8: 6 pairs of query and support sizes, 2 batch sizes."""

Function = Callable[..., Any]
Run = Callable[[], Any]


class Capture(NamedTuple):
    """Output buffers as a tree, and the call that fills them again."""

    outputs: Any
    replay: Callable[[], None]


class Recorder(Protocol):
    """Turns a call without arguments into a capture of it."""

    name: str
    """in messages"""
    first_recorded_call: int
    """which call of a shape is recorded: 1 is the first; those before are eager"""

    def capture(self, run: Run) -> Capture:
        """Record `run`, with its outputs filled.

        Raises:
            RuntimeError: it cannot be recorded.
        """
        ...


class CudaRecorder:
    """Records CUDA graphs on its own stream, all in one memory pool."""

    name = "CUDA graphs"
    first_recorded_call = 1

    def __init__(self, device: torch.device) -> None:
        self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def _warm_up(self, run: Run) -> None:
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            run()
        current.wait_stream(self._stream)

    def capture(self, run: Run) -> Capture:
        with CaptureCheck():
            self._warm_up(run)
        for _ in range(WARM_UP_CALLS - 1):
            self._warm_up(run)
        graph = torch.cuda.CUDAGraph()
        # thread_local: the thread that pins the next batch may allocate meanwhile
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            outputs = run()
        graph.replay()
        return Capture(outputs, graph.replay)


@dataclass
class _Graph:
    """A captured function with its buffers."""

    resident: tuple[int, ...]
    inputs: list[Tensor]
    outputs: list[Any]
    outputs_spec: TreeSpec
    replay: Callable[[], None]

    def __call__(self, inputs: list[Tensor]) -> Any:
        if inputs:
            _copy(self.inputs, inputs)
        self.replay()
        return self.results()

    def results(self) -> Any:
        """What is in the output buffers."""
        buffers = [value for value in self.outputs if isinstance(value, Tensor)]
        results = [torch.empty_like(buffer) for buffer in buffers]
        if results:
            _copy(results, buffers)
        copies = iter(results)
        leaves = [next(copies) if isinstance(value, Tensor) else value for value in self.outputs]
        return tree_unflatten(leaves, self.outputs_spec)


class CapturedFunctions:
    """Calls functions, by their graphs where there are some.

    Args:
        recorder: makes the graphs; None: every call is eager.
    """

    def __init__(self, recorder: Recorder | None) -> None:
        self._recorder = recorder
        self._graphs: dict[Hashable, _Graph] = {}
        self._calls: Counter[Hashable] = Counter()
        self._eager: dict[Function, str] = {}
        self._is_full = False

    @property
    def graphs(self) -> int:
        """Number of graphs made."""
        return len(self._graphs)

    @property
    def refused(self) -> dict[str, str]:
        """Functions that run eagerly by name, with the reason."""
        return {_name(function): reason for function, reason in self._eager.items()}

    def __call__(self, function: Function, resident: tuple, *arguments: Any) -> Any:
        """function(*resident, *arguments), whose tensors are detached and belong to the caller.

        Args:
            function: as described at the top of this file; a method or a function, not a new closure for each call.
            resident: trees of tensors that are read where they lie.
            arguments: trees of tensors and constants that differ from call to call.
        """
        if self._recorder is None or function in self._eager or _is_watched():
            return _detached(function(*resident, *arguments))
        flat, spec = tree_flatten(arguments)
        held, held_spec = tree_flatten(resident)
        key = (
            function,
            (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
            held_spec,
            tuple(map(_signature, held)),
            spec,
            tuple(map(_signature, flat)),
        )
        addresses = tuple(tensor.data_ptr() for tensor in held if isinstance(tensor, Tensor))
        graph = self._graphs.get(key)
        if graph is not None and graph.resident == addresses:
            return graph([value for value in flat if isinstance(value, Tensor)])
        if self._is_due(self._recorder, key):
            self._graphs.pop(key, None)  # resident tensors were moved
            buffers = [value.clone() if isinstance(value, Tensor) else value for value in flat]

            def run() -> Any:
                return _detached(function(*resident, *tree_unflatten(buffers, spec)))

            if (capture := self._capture(self._recorder, function, run)) is not None:
                inputs = [value for value in buffers if isinstance(value, Tensor)]
                graph = _Graph(addresses, inputs, *tree_flatten(capture.outputs), capture.replay)
                self._graphs[key] = graph
                return graph.results()
        return _detached(function(*resident, *arguments))

    def _is_due(self, recorder: Recorder, key: Hashable) -> bool:
        """Whether a graph may be made. Dropping another one instead would mean a new capture at every step."""
        if key in self._graphs:
            return True
        if len(self._graphs) < MOST_GRAPHS:
            self._calls[key] += 1
            return self._calls[key] >= recorder.first_recorded_call
        if not self._is_full:
            print(f"{recorder.name}: {MOST_GRAPHS} shapes are recorded, further shapes run eagerly")
            self._is_full = True
        return False

    def _capture(self, recorder: Recorder, function: Function, run: Run) -> Capture | None:
        """Record a call of the function; None when that is not possible."""
        try:
            return recorder.capture(run)
        except RuntimeError as error:  # the eager call that follows shows whether it was the function's own
            self._eager[function] = one_line(error, 300)
            if not isinstance(error, NotWorthwhileError):
                print(f"{recorder.name}: {_name(function)} runs eagerly: {self._eager[function]}")
            return None


def _copy(targets: list[Tensor], values: list[Tensor]) -> None:
    """Copy several tensors by one operation."""
    torch._foreach_copy_(targets, values)  # pyright: ignore[reportPrivateImportUsage] - the only name it has


def _is_watched() -> bool:
    """Whether a dispatch mode is on: it is meant to see the operations of a function, not those of its replay."""
    return torch._C._len_torch_dispatch_stack() > 0


def _name(function: Function) -> str:
    return getattr(function, "__name__", repr(function))


def _detached(tree: Any) -> Any:
    return tree_map_only(Tensor, torch.Tensor.detach, tree)


def _signature(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    return value
