"""Prompts that all classes share up to a layer, from which on each class has learned rows of its own.

Up to that layer the shared rows are computed once (`clip.packed_text`). After it only the start mark is still the same
for all classes: a class's own rows come after it, and every row that attends to them is the class's too.

      layers before        prefix  [SOS] v1 v2 v3 v4    suffix  cat . [EOT] sea lion . [EOT]
      layers from `layer`  prefix  [SOS]                suffix  a1 a2 a3 a4 cat . [EOT] b1 b2 b3 b4 sea lion . [EOT]

Shape legend: as in `clip.packed_text`, and: m class rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from clip.model import CLIP
from clip.packed_text import PackedPrompts, text_tower
from clip.recompute import recomputed
from clip.towers import output


class ClassPrompts:
    """C prompts whose rows 1 .. m are replaced, at the input of a layer, by rows of each class's own.

    Args:
        tokens: [C, L] token ids, as for `PackedPrompts.from_tokens`.
        learned: [C, L] index of the learned row at each place of the first layer, -1 for an ordinary token.
        rows: m.
        layer: the layer, counted from 0, whose input gets the class rows; at least 1.
        device: where they are encoded.
    """

    def __init__(self, tokens: Tensor, learned: Tensor, rows: int, layer: int, device: torch.device) -> None:
        self.tokens, self._learned, self._rows, self.layer, self._device = tokens, learned, rows, layer, device
        self.recompute_in_chunks(len(tokens))

    def encode(self, clip: CLIP, context: Tensor, class_rows: Tensor) -> Tensor:
        """Text features [C, e], not normalised, for context [R, d] and class rows [C, m, d]."""
        if len(self._chunks) == 1:
            return self._chunks[0](clip, context, class_rows)
        parts = [
            recomputed(lambda *tensors, chunk=chunk: (chunk(clip, *tensors),), context, rows)[0]
            for chunk, rows in zip(self._chunks, class_rows.split(self._classes), strict=True)
        ]
        return torch.cat(parts)

    def recompute_in_chunks(self, classes: int) -> None:
        """From now on encode this many classes at a time, again in the backward passes instead of keeping them."""
        self._classes, parts = classes, (self.tokens.split(classes), self._learned.split(classes))
        self._chunks = [_Chunk(*part, self._rows, self.layer, self._device) for part in zip(*parts, strict=True)]


class _Chunk:
    """Some of the classes. Arguments as of `ClassPrompts`."""

    def __init__(self, tokens: Tensor, learned: Tensor, rows: int, layer: int, device: torch.device) -> None:
        of_class = torch.full_like(learned, -1)
        of_class[:, 1 : 1 + rows] = torch.arange(len(tokens) * rows).view(-1, rows)
        shared, own = (PackedPrompts.from_tokens(tokens, index) for index in (learned, of_class))
        source = _rows_of(own, in_=shared)
        self.shared, self.own, self.source, self.layer = shared.to(device), own.to(device), source.to(device), layer

    def __call__(self, clip: CLIP, context: Tensor, class_rows: Tensor) -> Tensor:
        start, before = text_tower(clip, self.shared, *self.shared.embed(clip, context), ())
        rows = output(before.part(slice(self.layer)), clip, before.rows(start)[0])  # [1, P + T, d]
        rows = rows.index_select(1, self.source)  # from here on as `own` packs them
        target, learned = self.own.slots.unbind(1)
        rows = rows.index_copy(1, target, class_rows.flatten(0, 1)[learned].to(rows.dtype)[None])
        prefix, suffix = rows.split([len(self.own.prefix), len(self.own.suffix)], dim=1)
        _, behind = text_tower(clip, self.own, prefix, suffix, ())
        return behind.read(output(behind.part(slice(self.layer, None)), clip, rows))[0]


def _rows_of(packed: PackedPrompts, in_: PackedPrompts) -> Tensor:
    """For each row of `packed`, prefix first, the row of `in_` that stands at the same position of the same prompt."""
    first = packed.pad[:, 0]  # [C] each class's first packed row
    classes = torch.arange(len(first)).repeat_interleave(packed.last - first + 1)
    classes = torch.cat([torch.zeros(len(packed.prefix), dtype=torch.long), classes])
    positions = torch.cat([torch.arange(len(packed.prefix)), packed.positions])
    shared = len(in_.prefix)
    return torch.where(positions < shared, positions, shared + in_.pad[classes, 0] + positions - shared)
