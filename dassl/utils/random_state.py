"""The state of the random number generators, in a form that a weights-only checkpoint can store."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


def random_state() -> dict[str, Any]:
    """State of Python's, NumPy's and PyTorch's (CPU, and every GPU in use) global generators: numbers and tensors."""
    of_numpy = np.random.get_state()
    assert isinstance(of_numpy, tuple)
    name, keys, *rest = of_numpy
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


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
