"""Text features of fixed class prompts by a tower that has trained branches in or beside some of its blocks.

What lies before the first branch never changes and is computed once, when the prompts are made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from clip.model import CLIP
from clip.packed_text import PackedPrompts, text_tower
from clip.recompute import recomputed
from clip.towers import Branch, output, output_with_branches, output_with_projections

EMBEDDINGS = -1
"""Place of a branch beside the token embeddings, before the positions are added; blocks are counted from 0."""

Branches = Mapping[int, Branch]


class BranchedText:
    """C class prompts without learned rows.

    Args:
        tokens: [C, L] token ids, as for `PackedPrompts.from_tokens`.
        first: place of the first branch.
        in_projections: whether the branches add to the queries, keys and values; if not, to the block's output.
    """

    def __init__(self, clip: CLIP, tokens: Tensor, first: int, in_projections: bool = False) -> None:
        self._clip, self.tokens, self._first, self._in_projections = clip, tokens, first, in_projections
        self.recompute_in_chunks(len(tokens))

    @property
    def chunk_lengths(self) -> list[int]:
        """Number of rows that are encoded for each chunk of classes."""
        return [rows.shape[1] for _, rows in self._chunks]

    def encode(
        self, branches_of: Callable[..., Branches], *tensors: Tensor, constants: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Text features [C, e], not normalised.

        Args:
            branches_of: makes the branches of `tensors`.
            tensors: what the branches learn.
            constants: a tensor for each chunk that `branches_of` gets in front of `tensors`; None: it gets none.
        """

        def encode(
            packed: PackedPrompts, rows: Tensor, constant: tuple[Tensor, ...], *tensors: Tensor
        ) -> tuple[Tensor]:
            return (self._encode(packed, rows, dict(branches_of(*constant, *tensors))),)

        given = [()] * len(self._chunks) if constants is None else [(constant,) for constant in constants]
        chunks = [(*chunk, constant) for chunk, constant in zip(self._chunks, given, strict=True)]
        if len(chunks) == 1:
            return encode(*chunks[0], *tensors)[0]
        return torch.cat([recomputed(partial(encode, *chunk), *tensors)[0] for chunk in chunks])

    @torch.no_grad()
    def recompute_in_chunks(self, classes: int) -> None:
        """From now on encode this many classes at a time, again in the backward passes instead of keeping them."""
        device = self._clip.logit_scale.device
        packed = [PackedPrompts.from_tokens(part).to(device) for part in self.tokens.split(classes)]
        self._chunks = [(part, self._unchanged_rows(part)) for part in packed]

    def _unchanged_rows(self, packed: PackedPrompts) -> Tensor:
        """What the first branch stands beside: a layer's input [1, L, d], or the token embeddings."""
        table = self._clip.token_embedding
        if self._first == EMBEDDINGS:
            return torch.cat([table(packed.prefix), table(packed.suffix)])[None]
        start, tower = text_tower(self._clip, packed, *packed.embed(self._clip), ())
        rows = tower.rows(start)[0]
        return output(tower.part(slice(self._first)), self._clip, rows) if self._first else rows

    def _encode(self, packed: PackedPrompts, rows: Tensor, branches: dict[int, Branch]) -> Tensor:
        """Text features [C, e] of a chunk, from the rows that do not change."""
        clip, parts = self._clip, [len(packed.prefix), len(packed.suffix)]
        if at_embeddings := branches.pop(EMBEDDINGS, None):
            table = clip.positional_embedding
            positions = torch.cat([table[: parts[0]], table[packed.positions]])  # [L, d]
            rows = (rows + at_embeddings(rows) + positions).to(clip.dtype)
        prefix, suffix = rows.split(parts, dim=1)
        _, tower = text_tower(clip, packed, prefix, suffix, ())
        first = max(self._first, 0)
        if self._in_projections:
            return output_with_projections(tower, rows, branches, first)[0]
        return output_with_branches(tower, clip, rows, branches, first)[0]
