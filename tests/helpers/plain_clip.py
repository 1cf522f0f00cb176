"""CLIP's two towers written out plainly: all 77 positions, explicit softmax, prompts put in by hand.

Slow and simple on purpose: what the packed, prompted towers of the project are compared with. Nothing is shared with
them but the state dict (OpenAI's names). Follows Radford et al. 2021 (pre-norm blocks, quick GELU, heads of width 64).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

State = Mapping[str, Tensor]


def unit(features: Tensor) -> Tensor:
    """Features [..., e] divided by their length."""
    return features / features.norm(dim=-1, keepdim=True)


def similarity(state: State, image: Tensor, text: Tensor) -> Tensor:
    """Logits [B, C] of features [B, e] and [C, e]."""
    return state["logit_scale"].exp() * unit(image) @ unit(text).t()


def block(state: State, prefix: str, x: Tensor, mask: Tensor | None, gelu) -> Tensor:
    """One residual block, x [N, L, d]."""
    n, length, width = x.shape
    heads = width // 64

    def linear(name: str, value: Tensor) -> Tensor:
        return F.linear(value, state[f"{prefix}.{name}weight"], state[f"{prefix}.{name}bias"])

    def norm(name: str, value: Tensor) -> Tensor:
        return F.layer_norm(value, (width,), state[f"{prefix}.{name}.weight"], state[f"{prefix}.{name}.bias"])

    q, k, v = linear("attn.in_proj_", norm("ln_1", x)).chunk(3, dim=-1)
    q, k, v = (t.reshape(n, length, heads, 64).transpose(1, 2) for t in (q, k, v))  # [N, h, L, 64]
    scores = q @ k.transpose(-1, -2) / 8
    scores = scores if mask is None else scores + mask
    attended = (scores.softmax(dim=-1) @ v).transpose(1, 2).reshape(n, length, width)
    x = x + linear("attn.out_proj.", attended)
    return x + linear("mlp.c_proj.", gelu(linear("mlp.c_fc.", norm("ln_2", x))))


def quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def layers_of(state: State, tower: str) -> int:
    return 1 + max(int(name.split("resblocks.")[1].split(".")[0]) for name in state if name.startswith(tower))


def text_from_rows(state: State, rows: Tensor, ends: Tensor, deep: Sequence[Tensor] = (), gelu=quick_gelu) -> Tensor:
    """Input rows [C, 77, d] without positions, end marks at `ends` [C] -> features [C, e]; deep[l - 1] at layer l."""
    x = rows + state["positional_embedding"]
    length = rows.shape[1]
    mask = torch.full((length, length), float("-inf"), dtype=x.dtype).triu(1)
    for layer in range(layers_of(state, "transformer.resblocks")):
        if 0 < layer <= len(deep):
            prompt = deep[layer - 1]
            n = len(prompt)
            x = torch.cat([x[:, :1], prompt.expand(len(x), -1, -1), x[:, 1 + n :]], dim=1)
        x = block(state, f"transformer.resblocks.{layer}", x, mask, gelu)
    x = F.layer_norm(x, x.shape[-1:], state["ln_final.weight"], state["ln_final.bias"])
    return x[torch.arange(len(x)), ends] @ state["text_projection"]


def text_features(state: State, tokens: Tensor, gelu=quick_gelu) -> Tensor:
    """Token ids [C, 77] -> features [C, e]"""
    return text_from_rows(state, state["token_embedding.weight"][tokens], tokens.argmax(dim=-1), gelu=gelu)


def prompted_text_features(state: State, tokens: Tensor, context: Tensor, deep: Sequence[Tensor] = ()) -> Tensor:
    """As `text_features`, the rows behind the start mark replaced by a context [n, d]."""
    rows = state["token_embedding.weight"][tokens]
    n = context.shape[-2]
    rows = torch.cat([rows[:, :1], context.expand(len(rows), -1, -1), rows[:, 1 + n :]], dim=1)
    return text_from_rows(state, rows, tokens.argmax(dim=-1), deep)


def image_features(state: State, images: Tensor, prompts: Sequence[Tensor] = (), gelu=quick_gelu) -> Tensor:
    """Images [B, 3, H, W] -> features [B, e]; prompts[0] is appended before the first norm, prompts[l] at layer l."""
    kernel = state["visual.conv1.weight"]
    x = F.conv2d(images, kernel, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)  # [B, patches, d]
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], dim=1)
    x = x + state["visual.positional_embedding"]
    length = x.shape[1]
    if prompts:
        x = torch.cat([x, prompts[0].expand(len(x), -1, -1)], dim=1)
    x = F.layer_norm(x, x.shape[-1:], state["visual.ln_pre.weight"], state["visual.ln_pre.bias"])
    for layer in range(layers_of(state, "visual.transformer.resblocks")):
        if 0 < layer < len(prompts):
            x = torch.cat([x[:, :length], prompts[layer].expand(len(x), -1, -1)], dim=1)
        x = block(state, f"visual.transformer.resblocks.{layer}", x, None, gelu)
    x = F.layer_norm(x[:, 0], x.shape[-1:], state["visual.ln_post.weight"], state["visual.ln_post.bias"])
    return x @ state["visual.proj"]
