"""The text tower, computed once for what all classes share and without padding for the rest.

CLIP's text tower is causal: a position depends on those before it, and only the end mark's row is read. So

* rows behind the end mark are never computed;
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
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from clip.model import CLIP, attend, attend_few


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
    """[C, S] packed row at each place of the padded suffixes; places behind a suffix repeat its last row."""
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

        ends = (lengths - shared).cumsum(0)  # [C] one behind each class's last packed row
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
        raise ValueError("these prompts have learned rows: hand over the context")
    target, source = slots.unbind(1)
    rows = rows.to(context.dtype).expand(*context.shape[:-2], *rows.shape)
    return rows.index_copy(-2, target, context.index_select(-2, source))


def encode_prompts(
    clip: CLIP,
    packed: PackedPrompts,
    prefix: Tensor,
    suffix: Tensor,
    deep: Sequence[Tensor] = (),
) -> Tensor:
    """Text features of C prompts, not normalised.

    Args:
        prefix: [..., P, d] input rows of the shared part.
        suffix: [..., T, d] input rows of the packed suffixes.
        deep: tensors [n, d]; `deep[i]` takes the place of rows 1..n at the input of layer i + 1.
    Returns:
        [..., C, e]
    """
    blocks = clip.transformer.resblocks
    if len(deep) >= len(blocks):
        raise ValueError(f"text prompts for {len(deep) + 1} layers, but the text tower has {len(blocks)}")
    shared = prefix.shape[-2]
    if any(1 + prompt.shape[-2] > shared for prompt in deep):
        raise ValueError(f"deep text prompts replace rows that all prompts share, but only {shared - 1} are shared")
    batch = torch.broadcast_shapes(prefix.shape[:-2], suffix.shape[:-2])
    prefix, suffix = (rows.expand(*batch, *rows.shape[-2:]) for rows in (prefix, suffix))
    x = torch.cat([prefix, suffix], dim=-2).to(clip.dtype)  # [..., P + T, d]
    attention = _SharedPrefixAttention(shared, packed)
    for layer, block in enumerate(blocks[:-1]):
        if 0 < layer <= len(deep):
            x = _replace_context(x, deep[layer - 1])
        x = block.transform(x, attention)
    if len(deep) == len(blocks) - 1 > 0:
        x = _replace_context(x, deep[-1])
    ends = packed.last + shared
    x = blocks[-1].transform(x, attention.of_ends, lambda rows: rows.index_select(-2, ends))  # [..., C, d]
    return clip.ln_final(x) @ clip.text_projection.to(x.dtype)


def _replace_context(x: Tensor, prompt: Tensor) -> Tensor:
    """x [..., P + T, d] with rows 1..n replaced by prompt [n, d]"""
    n = prompt.shape[-2]
    start, _, rest = x.split([1, n, x.shape[-2] - 1 - n], dim=-2)
    prompt = prompt.to(x.dtype).expand(*x.shape[:-2], *prompt.shape[-2:])
    return torch.cat([start, prompt, rest], dim=-2)


class _SharedPrefixAttention:
    """Attention among P prefix rows and C packed suffixes; called with q, k, v [..., P + T, h, d/h]."""

    def __init__(self, shared: int, packed: PackedPrompts) -> None:
        self.shared, self.packed = shared, packed
        suffix_length = packed.pad.shape[1]
        places = torch.ones(suffix_length, shared + suffix_length, dtype=torch.bool, device=packed.pad.device)
        self.hidden = places.triu(diagonal=shared + 1)  # [S, P + S]: of its class, what stands behind a row
        length = packed.last - packed.pad[:, 0]  # [C] places between a suffix's first row and its end mark
        self.hidden_from_end = self.hidden[length][:, None, None]  # [C, 1, 1, P + S]

    def __call__(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        (q_prefix, q_suffix), keys, values = self._parts(q), self._parts(k), self._parts(v)
        prefix = attend(q_prefix, keys[0], values[0], is_causal=True)
        suffix = attend_few(q_suffix, _seen_by_class(*keys), _seen_by_class(*values), self.hidden)
        suffix = suffix.transpose(-3, -2).flatten(-4, -3)  # [..., C * S, h, d/h]
        suffix = suffix.index_select(-3, self.packed.unpad)  # [..., T, h, d/h]
        return torch.cat([prefix.transpose(-3, -2), suffix], dim=-3)

    def of_ends(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As `__call__` for the end marks alone: q [..., C, h, d/h]."""
        keys, values = _seen_by_class(*self._parts(k)), _seen_by_class(*self._parts(v))
        attended = attend_few(q.unsqueeze(-2), keys, values, self.hidden_from_end)
        return attended.squeeze(-2)

    def _parts(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [..., P + T, h, d/h] -> prefix [..., h, P, d/h] and padded suffixes [..., C, h, S, d/h]"""
        classes, longest = self.packed.pad.shape
        prefix, suffix = rows.split([self.shared, rows.shape[-3] - self.shared], dim=-3)  # backward: one concatenation
        padded = suffix.index_select(-3, self.packed.pad.flatten())  # [..., C * S, h, d/h]
        return prefix.transpose(-3, -2), padded.unflatten(-3, (classes, longest)).transpose(-3, -2)


def _seen_by_class(prefix: Tensor, suffix: Tensor) -> Tensor:
    """Keys or values of the prefix [..., h, P, d/h] and of each class [..., C, h, S, d/h] -> [..., C, h, P + S, d/h]"""
    prefix = prefix.unsqueeze(-4).expand(*suffix.shape[:-2], *prefix.shape[-2:])
    return torch.cat([prefix, suffix], dim=-2)
