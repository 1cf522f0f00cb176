"""Triton kernels recorded instead of launched: what would run, and what would be compiled, on a GPU.

The results of a recorded kernel are whatever is in its memory: only shapes and numbers of operations mean something.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from clip import derivatives, fused, fused_rows

TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.int64: "i64", torch.bool: "i1"}


@dataclass(frozen=True)
class Launch:
    """A kernel with its arguments by name."""

    kernel: JITFunction
    arguments: dict[str, Any]
    options: dict[str, Any]

    @property
    def variant(self) -> tuple:
        """Launches of one variant share what Triton compiles."""
        return self.kernel.__name__, *((parameter.name, *self._kind(parameter)) for parameter in self.kernel.params)

    def _kind(self, parameter: Any) -> tuple:
        value = self.arguments[parameter.name]
        if isinstance(value, Tensor):
            return TYPES[value.dtype], value.data_ptr() % 16 == 0
        if parameter.is_constexpr:
            return (value,)
        return () if parameter.do_not_specialize or isinstance(value, float) else (value == 1, value % 16 == 0)

    def compile(self, capability: int) -> bytes:
        """Machine code for NVIDIA GPUs; needs none."""
        names = [parameter.name for parameter in self.kernel.params if parameter.is_constexpr]
        constants = {name: self.arguments[name] for name in names}
        signature = {name: self._type(value) for name, value in self.arguments.items()}
        source = ASTSource(self.kernel, signature | dict.fromkeys(constants, "constexpr"), constants)
        return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=self.options).asm["cubin"]

    @staticmethod
    def _type(value: Any) -> str:
        return "*" + TYPES[value.dtype] if isinstance(value, Tensor) else "fp32" if isinstance(value, float) else "i32"


class _Recorded:
    """Stands for a kernel; `kernel[grid](...)` is recorded."""

    def __init__(self, kernel: JITFunction, launches: list[Launch]) -> None:
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid: Sequence[int]) -> _Recorded:
        assert all(size > 0 for size in grid) and grid[0] < 2**31 and all(size < 2**16 for size in grid[1:])
        return self

    def __call__(self, *arguments: Any, **named: Any) -> None:
        names = [parameter.name for parameter in self.kernel.params]
        options = {name: named.pop(name) for name in ("num_warps",) if name in named}
        arguments = dict(zip(names, arguments, strict=False)) | named
        assert list(arguments) == names, f"{self.kernel.__name__} got {list(arguments)}"
        self.launches.append(Launch(self.kernel, arguments, options))


@contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Within it, the closed forms use the kernels, and their launches go to the list."""
    launches: list[Launch] = []
    with mock.patch.multiple(derivatives, kernels=fused, kernels_run_on="cpu"):
        patches = [
            mock.patch.object(module, name, _Recorded(kernel, launches))
            for module in (fused, fused_rows)
            for name, kernel in vars(module).items()
            if isinstance(kernel, JITFunction) and name.endswith("_kernel")
        ]
        for patch in patches:
            patch.start()
        try:
            yield launches
        finally:
            for patch in patches:
                patch.stop()
