"""GPUs of this machine: which there are, how many runs share one, and CUDA's service for sharing.

Runs that share a GPU take turns on it unless CUDA's Multi-Process Service (MPS) lets them work at the same time. Its
daemon is started for a launch and stopped after it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

MEMORY_PER_RUN_MIB = 12 * 1024
"""Room for a captured ProMetaR step on ViT-B/16 with 1,000 classes, and for CUDA itself."""
CORES_PER_RUN = 4
"""A run's main process and three of its loader's."""
MOST_PER_GPU = 8
MPS_CONTROL = "nvidia-cuda-mps-control"
SECONDS_TO_ANSWER = 30


def visible_gpus() -> list[str]:
    """GPUs by the names by which CUDA_VISIBLE_DEVICES knows them."""
    count, allowed = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return allowed.split(",")[:count] if allowed is not None else [str(k) for k in range(count)]


def runs_per_gpu(gpus: Sequence[str], cores: int) -> int:
    """How many runs fit on each GPU, by its free memory and by the CPU cores; 1 where the memory is not known."""
    free = _free_memory_mib()
    known = [next((mib for names, mib in free.items() if _is_one_of(gpu, names)), 0) for gpu in gpus]
    by_memory = min(known, default=0) // MEMORY_PER_RUN_MIB
    by_cores = cores // (CORES_PER_RUN * max(1, len(gpus)))
    return max(1, min(by_memory, by_cores, MOST_PER_GPU))


def _is_one_of(gpu: str, names: tuple[str, str]) -> bool:
    """Whether CUDA_VISIBLE_DEVICES' name, a number or the beginning of a UUID, stands for the GPU of these names."""
    number, uuid = names
    return gpu == number or (gpu.startswith("GPU-") and uuid.startswith(gpu))


def _free_memory_mib() -> dict[tuple[str, str], int]:
    """Free MiB of each GPU by its names (number, UUID); empty where nvidia-smi does not say."""
    command = ["nvidia-smi", "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS_TO_ANSWER, check=True)
        rows = [line.split(",") for line in answer.stdout.strip().splitlines()]
        return {(number.strip(), uuid.strip()): int(mib) for number, uuid, mib in rows}
    except (OSError, ValueError, subprocess.SubprocessError):
        return {}


@contextmanager
def shared_gpus(per_gpu: int, say: Callable[[str], None] = print) -> Iterator[dict[str, str]]:
    """Variables for the processes that share GPUs; with MPS while the context lasts, if it can be started.

    Nothing is started for one run at a time, or if the user has started MPS.

    Args:
        per_gpu: runs at a time on each GPU.
        say: prints the line about how they share it.
    """
    if per_gpu < 2:
        yield {}
        return
    if os.environ.get("CUDA_MPS_PIPE_DIRECTORY"):
        say(f"{per_gpu} runs share each GPU through the MPS of CUDA_MPS_PIPE_DIRECTORY")
        yield {}
        return
    with tempfile.TemporaryDirectory(prefix="mps-", ignore_cleanup_errors=True) as folder:
        variables = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        why_not = _start_mps(variables)
        if why_not is not None:
            say(f"{per_gpu} runs take turns on each GPU, without MPS: {why_not}")
            yield {}
            return
        say(f"{per_gpu} runs share each GPU through MPS")
        try:
            yield variables
        finally:
            _control(variables, "quit")


def _start_mps(variables: dict[str, str]) -> str | None:
    """Start the daemon; why it could not be started, None when it runs."""
    if shutil.which(MPS_CONTROL) is None:
        return f"{MPS_CONTROL} is not installed"
    # all GPUs: a run's CUDA_VISIBLE_DEVICES counts among those that the daemon sees
    environment = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"} | variables
    try:
        answer = subprocess.run(
            [MPS_CONTROL, "-d"],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS_TO_ANSWER,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"{MPS_CONTROL}: {error}"
    if answer.returncode:
        words = " ".join((answer.stderr or answer.stdout).split())
        return f"{MPS_CONTROL} ended with status {answer.returncode}: {words or 'no output'}"
    why_not = _control(variables, "get_server_list")
    if why_not is not None:
        _control(variables, "quit")
    return why_not


def _control(variables: dict[str, str], command: str) -> str | None:
    """Give the daemon a command; why that failed, None when it did not."""
    try:
        subprocess.run(
            [MPS_CONTROL],
            env=dict(os.environ) | variables,
            input=f"{command}\n",
            capture_output=True,
            text=True,
            timeout=SECONDS_TO_ANSWER,
            check=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"{MPS_CONTROL} {command}: {error}"
    return None
