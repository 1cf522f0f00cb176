"""Distances between two sets of vectors."""

from __future__ import annotations

import torch
from torch.nn import functional as F


def cosine_distance(input1: torch.Tensor, input2: torch.Tensor) -> torch.Tensor:
    """One minus the cosine, [m, d] and [n, d] to [m, n]."""
    return 1 - F.normalize(input1, dim=1) @ F.normalize(input2, dim=1).t()


def euclidean_squared_distance(input1: torch.Tensor, input2: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distance, [m, d] and [n, d] to [m, n]."""
    squares1 = input1.pow(2).sum(dim=1, keepdim=True)  # [m, 1]
    squares2 = input2.pow(2).sum(dim=1, keepdim=True).t()  # [1, n]
    return squares1 + squares2 - 2 * input1 @ input2.t()


_METRICS = {"cosine": cosine_distance, "euclidean": euclidean_squared_distance}


def compute_distance_matrix(input1: torch.Tensor, input2: torch.Tensor, metric: str = "euclidean") -> torch.Tensor:
    """Distances [m, n] between the rows of [m, d] and [n, d]; "euclidean" means squared.

    Raises:
        ValueError: the shapes do not fit, or there is no such metric.
    """
    if input1.dim() != 2 or input2.dim() != 2 or input1.shape[1] != input2.shape[1]:
        raise ValueError(f"expected [m, d] and [n, d], not {tuple(input1.shape)} and {tuple(input2.shape)}")
    if metric not in _METRICS:
        raise ValueError(f'unknown distance metric "{metric}"; available: {", ".join(_METRICS)}')
    return _METRICS[metric](input1, input2)
