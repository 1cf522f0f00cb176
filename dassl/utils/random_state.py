"""The state of the random number generators, in a form that a weights-only checkpoint can store."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True)
class CpuGenerators:
    """State of a process's generators on the CPU, copied fast.

    A loader's worker sends it with each batch: a class keeps it out of PyTorch's hands, which pins and shares tensors.
    """

    python: Any
    numpy: Any
    torch: bytes

    @staticmethod
    def current() -> CpuGenerators:
        """The state in this process."""
        return CpuGenerators(random.getstate(), np.random.get_state(), torch.get_rng_state().numpy().tobytes())

    def plain(self) -> dict[str, Any]:
        """In the form of `random_state`, without GPUs."""
        name, keys, *rest = self.numpy
        state = torch.frombuffer(bytearray(self.torch), dtype=torch.uint8)
        return {"python": self.python, "numpy": (name, keys.tolist(), *rest), "torch": state, "cuda": []}


def random_state() -> dict[str, Any]:
    """State of Python's, NumPy's and PyTorch's (CPU, and every GPU in use) global generators: numbers and tensors."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return CpuGenerators.current().plain() | {"cuda": cuda}


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore a state of `random_state`. States of GPUs that are not in use here are ignored.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: the state is invalid.
    """
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_initialized():
        for device, of_device in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
            torch.cuda.set_rng_state(of_device, device)


def check_random_state(state: Any) -> None:
    """Check a state without changing the generators.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError, OverflowError: the state is invalid.
    """
    with same_random_state_afterwards():
        restore_random_state(state)


@contextmanager
def same_random_state_afterwards() -> Iterator[None]:
    """Restore the generators' state at the end, so that draws in the block do not change later ones."""
    before = random_state()
    try:
        yield
    finally:
        restore_random_state(before)
