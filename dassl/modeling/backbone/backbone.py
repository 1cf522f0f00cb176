"""Base class of backbones."""

from __future__ import annotations

from torch import nn


class Backbone(nn.Module):
    """A module from images [batch, 3, height, width] to features [batch, out_features]."""

    def __init__(self) -> None:
        super().__init__()
        self._out_features: int | None = None

    @property
    def out_features(self) -> int | None:
        """Number of features."""
        return self._out_features
