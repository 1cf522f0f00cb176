"""Workers of this machine: places for one run at a time, each on its GPU or on one CPU thread."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from experiments.launch.gpus import visible_gpus


@dataclass(eq=False)
class Worker:
    """A place for one run at a time."""

    name: str
    environment: dict[str, str] = field(default_factory=dict)


def make_workers(count: int | None, per_gpu: int = 1) -> list[Worker]:
    """Workers on the GPUs that CUDA_VISIBLE_DEVICES allows, in turns; without GPU, on one thread each.

    Args:
        count: how many; by default `per_gpu` for each GPU, or one for each CPU core.
        per_gpu: runs at a time on each GPU.
    """
    gpus, cores = visible_gpus(), len(os.sched_getaffinity(0))
    if not gpus:
        threads = {"OMP_NUM_THREADS": "1"}
        return [Worker(f"CPU worker {k + 1}", threads) for k in range(count or cores)]
    names = [gpus[k % len(gpus)] for k in range(count or per_gpu * len(gpus))]
    # the runs' threads share the cores
    threads = {"OMP_NUM_THREADS": str(max(1, cores // len(names)))} if len(names) > len(gpus) else {}
    return [Worker(f"GPU {name}", {"CUDA_VISIBLE_DEVICES": name} | threads) for name in names]
