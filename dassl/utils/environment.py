"""Seeds, determinism, and the hardware and software of a run."""

from __future__ import annotations

import os
import platform
import random
import sys
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch

from dassl.seeds import seed_problem

from .errors import BadValueError

_REPORTED_PACKAGES = ("torch", "torchvision", "numpy", "Pillow", "yacs", "open_clip_torch", "safetensors")


def set_random_seed(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's (CPU and every GPU) global generators.

    Raises:
        BadValueError: one of them does not accept the number.
    """
    if problem := seed_problem(seed):
        raise BadValueError(f"SEED: {problem}")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.cuda.manual_seed_all(seed)


def use_deterministic_algorithms() -> None:
    """Let PyTorch compute the same bits in every run on one machine, at some cost in speed on a GPU.

    Must be called before the first computation on a GPU. Operations without a deterministic form raise RuntimeError.
    """
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read by cuBLAS when it starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False


def collect_env_info() -> str:
    """Versions and hardware, one per line. Starts no subprocess, so it takes milliseconds."""
    facts = {
        "Python": sys.version.split()[0],
        "Platform": platform.platform(),
        "CPU": f"{os.cpu_count()} cores, {torch.get_num_threads()} PyTorch threads",
        **{name: _package_version(name) for name in _REPORTED_PACKAGES},
        "CUDA of PyTorch": torch.version.cuda or "none",
        "cuDNN": str(torch.backends.cudnn.version()) if torch.backends.cudnn.is_available() else "none",
        "GPUs": _gpus(),
    }
    return "\n".join(f"{name}: {value}" for name, value in facts.items())


def _package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none"
    return ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
