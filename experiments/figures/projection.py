"""Two-dimensional pictures of features by principal components."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Plane(NamedTuple):
    """The two directions of the largest variance of some rows.

    Args:
        axes: [2, e] unit vectors, the first of the largest variance; their largest entry is positive.
        shares: [2] of the variance.
    """

    axes: Tensor
    shares: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        """Coordinates [N, 2] of centred rows [N, e]."""
        return rows.to(self.axes.dtype) @ self.axes.t()


def principal_plane(rows: Tensor) -> Plane:
    """The plane of rows [N, e] that are centred already. Of rows along one line, the second direction is any."""
    _, lengths, axes = torch.linalg.svd(rows.double(), full_matrices=False)  # [K], [K, e]
    variances = lengths.square()
    if len(axes) < 2:
        axes = torch.cat([axes, axes.new_zeros(2 - len(axes), axes.shape[1])])
        variances = torch.cat([variances, variances.new_zeros(2 - len(variances))])
    axes = axes[:2]
    signs = axes.gather(1, axes.abs().argmax(dim=1, keepdim=True)).sign()  # [2, 1]; the decomposition leaves it open
    return Plane(torch.where(signs < 0, -axes, axes), variances[:2] / variances.sum().clamp(min=1e-300))


def centred_rows(rows: Tensor) -> Tensor:
    """Rows [N, e] less their mean."""
    rows = rows.double()
    return rows - rows.mean(dim=0)
