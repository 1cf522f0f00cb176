"""Loader workers that are kept between epochs and draw the same random numbers as new ones.

PyTorch seeds a worker once, when its process starts: Python's `random`, PyTorch and NumPy, from the number that the
loader draws when a pass starts, and the worker's own number. With `persistent_workers`, PyTorch neither draws that
number for later passes nor seeds again. Here the loader publishes each later pass's number in shared memory, and a
worker seeds itself before it reads the first image of that pass.
"""

from __future__ import annotations

import os
import random
import signal
import threading
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, get_worker_info
from torch.utils.data._utils.worker import _generate_state

from dassl.utils.random_state import restore_random_state

from .loader_position import Position

_PASS, _BASE_SEED = 0, 1


class EpochSeeds:
    """The `worker_init_fn` of a loader; each set of workers has its own.

    Args:
        position: where the workers continue an interrupted pass; None: they start a pass.
    """

    def __init__(self, position: Position | None = None) -> None:
        self._position = position
        self._shared = torch.zeros(2, dtype=torch.int64).share_memory_()  # number of the pass, its base seed

    def announce_next_pass(self) -> None:
        """Draw the number that PyTorch draws for a pass with new workers, and publish it to these workers."""
        self._shared[_BASE_SEED] = torch.empty((), dtype=torch.int64).random_()
        self._shared[_PASS] += 1

    def __call__(self, worker_id: int) -> None:
        """In a worker, once: from now on its dataset's images are read by a `_SeededReader`."""
        info = get_worker_info()
        assert info is not None, "only workers are seeded here"
        dataset: Any = info.dataset
        dataset.__getitems__ = _SeededReader(dataset, worker_id, self._shared)
        outlive_signals()
        if self._position is not None:
            seed_as_fresh_worker(info.seed - worker_id, self._position.place(worker_id))
            if (state := self._position.continue_worker(worker_id)) is not None:
                restore_random_state(state)


class _SeededReader:
    """PyTorch's `__getitems__` of a dataset: reads the images of a batch; seeds first if a new pass has started."""

    def __init__(self, dataset: Dataset, worker_id: int, shared: torch.Tensor) -> None:
        self._dataset, self._worker_id, self._shared = dataset, worker_id, shared
        self._read_together = getattr(dataset, "__getitems__", None)
        self._pass = 0  # PyTorch has seeded the first one

    def __call__(self, indices: list[int]) -> list[Any]:
        current, base_seed = self._shared.tolist()
        if current != self._pass:
            seed_as_fresh_worker(base_seed, self._worker_id)
            self._pass = current
        if self._read_together is not None:
            return self._read_together(indices)
        return [self._dataset[index] for index in indices]


def seed_as_fresh_worker(base_seed: int, worker_id: int) -> None:
    """Seed the generators of this worker as PyTorch seeds those of a new worker.

    Args:
        base_seed: the number drawn for the pass.
        worker_id: which of the loader's workers this is.
    """
    seed = base_seed + worker_id
    random.seed(seed)
    torch.manual_seed(seed)
    np.random.seed(_generate_state(base_seed, worker_id))
    object.__setattr__(get_worker_info(), "seed", seed)  # read-only for others


def outlive_signals() -> None:
    """Let only the main process end this worker.

    Ctrl-C and clusters signal all processes of a run. The main process finishes its step and ends the workers then.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # it tells the sender; macOS does not have it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_when_the_main_process_asks, daemon=True).start()


def _end_when_the_main_process_asks() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
