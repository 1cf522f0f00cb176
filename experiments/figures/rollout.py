"""Attention rollout of an image tower: how much each token of the input takes part in the class token at its end.

Abnar, Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020. With A_l the attention of layer l, averaged over
its heads, the share of every input token in every row is

    R_0 = I,    R_(l+1) = (A_l + I) / 2  R_l

Visual prompts take part like all other tokens. A prompt that a deeper layer puts in place of the earlier one is a new
input: what the earlier one had gathered is gone, as in the tower itself.

Shape legend: B images, h heads, K rows that a layer keeps, L rows that it sees, S input tokens so far.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from clip.model import CLIP, VisionTransformer
from dassl.utils import UserError


class Shares(NamedTuple):
    """Parts of the class token's rollout, which add up to 1.

    Args:
        patches: [B, rows, columns]
        class_token: [B]
        prompts: [B], of all layers
    """

    patches: Tensor
    class_token: Tensor
    prompts: Tensor


class _Attention(TorchFunctionMode):
    """Keeps the attention [B, K, L] of each layer, averaged over the heads, of the towers that run inside.

    It sees both forms in which towers here compute it: PyTorch's attention, and the softmax of the closed forms, whose
    rows are [B * h, K, L].
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, self.layers = heads, []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            q, k = (part.float() for part in args[:2])  # [B, h, K, c], [B, h, L, c]
            weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(dim=-1)
            self.layers.append(weights.mean(dim=1))
            return func(*args, **kwargs)
        result = func(*args, **kwargs)
        if func is Tensor.softmax:
            self.layers.append(result.float().unflatten(0, (-1, self.heads)).mean(dim=1))
        return result


@torch.no_grad()
def attention_shares(clip: CLIP, image_features: Callable[[Tensor], Tensor], images: Tensor) -> Shares:
    """Rollout of a prompted image tower.

    Args:
        clip: the frozen model that `image_features` uses.
        image_features: features [B, e] of images.
        images: [B, 3, H, W]

    Raises:
        UserError: the image tower is not a ViT, or the method does not compute one attention a layer.
    """
    if not isinstance(clip.visual, VisionTransformer):
        raise UserError("a ResNet image tower has no attention to follow: choose a run with a ViT backbone")
    blocks, size = clip.visual.transformer.resblocks, clip.visual.input_resolution // clip.visual.conv1.kernel_size[0]
    heads = int(blocks[0].heads)  # pyright: ignore[reportArgumentType] - a Sequential's items are any module
    seen = _Attention(heads)
    with seen:
        image_features(images)
    length = 1 + size * size
    lengths = [weights.shape[-1] for weights in seen.layers]
    if len(lengths) != len(blocks) or min(lengths) < length:
        raise UserError(f"the attention of this method cannot be followed: {len(lengths)} of {len(blocks)} layers seen")
    shares = rollout(seen.layers)  # [B, S]
    patches = shares[:, 1:length].unflatten(1, (size, size))
    return Shares(patches, shares[:, 0], shares[:, length:].sum(dim=1))


def rollout(layers: Sequence[Tensor]) -> Tensor:
    """Share of each input token in the first row of the last layer, [B, S].

    Args:
        layers: attention [B, K, L] of each layer, whose K rows are the first of its L. The next layer sees these, and
            behind them new input tokens, if it sees more.
    """
    first = layers[0]
    shares = torch.eye(first.shape[-1], dtype=first.dtype, device=first.device).expand(len(first), -1, -1)  # [B, L, S]
    for attention in layers:
        new = attention.shape[-1] - shares.shape[1]
        shares = F.pad(shares, (0, new, 0, new))  # [B, L, S]
        if new:
            shares[:, -new:, -new:] = torch.eye(new, dtype=shares.dtype, device=shares.device)
        mixed = attention @ shares  # [B, K, S]
        shares = (mixed + shares[:, : mixed.shape[1]]) / 2
    return shares[:, 0]
