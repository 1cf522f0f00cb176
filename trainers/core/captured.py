"""Functions of tensors, captured once as CUDA graphs and replayed.

On a GPU, a training step of small batches waits for the host: it launches thousands of kernels, each of which takes
longer to launch than to run. A CUDA graph launches them all by one call. `CapturedFunctions` captures any function that

* depends on nothing but its tensor arguments and on tensors that stay where they are (frozen weights);
* changes nothing and draws no random numbers;
* does not wait for the device: no `.item()`, no shape that depends on values, no copy between devices.

A graph works on fixed memory. Arguments of a step are copied into its input buffers, results are copied out of its
output buffers, so no caller ever holds memory of a graph. Resident arguments (learned tensors, which optimisers change
in place) are read where they lie.

One graph serves one shape signature: the shapes, strides and types of all arguments, and the arguments that are not
tensors. A signature gets its graph when it is first met.
All graphs share one memory pool. What cannot be captured runs eagerly, and one line says why.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from dassl.utils import UserError

CHOICES = ("auto", "on", "off")
WARM_UP_CALLS = 3
MOST_GRAPHS = 32
"""Bound on the graphs of one trainer. A batch of four needs 8: 6 pairs of query and support sizes, 2 batch sizes."""

Function = Callable[..., Any]
Run = Callable[[], Any]


class NotCapturableError(RuntimeError):
    """An operation that a graph cannot contain."""


class Capture(NamedTuple):
    """Output buffers as a tree, and the call that fills them again."""

    outputs: Any
    replay: Callable[[], None]


class Recorder(Protocol):
    """Turns a call without arguments into a capture of it."""

    def warm_up(self, run: Run) -> None:
        """Call `run` as it will be called while it is captured."""

    def capture(self, run: Run) -> Capture:
        """Record `run`, which must have been warmed up."""


class CudaRecorder:
    """Records CUDA graphs on a stream of its own, all in one memory pool."""

    def __init__(self, device: torch.device) -> None:
        self._stream, self._pool = torch.cuda.Stream(device), torch.cuda.graph_pool_handle()

    def warm_up(self, run: Run) -> None:
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            run()
        current.wait_stream(self._stream)

    def capture(self, run: Run) -> Capture:
        graph = torch.cuda.CUDAGraph()
        # thread_local: the thread that pins the next batch may go on allocating
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            outputs = run()
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
            torch._foreach_copy_(self.inputs, inputs)
        self.replay()
        buffers = [value for value in self.outputs if isinstance(value, Tensor)]
        results = [torch.empty_like(buffer) for buffer in buffers]
        if results:
            torch._foreach_copy_(results, buffers)
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
        self._eager: dict[Function, str] = {}
        self._is_full = False

    @classmethod
    def choose(cls, choice: str, device: torch.device) -> CapturedFunctions:
        """For a config's CUDA_GRAPH: auto (on a GPU), on or off. A CPU has no graphs, and "on" says so.

        Raises:
            UserError: unknown choice.
        """
        if choice not in CHOICES:
            raise UserError(f"unknown TRAINER.CUDA_GRAPH {choice!r}: choose one of {', '.join(CHOICES)}")
        if choice == "on" and device.type != "cuda":
            print("TRAINER.CUDA_GRAPH on needs a GPU: steps run eagerly")
        is_captured = choice != "off" and device.type == "cuda"
        return cls(CudaRecorder(device) if is_captured else None)

    @property
    def graphs(self) -> int:
        """Number of graphs at hand."""
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
        if self._recorder is None or function in self._eager:
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
        tensors = [value for value in flat if isinstance(value, Tensor)]
        graph = self._graphs.get(key)
        if graph is None or graph.resident != addresses:
            graph = self._capture(key, addresses, resident, flat, spec) if self._has_room(key) else None
        return _detached(function(*resident, *arguments)) if graph is None else graph(tensors)

    def _has_room(self, key: Hashable) -> bool:
        """Whether a graph may be made. Dropping another one instead would capture anew at every step."""
        if key in self._graphs or len(self._graphs) < MOST_GRAPHS:
            return True
        if not self._is_full:
            print(f"CUDA graphs: {MOST_GRAPHS} shapes have one, further shapes run eagerly")
            self._is_full = True
        return False

    def _capture(
        self, key: Hashable, addresses: tuple[int, ...], resident: tuple, flat: list[Any], spec: TreeSpec
    ) -> _Graph | None:
        """Warm up and record; None when that is not possible."""
        function: Function = key[0]
        self._graphs.pop(key, None)  # resident tensors were moved
        buffers = [value.clone() if isinstance(value, Tensor) else value for value in flat]

        def run() -> Any:
            return _detached(function(*resident, *tree_unflatten(buffers, spec)))

        try:
            with CaptureCheck():
                self._recorder.warm_up(run)
            for _ in range(WARM_UP_CALLS - 1):
                self._recorder.warm_up(run)
            capture = self._recorder.capture(run)
        except RuntimeError as error:  # the eager call that follows shows whether it was the function's own
            self._eager[function] = " ".join(str(error).split())[:300]
            print(f"CUDA graphs: {_name(function)} runs eagerly: {self._eager[function]}")
            return None
        inputs = [value for value in buffers if isinstance(value, Tensor)]
        graph = _Graph(addresses, inputs, *tree_flatten(capture.outputs), capture.replay)
        self._graphs[key] = graph
        return graph


def _name(function: Function) -> str:
    return getattr(function, "__name__", repr(function))


def _detached(tree: Any) -> Any:
    return tree_map_only(Tensor, torch.Tensor.detach, tree)


def _signature(value: Any) -> Hashable:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    return value


class CaptureCheck(TorchDispatchMode):
    """Raises NotCapturableError at the first operation that a graph cannot contain, on any device."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if reason := _obstacle(operation, args, kwargs):
            raise NotCapturableError(f"{operation} {reason}")
        return operation(*args, **kwargs)


def _obstacle(operation: Any, args: tuple, kwargs: dict) -> str | None:
    """Why a graph cannot contain an operation; None when it can."""
    name = operation.name().removeprefix("aten::").partition(".")[0]
    tags = operation.tags
    if torch.Tag.data_dependent_output in tags:
        return "waits for a value on the device"
    if name == "index":
        is_mask = any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        return "selects by a mask: the shape depends on values" if is_mask else None
    if torch.Tag.dynamic_output_shape in tags:
        return "gives a shape that depends on values"
    if torch.Tag.nondeterministic_seeded in tags and not _is_attention_without_dropout(operation, args, kwargs):
        return "draws random numbers"
    if name == "lift_fresh":
        return "makes a tensor from Python values, which is copied from the host"
    source = args[1] if name == "copy_" else args[0] if name == "_to_copy" else None
    if isinstance(source, Tensor):
        target = args[0].device if name == "copy_" else kwargs.get("device") or source.device
        if torch.device(target).type != source.device.type:
            return f"copies from {source.device.type} to {torch.device(target).type}"
    return None


def _is_attention_without_dropout(operation: Any, args: tuple, kwargs: dict) -> bool:
    """PyTorch's fused attention counts as random for its dropout alone."""
    if "scaled_dot_product" not in operation.name():
        return False
    names = [argument.name for argument in operation._schema.arguments]
    given = dict(zip(names, args, strict=False)) | kwargs
    return not given.get("dropout_p", 0.0)
