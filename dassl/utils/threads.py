"""How many threads PyTorch computes with on a CPU.

Each operation is split among the threads, and ends with the last of them. Operations of a small model take less time
than that takes, and a thread that waits for a busy core holds up all others.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch

from .errors import BadValueError

VARIABLE = "OMP_NUM_THREADS"
SMALL_MODEL_BYTES = 64 << 20
"""Size of the file with the weights up to which one thread is fastest (the smallest of OpenAI's has 244 MB)."""


def use_threads(given: int | None, weights: int | None, deterministic: bool) -> str:
    """Set the number of PyTorch's threads, unless OMP_NUM_THREADS does.

    Args:
        given: by the user.
        weights: size of the model's file in bytes; None if unknown.
        deterministic: choose the same number at each time on one machine.

    Returns:
        The number and its reason, for the log.

    Raises:
        BadValueError: the user gave two numbers.
    """
    from_environment = os.environ.get(VARIABLE)
    if from_environment and given is not None and from_environment != str(given):
        raise BadValueError(f"--threads {given} contradicts {VARIABLE}={from_environment}: leave one of them out")
    if from_environment:
        return f"Threads: {torch.get_num_threads()} ({VARIABLE})"
    number, reason = (given, "--threads") if given is not None else chosen_threads(weights, deterministic)
    torch.set_num_threads(number)
    return f"Threads: {number} ({reason})"


def chosen_threads(weights: int | None, deterministic: bool = False) -> tuple[int, str]:
    """The number of threads that is chosen, and the reason. The arguments are those of `use_threads`."""
    if weights is not None and weights <= SMALL_MODEL_BYTES:
        return 1, "the model is small; --threads N changes it"
    cores = min(usable_cores(), torch.get_num_threads())  # PyTorch starts with one thread for each physical core
    free = cores if deterministic else max(1, cores - busy_cores())
    what = f"{cores} cores" if free == cores else f"{free} of {cores} cores free"
    return free, f"{what}; --threads N changes it"


def usable_cores() -> int:
    """Cores that this process may use: its affinity and its control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no control group, or "max": no quota
        return cores


def busy_cores() -> int:
    """Cores that other programs were using in the last minute, at least half of the time."""
    try:
        return round(os.getloadavg()[0])
    except OSError:
        return 0
