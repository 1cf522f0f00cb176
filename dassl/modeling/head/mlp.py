"""Fully connected layers between backbone and classifier."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from dassl.utils.errors import BadValueError

from .build import HEAD_REGISTRY

_ACTIVATIONS = {"relu": nn.ReLU, "leaky_relu": lambda: nn.LeakyReLU(0.1)}


class MLP(nn.Sequential):
    """Linear, batch norm, activation, dropout, once for each entry of `hidden_layers`.

    Maps [batch, in_features] to [batch, out_features].

    Raises:
        BadValueError: there are no layers, or the activation is unknown.
    """

    def __init__(
        self,
        in_features: int,
        hidden_layers: Sequence[int],
        activation: str | None = "relu",
        bn: bool = True,
        dropout: float = 0.0,
    ) -> None:
        widths = [hidden_layers] if isinstance(hidden_layers, int) else list(hidden_layers)
        if not widths:
            raise BadValueError("MODEL.HEAD.HIDDEN_LAYERS should list at least one width")
        if activation is not None and activation not in _ACTIVATIONS:
            raise BadValueError(f'unknown MODEL.HEAD.ACTIVATION "{activation}"; available: {", ".join(_ACTIVATIONS)}')
        layers: list[nn.Module] = []
        for width_in, width_out in zip([in_features, *widths[:-1]], widths, strict=True):
            layers.append(nn.Linear(width_in, width_out))
            if bn:
                layers.append(nn.BatchNorm1d(width_out))
            if activation is not None:
                layers.append(_ACTIVATIONS[activation]())
            if dropout > 0:
                layers.append(nn.Dropout(dropout))
        super().__init__(*layers)
        self.out_features = widths[-1]


@HEAD_REGISTRY.register()
def mlp(**kwargs: Any) -> MLP:
    """The head `mlp`."""
    return MLP(**kwargs)
