"""The text tower, computed once for what all classes share and without padding for the rest.

CLIP's text tower is causal: a position depends on those before it, and only the end mark's row is read. So

* rows after the end mark are never computed;
* the start mark, the context and every other leading token that all prompts have in common give the same rows for
  every class: they are computed once (the *prefix*);
* what remains of each class, its *suffix* (name, full stop, end mark), is packed without padding:

      prompts                                     computed rows
      [SOS] v1 v2 v3 v4  cat .  [EOT] 0 0 ..      prefix   [SOS] v1 v2 v3 v4
      [SOS] v1 v2 v3 v4  sea lion .  [EOT] 0      suffix    cat . [EOT] sea lion . [EOT] dog . [EOT]
      [SOS] v1 v2 v3 v4  dog .  [EOT] 0 0 ..                `---class 0---'`----class 1----'`--class 2-'

Layer norms, projections and MLPs act on the P + T rows side by side. Only attention looks across rows: a prefix row
sees the prefix rows up to itself; a suffix row sees the whole prefix and its own class up to itself. The result is the
same as with 77 padded positions, to rounding.

Shape legend: C prompts (classes), P prefix rows, T packed suffix rows, S longest suffix, R learned context rows,
d width, h heads, e joint embedding, `...` optional batch (one prompt set per image).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clip.derivatives import kernels_for
from clip.towers import Pulled, Pushed, Replacing, Tower, output

if TYPE_CHECKING:
    from clip.model import CLIP


@dataclass(frozen=True)
class PackedPrompts:
    """Where each token of C prompts goes. Built once per class list; holds integers only."""

    prefix: Tensor
    """[P] token ids of the shared rows (0 where a learned row sits)."""
    suffix: Tensor
    """[T] token ids of the packed rows."""
    prefix_slots: Tensor
    """[Rp, 2] pairs (prefix row, learned row that sits there)."""
    suffix_slots: Tensor
    """[Rs, 2] pairs (packed row, learned row that sits there)."""
    positions: Tensor
    """[T] position in its prompt of each packed row."""
    pad: Tensor
    """[C, S] packed row at each place of the padded suffixes; places after a suffix repeat its last row."""
    unpad: Tensor
    """[T] place in the flattened [C * S] of each packed row."""
    last: Tensor
    """[C] packed row of each end mark."""

    @classmethod
    def from_tokens(cls, tokens: Tensor, learned: Tensor | None = None) -> PackedPrompts:
        """Pack C prompts.

        Args:
            tokens: [C, L] token ids; the end mark is the largest id of a row, as in CLIP.
            learned: [C, L] index of the learned row at each place, -1 for an ordinary token; None: none at all.
        """
        device = tokens.device
        tokens = tokens.cpu()
        learned = torch.full_like(tokens, -1) if learned is None else learned.cpu()
        lengths = tokens.argmax(dim=-1) + 1  # [C], end mark included
        shared = _shared_length(tokens, learned, lengths)

        ends = (lengths - shared).cumsum(0)  # [C] one after each class's last packed row
        suffix_lengths = lengths - shared
        starts = ends - suffix_lengths
        longest = int(suffix_lengths.max())
        place = torch.arange(longest)
        pad = starts[:, None] + torch.minimum(place[None], suffix_lengths[:, None] - 1)  # [C, S]
        occupied = place[None] < suffix_lengths[:, None]  # [C, S]
        unpad = occupied.flatten().nonzero().squeeze(1)
        within = place.expand_as(pad)[occupied] + shared  # [T]
        owner = torch.arange(len(tokens))[:, None].expand_as(pad)[occupied]  # [T]
        suffix, suffix_learned = tokens[owner, within], learned[owner, within]
        prefix, prefix_learned = tokens[0, :shared], learned[0, :shared]
        packed = cls(
            prefix=prefix,
            suffix=suffix,
            prefix_slots=_slots(prefix_learned),
            suffix_slots=_slots(suffix_learned),
            positions=within,
            pad=pad,
            unpad=unpad,
            last=ends - 1,
        )
        return packed.to(device)

    def to(self, device: torch.device | str) -> PackedPrompts:
        """The same prompts with every index on `device`."""
        return PackedPrompts(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})

    @cached_property
    def slots(self) -> Tensor:
        """[R', 2] pairs (row, learned row that sits there) of the prefix and the packed suffixes as one."""
        rows, learned = self.suffix_slots.unbind(1)
        return torch.cat([self.prefix_slots, torch.stack([rows + len(self.prefix), learned], dim=1)])

    @cached_property
    def attention(self) -> AttentionIndex:
        """Which rows attend to which."""
        return AttentionIndex.build(self)

    def embed(self, clip: CLIP, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Input rows: frozen token embeddings, learned rows in their slots, positions added.

        Args:
            context: [..., R, d] learned rows.

        Returns:
            prefix [..., P, d] and suffix [..., T, d] (without the batch where no learned row sits in it)
        """
        table, positional = clip.token_embedding, clip.positional_embedding
        prefix = _fill(table(self.prefix), context, self.prefix_slots) + positional[: len(self.prefix)]
        suffix = _fill(table(self.suffix), context, self.suffix_slots) + positional[self.positions]
        return prefix, suffix


def _shared_length(tokens: Tensor, learned: Tensor, lengths: Tensor) -> int:
    """Number of leading places that are the same in all prompts, leaving each at least its end mark."""
    same = ((tokens == tokens[:1]) | (learned >= 0)) & (learned == learned[:1])  # [C, L]
    differs = (~same.all(dim=0)).nonzero()
    shared = int(differs[0]) if len(differs) else tokens.shape[1]
    return min(shared, int(lengths.min()) - 1)


def _slots(learned: Tensor) -> Tensor:
    """[rows] learned index or -1 -> [R', 2] pairs (row, learned index)"""
    rows = (learned >= 0).nonzero().squeeze(1)
    return torch.stack([rows, learned[rows]], dim=1)


def _fill(rows: Tensor, context: Tensor | None, slots: Tensor) -> Tensor:
    """rows [rows, d] with learned rows put into their slots -> [..., rows, d]"""
    if not len(slots):
        return rows
    if context is None:
        raise ValueError("these prompts have learned rows: pass the context")
    target, source = slots.unbind(1)
    rows = rows.to(context.dtype).expand(*context.shape[:-2], *rows.shape)
    return rows.index_copy(-2, target, context.index_select(-2, source))


def encode_prompts(
    clip: CLIP, packed: PackedPrompts, prefix: Tensor, suffix: Tensor, deep: Sequence[Tensor] = ()
) -> Tensor:
    """Text features of C prompts, not normalised.

    Args:
        prefix: [..., P, d] input rows of the shared part.
        suffix: [..., T, d] input rows of the packed suffixes.
        deep: tensors [n, d]; `deep[i]` takes the place of rows 1..n at the input of layer i + 1.

    Returns:
        [..., C, e]
    """
    batch = torch.broadcast_shapes(prefix.shape[:-2], suffix.shape[:-2])
    start, tower = text_tower(clip, packed, prefix, suffix, deep)
    encoded = output(tower, clip, start, *deep)
    return encoded.view(*batch, *encoded.shape[-2:])


def text_tower(
    clip: CLIP, packed: PackedPrompts, prefix: Tensor, suffix: Tensor, deep: Sequence[Tensor]
) -> tuple[Tensor, Tower]:
    """Arguments as of `encode_prompts` -> rows [N, ., d] that the tower starts from, and the tower as their function.

    The packed suffixes are constants of the tower where no learned row sits in them.
    """
    blocks, shared = clip.transformer.blocks, prefix.shape[-2]
    if len(deep) >= len(blocks):
        raise ValueError(f"text prompts for {len(deep) + 1} layers, but the text tower has {len(blocks)}")
    if any(1 + prompt.shape[-2] > shared for prompt in deep):
        raise ValueError(f"deep text prompts replace rows that all prompts share, but only {shared - 1} are shared")
    batch = torch.broadcast_shapes(prefix.shape[:-2], suffix.shape[:-2])
    prefix, suffix = (rows.expand(*batch, *rows.shape[-2:]).to(clip.dtype) for rows in (prefix, suffix))
    prefix, suffix = (rows.reshape(-1, *rows.shape[-2:]) for rows in (prefix, suffix))  # [N, P, d], [N, T, d]
    constant_suffix = not len(packed.suffix_slots)
    start, after = (prefix, suffix) if constant_suffix else (torch.cat([prefix, suffix], dim=-2), None)
    every, ends = PackedRows(packed, len(start), blocks[0].heads), EndMarks(packed, len(start), blocks[0].heads)
    tower = Tower(
        blocks=blocks,
        layouts=[*[every] * (len(blocks) - 1), ends],
        place=Replacing(1),
        after=after,
        norm=clip.ln_final,
        projection=clip.text_projection,
    )
    return start, tower


class TextTrace:
    """Text features [C, e] as a function of the learned rows [R, d] and of deep prompts; a `clip.towers.Trace`."""

    def __init__(self, clip: CLIP, packed: PackedPrompts, context: Tensor, deep: Sequence[Tensor]) -> None:
        start, tower = text_tower(clip, packed, *packed.embed(clip, context), deep)
        self.target, self.source = packed.slots.unbind(1)
        self.trace, self.context, self.start_length = tower.trace(start, *deep), context, start.shape[1]
        self.output = self.trace.output[0]

    def pull(self, cotangents: Tensor) -> tuple[list[Tensor], Pulled]:
        (start, *deep), pulled = self.trace.pull(cotangents[:, None])
        return [self._learned(start[:, 0]), *deep], pulled

    def push(self, *tangents: Tensor) -> tuple[Tensor, Pushed]:
        context, *deep = tangents
        start = context.new_zeros(len(context), self.start_length, context.shape[-1])
        start.index_copy_(1, self.target, context.index_select(1, self.source))
        features, pushed = self.trace.push(start[:, None], *deep)
        return features[:, 0], pushed

    def second(self, cotangent: Tensor, pulled: Pulled, pushed: Pushed) -> list[Tensor]:
        start, *deep = self.trace.second(cotangent[None], pulled, pushed)
        return [self._learned(start)[0], *deep]

    def _learned(self, start: Tensor) -> Tensor:
        """Cotangents of the first layer's rows [K, m, d] -> of the learned rows [K, R, d]"""
        rows = start.index_select(1, self.target).to(self.context.dtype)
        return rows.new_zeros(len(rows), *self.context.shape).index_add_(1, self.source, rows)


@dataclass(frozen=True, eq=False)
class AttentionIndex:
    """Attention among P prefix rows and C packed suffixes as G problems of S queries and P + S keys, by row numbers.

    Each suffix is a problem: its queries are the suffix, padded to S; its keys the prefix and the padded suffix. The
    prefix itself makes ceil(P / S) more, in front of them: S of its rows each against the prefix.

    Rows after the end of a suffix, or of the prefix, repeat its last row. Nothing sees them as keys (`mask`), and what
    they attend to as queries is not read.
    """

    queries: Tensor
    """[G * S] row of each query"""
    keys: Tensor
    """[G * (P + S)] row of each key"""
    from_queries: Tensor
    """[P + T] query that is each row's own"""
    from_keys: Tensor
    """[T] key that is each suffix row's own"""
    occupied: Tensor
    """[G * S, 1, 1] 1 where a query is its row's own, 0 where it is a repetition; boolean"""
    hidden: Tensor
    """[G, S, P + S] keys that come after a query"""
    ends: Tensor
    """[C] row of each end mark"""
    end_of_row: Tensor
    """[P + T] class whose end mark a row is, -1 for other rows"""
    hidden_from_ends: Tensor
    """[C, 1, P + S]"""
    masks: dict[tuple, Tensor] = field(default_factory=dict)
    """made of the hidden keys when first needed"""

    @classmethod
    def build(cls, packed: PackedPrompts) -> AttentionIndex:
        device = packed.pad.device
        shared, (classes, longest) = len(packed.prefix), packed.pad.shape
        rows = torch.arange(shared, device=device)
        chunks = -(-shared // longest)
        places = torch.arange(chunks * longest, device=device)
        in_prefix = places.clamp(max=max(shared - 1, 0)).view(chunks, longest)  # [chunks, S] row of each query
        suffixes = packed.pad + shared  # [C, S]
        queries = torch.cat([in_prefix, suffixes])  # [G, S]
        dummies = torch.zeros_like(in_prefix)  # as keys of the prefix's own problems: hidden from all
        keys = torch.cat([rows.expand(len(queries), -1), torch.cat([dummies, suffixes])], dim=1)  # [G, P + S]

        place = torch.arange(longest, device=device)
        key_place = torch.cat([rows, shared + place])  # [P + S] position of each key
        behind_prefix = key_place >= shared
        hidden_in_prefix = (key_place > in_prefix[..., None]) | behind_prefix  # [chunks, S, P + S]
        hidden = key_place > (shared + place)[:, None]  # [S, P + S]
        length = packed.last - packed.pad[:, 0]  # [C] places between a suffix's first row and its end mark
        own = torch.cat([places < shared, (place <= length[:, None]).flatten()])  # [G * S]
        first_suffix = chunks * (shared + longest)  # keys in front of the first suffix's
        of_class, within = packed.unpad // longest, packed.unpad % longest
        end_of_row = torch.full((shared + len(packed.suffix),), -1, device=device)
        end_of_row[packed.last + shared] = torch.arange(classes, device=device)
        return cls(
            queries=queries.flatten(),
            keys=keys.flatten(),
            from_queries=torch.cat([rows, chunks * longest + packed.unpad]),
            from_keys=first_suffix + of_class * (shared + longest) + shared + within,
            occupied=own[:, None, None],
            hidden=torch.cat([hidden_in_prefix, hidden.expand(classes, -1, -1)]),
            ends=packed.last + shared,
            end_of_row=end_of_row,
            hidden_from_ends=hidden[length][:, None],
        )


def _select(rows: Tensor, dim: int, index: Tensor) -> Tensor:
    """`rows.index_select(dim, index)`, dim > 0: along dimension 1 of a view, where PyTorch is fast on a CPU."""
    return rows.flatten(0, dim - 1).index_select(1, index).unflatten(0, rows.shape[:dim])


class PackedRows:
    """Layout (see `clip.derivatives`) of a tower whose rows are the prefix and the packed suffixes, N sets of them."""

    def __init__(self, packed: PackedPrompts, sequences: int, heads: int) -> None:
        self.index, self.shared, self.sequences, self.heads = packed.attention, len(packed.prefix), sequences, heads
        self.problems, self.n_queries, self.n_keys = self.index.hidden.shape
        self.length = len(packed.prefix) + len(packed.suffix)
        self.queries, self.keys, self.hidden = self.index.queries, self.index.keys, self.index.hidden
        self.query_of_row, self.from_keys = self.index.from_queries, self.index.from_keys
        self.masks: dict[tuple, Tensor] = {}

    def mask(self, dtype: torch.dtype) -> Tensor:
        """[b, Q, M]; of a single set of prompts it is made once and for all."""
        made = self.index.masks if self.sequences == 1 else self.masks
        key = type(self), self.heads, dtype
        if key not in made:
            additive = torch.zeros(self.hidden.shape, dtype=dtype, device=self.hidden.device)
            additive.masked_fill_(self.hidden, float("-inf"))
            made[key] = additive.repeat(self.sequences * self.heads, 1, 1)
        return made[key]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Problems of each head, their queries and keys."""
        return self.problems, self.n_queries, self.n_keys

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if (kernels := kernels_for(qkv)) is not None:
            return kernels.split(qkv, self.heads, self.sizes, (self.queries, self.keys))
        rows = qkv.unflatten(-1, (3, self.heads, -1)).permute(3, 1, 4, 2, 0, 5)  # [3, N, h, L, K, c]
        shape = self.sequences * self.heads * self.problems
        q = _select(rows[0], 2, self.queries).view(shape, self.n_queries, *rows.shape[4:])
        k, v = _select(rows[1:], 3, self.keys).view(2, shape, self.n_keys, *rows.shape[4:])
        return q, k.transpose(1, 2).contiguous(), v

    def split_back(self, dq: Tensor, dk: Tensor, dv: Tensor) -> Tensor:
        if (kernels := kernels_for(dq)) is not None:
            indices = self.query_of_row, self.from_keys
            return kernels.split_back((dq, dk, dv), self.length, self.heads, self.sizes, indices)
        parts = self._query_rows(dq), self._key_rows(dk, dv)
        return torch.cat([part.permute(4, 1, 3, 0, 2, 5) for part in parts], dim=3).flatten(3)

    def _query_rows(self, dq: Tensor) -> Tensor:
        """[b, Q, K, c] -> [1, N, h, L, K, c]"""
        return _select(self._by_sequence(dq)[None].flatten(3, 4), 3, self.index.from_queries)

    def _key_rows(self, dk: Tensor, dv: Tensor) -> Tensor:
        """[b, K, M, c], [b, M, K, c] -> [2, N, h, L, K, c]; what all problems share is summed over them"""
        both = self._by_sequence(torch.stack([dk.transpose(1, 2), dv]), 1)  # [2, N, h, G, M, K, c]
        prefix = both[:, :, :, :, : self.shared].sum(dim=3)
        return torch.cat([prefix, _select(both.flatten(3, 4), 3, self.from_keys)], dim=3)

    def merge(self, attended: Tensor) -> Tensor:
        rows = self._by_sequence(attended).flatten(2, 3).permute(3, 0, 2, 1, 4)  # [K, N, G * Q, h, c]
        return _select(rows, 2, self.index.from_queries).flatten(3)

    def merge_back(self, rows: Tensor) -> Tensor:
        if (kernels := kernels_for(rows)) is not None:
            problems = kernels.merge_back(rows, self.heads, self.queries, self.index.occupied)
            return problems.view(-1, self.n_queries, *problems.shape[2:])  # [b, Q, K, c]
        rows = rows.unflatten(-1, (self.heads, -1)).permute(1, 3, 2, 0, 4)  # [N, h, L, K, c]
        problems = _select(rows, 2, self.queries).mul_(self.index.occupied)
        return problems.view(-1, self.n_queries, *rows.shape[3:])

    def kept(self, rows: Tensor) -> Tensor:
        return rows

    def leading(self, kept: Tensor) -> Tensor:
        return kept

    def _by_sequence(self, problems: Tensor, dim: int = 0) -> Tensor:
        """[b, ...] -> [N, h, G, ...]"""
        return problems.unflatten(dim, (self.sequences, self.heads, self.problems))


class EndMarks(PackedRows):
    """As `PackedRows` with the end marks as the only queries and the only rows that are kept: one problem a class."""

    def __init__(self, packed: PackedPrompts, sequences: int, heads: int) -> None:
        super().__init__(packed, sequences, heads)
        self.queries, self.hidden = self.index.ends, self.index.hidden_from_ends
        self.query_of_row = self.index.end_of_row
        self.problems, self.n_queries, _ = self.hidden.shape
        in_front = len(self.keys) - self.problems * self.n_keys  # keys of the prefix's own problems
        self.keys, self.from_keys = self.keys[in_front:], self.from_keys - in_front

    def _query_rows(self, dq: Tensor) -> Tensor:
        dq = self._by_sequence(dq)[None].flatten(3, 4)  # [1, N, h, C, K, c]
        rows = dq.new_zeros(*dq.shape[:3], self.length, *dq.shape[4:])
        return rows.index_copy_(3, self.queries, dq)

    def merge(self, attended: Tensor) -> Tensor:
        return self._by_sequence(attended).flatten(2, 3).permute(3, 0, 2, 1, 4).flatten(3)

    def merge_back(self, rows: Tensor) -> Tensor:
        rows = rows.unflatten(-1, (self.heads, -1)).permute(1, 3, 2, 0, 4)  # [N, h, C, K, c]
        return rows.reshape(-1, 1, *rows.shape[3:])

    def kept(self, rows: Tensor) -> Tensor:
        return _select(rows, 2, self.queries)

    def leading(self, kept: Tensor) -> Tensor:
        rows = kept.new_zeros(*kept.shape[:2], self.length, kept.shape[-1])
        return rows.index_copy_(2, self.queries, kept)
