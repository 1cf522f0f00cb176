"""Prompts that all classes share up to a layer, from which on each class has learned rows of its own.

Up to that layer the shared rows are computed once (`clip.packed_text`). Behind it only the start mark is still the same
for all classes: a class's own rows stand behind it, and every row that may look at them is the class's too.

      layers before          prefix   [SOS] v1 v2 v3 v4     suffix   cat . [EOT] sea lion . [EOT]
      layers from `layer`    prefix   [SOS]                 suffix   a1 a2 a3 a4 cat . [EOT] b1 ... sea lion . [EOT]

Shape legend: as in `clip.packed_text`, and: m class rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clip.model import CLIP
from clip.packed_text import PackedPrompts, text_tower
from clip.towers import output


class ClassPrompts:
    """C prompts whose rows 1 .. m are replaced, at the input of a layer, by rows of each class's own.

    Args:
        tokens: [C, L] token ids, as for `PackedPrompts.from_tokens`.
        learned: [C, L] index of the learned row at each place of the first layer, -1 for an ordinary token.
        rows: m.
        layer: the layer, counted from 0, whose input gets the class rows; at least 1.
    """

    def __init__(self, tokens: Tensor, learned: Tensor, rows: int, layer: int) -> None:
        of_class = torch.full_like(learned, -1)
        of_class[:, 1 : 1 + rows] = torch.arange(len(tokens) * rows).view(-1, rows)
        self.shared, self.own = (PackedPrompts.from_tokens(tokens, index) for index in (learned, of_class))
        self.source, self.layer = _rows_of(self.own, in_=self.shared), layer

    def to(self, device: torch.device | str) -> ClassPrompts:
        """These prompts, with every index moved to `device`."""
        self.shared, self.own, self.source = (part.to(device) for part in (self.shared, self.own, self.source))
        return self

    def encode(self, clip: CLIP, context: Tensor, class_rows: Tensor) -> Tensor:
        """Text features [C, e], not normalised, for context [R, d] and class rows [C, m, d]."""
        start, before = text_tower(clip, self.shared, *self.shared.embed(clip, context), ())
        rows = output(before.part(slice(0, self.layer)), clip, before.rows(start)[0])  # [1, P + T, d]
        rows = rows.index_select(1, self.source)
        target, learned = self.own.slots.unbind(1)
        rows = rows.index_copy(1, target, class_rows.flatten(0, 1)[learned].to(rows.dtype)[None])
        split = len(self.own.prefix), len(self.own.suffix)
        _, behind = text_tower(clip, self.own, *rows.split(split, dim=1), ())
        return behind.read(output(behind.part(slice(self.layer, None)), clip, rows))[0]


def _rows_of(packed: PackedPrompts, in_: PackedPrompts) -> Tensor:
    """For each row of `packed`, prefix first, the row of `in_` that stands at the same position of the same prompt."""
    first = packed.pad[:, 0]  # [C] each class's first packed row
    classes = torch.arange(len(first)).repeat_interleave(packed.last - first + 1)
    positions = torch.cat([torch.arange(len(packed.prefix)), packed.positions])
    classes = torch.cat([torch.zeros(len(packed.prefix), dtype=torch.long), classes])
    shared = len(in_.prefix)
    return torch.where(positions < shared, positions, shared + in_.pad[classes, 0] + positions - shared)
