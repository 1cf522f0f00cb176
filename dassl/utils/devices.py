"""Where to compute."""

from __future__ import annotations

import torch


def chosen_device(use_cuda: bool) -> torch.device:
    """The GPU, if it is wanted and there is one; else the CPU."""
    return torch.device("cuda" if use_cuda and torch.cuda.is_available() else "cpu")
