"""ProMetaR's network M_phi, which weighs the gradient of the regularisers entry by entry."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dassl.utils import UserError
from trainers.core.gradients import Gradients
from trainers.core.prompts import Theta

MOST_WEIGHTS = 2**26
"""Of the network for one whole tensor (256 MiB). With `DIM_RATE` 8 that is enough for 20 tokens of width 768."""


class GradientModulator(nn.Module):
    """M_phi: for each learned tensor k, gamma_k = sigmoid(W2 W1 [g_k ; r_k]) in (0, 1), of k's shape (eq. 9).

    One gamma serves `dim_rate` adjacent entries. There is no activation between W1 and W2, and no bias.
    A network that reads a whole tensor grows with the square of its size. Where it would have more than `MOST_WEIGHTS`
    weights, the tensor is taken as rows, by its last axis, and one network serves all of them.

    Args:
        prompts: the tensors to be modulated.
        dim_rate: entries per gamma; must divide the size of every tensor, or of a row of it.

    Raises:
        UserError: it does not divide them.
    """

    def __init__(self, prompts: Mapping[str, Tensor], dim_rate: int) -> None:
        super().__init__()
        self.linear_vision_gamma, self.linear_text_gamma = nn.ModuleList(), nn.ModuleList()
        self.dim_rate = dim_rate
        self._index: dict[str, tuple[str, int]] = {}
        self._as_read: dict[str, tuple[int, ...]] = {}
        # visual layers are made first, as published: their start is drawn before that of the text side
        for name, prompt in sorted(prompts.items(), key=lambda named: not is_visual(named[0])):
            self._as_read[name] = shape_as_read(prompt, dim_rate)
            size = self._as_read[name][-1]
            if dim_rate < 1 or size % dim_rate:
                part = "a row of " * (size < prompt.numel())
                raise UserError(
                    f"TRAINER.PROMETAR.DIM_RATE {dim_rate} does not divide the {size} values of {part}{name}"
                )
            hidden = size // dim_rate
            side = "linear_vision_gamma" if is_visual(name) else "linear_text_gamma"
            self._index[name] = side, len(self[side])
            w1, w2 = nn.Linear(2 * size, hidden, bias=False), nn.Linear(hidden, hidden, bias=False)
            self[side].append(nn.Sequential(w1, w2))

    def __getitem__(self, side: str) -> nn.ModuleList:
        return getattr(self, side)

    def forward(self, g: Theta, r: Theta) -> Gradients:
        """gamma for every prompt tensor; g, r: gradients of L and R, of the prompts' shapes."""
        coarse = []
        for name, (side, index) in self._index.items():
            shape = self._as_read[name]
            pair = torch.cat([g[name].reshape(shape), r[name].reshape(shape)], dim=-1)  # [2 n d], or [rows, 2 d]
            coarse.append(self[side][index](pair).flatten())  # [n d / dim_rate]
        # the sigmoid and the repetition once for all tensors, not for each
        fine = torch.cat(coarse).sigmoid()[:, None].expand(-1, self.dim_rate).flatten()
        parts = fine.split([g[name].numel() for name in self._index])
        return {name: part.view_as(g[name]) for name, part in zip(self._index, parts, strict=True)}


def shape_as_read(tensor: Tensor, dim_rate: int) -> tuple[int, ...]:
    """The shape in which the modulator's network gets a tensor: [values], or [rows, values of a row]."""
    size = tensor.numel()
    hidden = size // max(dim_rate, 1)
    weights = 2 * size * hidden + hidden**2  # of W1 and W2
    return (size,) if weights <= MOST_WEIGHTS else (size // tensor.shape[-1], tensor.shape[-1])


def is_visual(name: str) -> bool:
    """Whether a learned tensor belongs to the image tower alone, by its published name."""
    return name.startswith("image_encoder.") or ".visual_" in name
