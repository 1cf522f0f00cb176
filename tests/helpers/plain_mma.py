"""MMA's towers written out plainly, as in `plain_clip`; their gradients are the true ones, without MMA's factor 1/s."""

from __future__ import annotations

from collections.abc import Container

import torch
import torch.nn.functional as F
from plain_clip import State, block, layers_of, quick_gelu
from torch import Tensor

Theta = dict[str, Tensor]


def mma_adapter(theta: Theta, side: str, layer: int, scale: float, u: Tensor) -> Tensor:
    def linear(name: str, x: Tensor) -> Tensor:
        prefix = f"adapter_learner.{name}"
        return F.linear(x, theta[f"{prefix}.weight"], theta[f"{prefix}.bias"])

    hidden = linear(f"shared_adapter.{layer}.0", linear(f"{side}.{layer}.down.0", u).relu()).relu()
    return scale * linear(f"{side}.{layer}.up", hidden)


def mma_tower(
    state: State,
    prefix: str,
    x: Tensor,
    mask: Tensor | None,
    theta: Theta,
    side: str,
    layers: Container[int],
    scale: float,
) -> Tensor:
    """Rows [N, L, d] before the blocks -> behind them, with adapters beside `layers`, counted from 1."""
    for number in range(layers_of(state, prefix)):
        name = f"{prefix}.{number}"
        u = F.layer_norm(x, x.shape[-1:], state[f"{name}.ln_1.weight"], state[f"{name}.ln_1.bias"])
        x = block(state, name, x, mask, quick_gelu)
        if number + 1 in layers:
            x = x + mma_adapter(theta, side, number + 1, scale, u)
    return x


def mma_text(state: State, tokens: Tensor, theta: Theta, layers: Container[int], scale: float) -> Tensor:
    """Token ids [C, 77] -> features [C, e]"""
    x = state["token_embedding.weight"][tokens]
    if 0 in layers:
        x = x + mma_adapter(theta, "text_adapter", 0, scale, x)
    x = x + state["positional_embedding"]
    mask = torch.full((77, 77), float("-inf"), dtype=x.dtype).triu(1)
    x = mma_tower(state, "transformer.resblocks", x, mask, theta, "text_adapter", layers, scale)
    x = F.layer_norm(x, x.shape[-1:], state["ln_final.weight"], state["ln_final.bias"])
    return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ state["text_projection"]


def mma_image(state: State, images: Tensor, theta: Theta, layers: Container[int], scale: float) -> Tensor:
    """Images [B, 3, H, W] -> features [B, e]"""
    x = F.conv2d(images, state["visual.conv1.weight"], stride=16).flatten(2).transpose(1, 2)
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], dim=1)
    x = x + state["visual.positional_embedding"]
    x = F.layer_norm(x, x.shape[-1:], state["visual.ln_pre.weight"], state["visual.ln_pre.bias"])
    if 0 in layers:
        x = x + mma_adapter(theta, "visual_adapter", 0, scale, x)
    x = mma_tower(state, "visual.transformer.resblocks", x, None, theta, "visual_adapter", layers, scale)
    x = F.layer_norm(x[:, 0], x.shape[-1:], state["visual.ln_post.weight"], state["visual.ln_post.bias"])
    return x @ state["visual.proj"]
