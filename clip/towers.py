"""Frozen towers as functions of their prompts, with derivatives in closed form.

A tower has rows, some of which are prompts; blocks, before which prompts may replace rows; and a norm and a projection
of the rows that are read. `TowerTrace` is one evaluation of it; `pull`, `push` and `second` are those of
`clip.derivatives`, whose head explains them. `features` is the same as a function for autograd, differentiable twice.

Shape legend: as in `clip.derivatives`, and: n prompt tokens, R rows read, e joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce, wraps
from typing import TYPE_CHECKING, Any, NamedTuple, ParamSpec, Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.derivatives import CLOSED_FORMS, Activation, BlockTrace, Layout, Norm, Tensors, Weights, kernels_for

if TYPE_CHECKING:
    from clip.model import ResidualAttentionBlock

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

Branch = Callable[[Tensor], Tensor]
"""Rows [N, L, d] -> what is added to the output of a part of a block; it works row by row."""

# --- which rows attend to which --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EveryRow:
    """Layout of a tower in which every row sees every other; the first `keep` rows have queries."""

    sequences: int
    length: int
    keep: int
    heads: int

    def mask(self, dtype: torch.dtype) -> None:
        return None

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if (kernels := kernels_for(qkv)) is not None:
            return kernels.split(qkv, self.heads, (1, self.keep, self.length))
        n, d = len(qkv), qkv.shape[-1] // 3
        rows = qkv.view(n, self.sequences, self.length, 3, self.heads, d // self.heads)
        if n == 1 and self.keep == self.length:  # one copy for all three
            q, k, v = rows[0].permute(2, 0, 3, 1, 4).reshape(3, -1, self.length, d // self.heads)
            return q[:, :, None], k[:, None], v[:, :, None]
        q = rows[:, :, : self.keep, 0].permute(1, 3, 2, 0, 4).reshape(-1, self.keep, n, d // self.heads)
        if n == 1:  # the orders of k and v are the same
            k, v = rows[0, :, :, 1:].permute(2, 0, 3, 1, 4).reshape(2, -1, self.length, d // self.heads)
            return q, k[:, None], v[:, :, None]
        k, v = rows[..., 1, :, :].permute(1, 3, 0, 2, 4), rows[..., 2, :, :].permute(1, 3, 2, 0, 4)
        return q, k.reshape(-1, *k.shape[2:]), v.reshape(-1, *v.shape[2:])

    def split_back(self, dq: Tensor, dk: Tensor, dv: Tensor) -> Tensor:
        if (kernels := kernels_for(dq)) is not None:
            return kernels.split_back((dq, dk, dv), self.length, self.heads, (1, self.keep, self.length))
        dq = self._by_sequence(dq).permute(3, 0, 2, 1, 4)  # [K, N, L', h, c]
        dk = self._by_sequence(dk).permute(2, 0, 3, 1, 4)
        dv = self._by_sequence(dv).permute(3, 0, 2, 1, 4)
        if self.keep < self.length:
            dq = F.pad(dq, (0, 0, 0, 0, 0, self.length - self.keep))
        return torch.stack([dq, dk, dv], dim=3).flatten(3)

    def merge(self, attended: Tensor) -> Tensor:
        return self._by_sequence(attended).permute(3, 0, 2, 1, 4).flatten(3)

    def merge_back(self, rows: Tensor) -> Tensor:
        heads = rows.unflatten(-1, (self.heads, -1)).permute(1, 3, 2, 0, 4)  # [N, h, L', K, c]
        return heads.reshape(-1, *heads.shape[2:])

    def kept(self, rows: Tensor) -> Tensor:
        return rows[:, :, : self.keep]

    def leading(self, kept: Tensor) -> Tensor:
        return kept

    def _by_sequence(self, problems: Tensor) -> Tensor:
        """[b, ...] -> [N, h, ...]"""
        return problems.unflatten(0, (self.sequences, self.heads))


# --- where prompts go ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Appended:
    """A prompt comes after the rows that the layer before kept."""

    def put(self, rows: Tensor, prompts: Tensor) -> Tensor:
        """rows [K, N, L', d], prompts [K, n, d] -> [K, N, L, d]"""
        prompts = prompts.to(rows.dtype)[:, None].expand(-1, rows.shape[1], -1, -1)
        return torch.cat([rows, prompts], dim=2)

    def back(self, rows: Tensor, n: int, dtype: torch.dtype) -> Tensors:
        """The transpose of `put`: [K, N, L, d] -> [K, N, L', d], and [K, n, d] in `dtype`"""
        length = rows.shape[2] - n
        return rows[:, :, :length].contiguous(), rows[:, :, length:].sum(dim=1, dtype=dtype)


@dataclass(frozen=True)
class Replacing:
    """A prompt takes the place of the rows from `start` on."""

    start: int

    def put(self, rows: Tensor, prompts: Tensor) -> Tensor:
        """As `Appended.put`, in place."""
        rows[:, :, self.start : self.start + prompts.shape[1]] = prompts[:, None]
        return rows

    def back(self, rows: Tensor, n: int, dtype: torch.dtype) -> Tensors:
        """As `Appended.back`, in place."""
        replaced = rows[:, :, self.start : self.start + n]
        prompts = replaced.sum(dim=1, dtype=dtype)
        replaced.zero_()
        return rows, prompts


# --- towers ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tower:
    """What is fixed: everything but the prompts.

    Its prompts are `start` [S, m, d], rows of the first layer (one set for each sequence, or S = 1 for all), and
    `deep`, tensors [n, d] that are put into the input of layers 1, 2, ... .
    """

    blocks: Sequence[ResidualAttentionBlock]
    layouts: Sequence[Layout]
    """one a layer"""
    place: Appended | Replacing
    before: Tensor | None = None
    """[N, ., d], constant rows of the first layer before `start`"""
    after: Tensor | None = None
    """[N, ., d], constant rows after it"""
    start_norm: nn.LayerNorm | None = None
    """norm of `start` alone; None: without"""
    norm: nn.LayerNorm | None = None
    """of the rows that are read; None: this is a part of a tower, whose output is its last block's rows [N, L', d]"""
    projection: Tensor | None = None
    """[d, e]"""

    def part(self, layers: slice) -> Tower:
        """Some of the layers as a tower: from the rows before them [N, L, d] to the rows after them."""
        return Tower(self.blocks[layers], self.layouts[layers], self.place)

    def read(self, rows: Tensor) -> Tensor:
        """The last block's rows [N, R, d] -> the tower's output [N, R, e]."""
        assert self.norm is not None and self.projection is not None, "a part of a tower reads nothing"
        return self.norm(rows).to(self.projection.dtype) @ self.projection

    @property
    def activation(self) -> Activation:
        """The closed form of the blocks' activation."""
        return CLOSED_FORMS[type(self.blocks[0].mlp.gelu).__name__]

    def trace(self, start: Tensor, *deep: Tensor) -> TowerTrace:
        """The tower at these prompts."""
        return TowerTrace(self, self._product_dtype(), start, deep)

    def output(self, start: Tensor, *deep: Tensor, projected: Mapping[int, Branch] | None = None) -> Tensor:
        """The value alone; nothing is kept for derivatives but by autograd.

        Args:
            projected: by layer, counted from 0: ln_1(x) [N, L, d] -> what is added to the queries, keys and values
                [N, L, 3 d].
        """
        return TowerTrace(self, self._product_dtype(), start, deep, keep=False, projected=projected).output

    def _product_dtype(self) -> torch.dtype:
        """Precision of products with a weight: autocast's where it is on, else its own."""
        weight = self.blocks[0].attn.in_proj_weight
        device = weight.device.type
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype

    def row_dtype(self, start: Tensor) -> torch.dtype:
        """Precision of the rows between blocks."""
        return next((part.dtype for part in (self.before, self.after) if part is not None), start.dtype)

    def rows(self, start: Tensor) -> tuple[Tensor, slice | None]:
        """Input of the first layer [N, L, d], and which of its rows `start` is; None: all."""
        parts = [part for part in (self.before, self.after) if part is not None]
        if not parts:
            return start, None
        start = start.expand(len(parts[0]), -1, -1)
        first = 0 if self.before is None else self.before.shape[1]
        rows = torch.cat([part for part in (self.before, start, self.after) if part is not None], dim=1)
        return rows, slice(first, first + start.shape[1])


def only_prompts_move(tower: nn.Module, prompts: Sequence[Tensor], *constants: Tensor) -> bool:
    """Whether derivatives are needed, and only those by the prompts, which are all that the closed forms give."""
    if not torch.is_grad_enabled() or not any(prompt.requires_grad for prompt in prompts):
        return False
    return not any(tensor.requires_grad for tensor in (*constants, *tower.parameters()))


def without_autocast(method: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Run the method without autocast: it casts everything itself."""

    @wraps(method)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        device = next(arg.device.type for arg in args if isinstance(arg, Tensor))
        if not torch.is_autocast_enabled(device):
            return method(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return method(*args, **kwargs)

    return run


class TowerTrace:
    """A tower at given prompts: `output` [N, R, e] and the derivatives there."""

    @without_autocast
    def __init__(
        self,
        tower: Tower,
        dtype: torch.dtype,
        start: Tensor,
        deep: Sequence[Tensor],
        keep: bool = True,
        projected: Mapping[int, Branch] | None = None,
    ) -> None:
        self.tower, self.dtype = tower, dtype
        self.starts = start.shape[0]  # not len(), which would fix the batch size of an export
        self.prompt_dtypes = [prompt.dtype for prompt in (start, *deep)]
        self.n_deep = [prompt.shape[0] for prompt in deep]
        self.start_norm, start = None, start.to(tower.row_dtype(start))
        if tower.start_norm is not None:
            start, self.start_norm = Norm.forward(start, tower.start_norm, start.dtype)
        x, moving = tower.rows(start)
        self.sequences = x.shape[0]
        self.blocks: list[BlockTrace] = []
        for layer, block in enumerate(tower.blocks):
            if 0 < layer <= len(deep):
                x = tower.place.put(x[None], deep[layer - 1][None])[0]
            weights = Weights(block, tower.activation, dtype)
            added = projected.get(layer) if projected else None
            trace, x = BlockTrace.forward(weights, tower.layouts[layer], x, None if layer else moving, added)
            if keep:
                self.blocks.append(trace)
        self.norm: Norm | None = None
        self.projection: Tensor | None = None
        if tower.norm is not None:
            x, self.norm = Norm.forward(x, tower.norm, dtype)
            assert tower.projection is not None, "a tower with a last norm has a projection"
            self.projection = tower.projection.to(dtype)
            x = torch.matmul(x, self.projection)
        self.output = x

    @without_autocast
    def pull(self, cotangents: Tensor) -> tuple[list[Tensor], Pulled]:
        """Cotangents [K, N, R, e] -> those of `start` [K, S, m, d] and of `deep` [K, n, d]; and what `second` needs."""
        dx_read = dx = dx_norm = cotangents
        if self.norm is not None and self.projection is not None:
            dx_read = torch.matmul(cotangents.to(self.dtype), self.projection.t()).to(self.norm.x.dtype)
            dx_norm, dx = self.norm.pull(dx_read)
        kept_by_layer, prompts = [], []
        for layer in reversed(range(len(self.blocks))):
            dx, kept = self.blocks[layer].pull(dx)
            kept_by_layer.append(kept)
            if 0 < layer <= len(self.n_deep):
                dx, prompt = self._back(dx, layer)
                prompts.append(prompt)
        start = at_start = self._shared(dx)
        if self.start_norm is not None:
            start, _ = self.start_norm.pull(at_start)
        pulled = Pulled(kept_by_layer[::-1], (dx_read, dx_norm), (at_start, start))
        return self._in_prompt_dtypes([start, *reversed(prompts)]), pulled

    @without_autocast
    def push(self, start: Tensor, *deep: Tensor) -> tuple[Tensor, Pushed]:
        """Tangents of prompts [K, S, m, d] and [K, n, d] -> of the features [K, N, R, e]; and what `second` needs."""
        at_start = None
        start = start.to(self.blocks[0].norm_1.x.dtype)
        if self.start_norm is not None:
            tangent, t, start = self.start_norm.push(start, start.dtype)
            at_start = tangent, t
        x = start.expand(-1, self.sequences, -1, -1)
        kept_by_layer = []
        for layer, block in enumerate(self.blocks):
            if 0 < layer <= len(deep):
                x = self.tower.place.put(x, deep[layer - 1])
            x, kept = block.push(x)
            kept_by_layer.append(kept)
        if self.norm is None or self.projection is None:
            return x, Pushed(kept_by_layer, (), at_start)
        _, t, y = self.norm.push(x, self.dtype)
        return torch.matmul(y, self.projection), Pushed(kept_by_layer, (x, t), at_start)

    @without_autocast
    def second(self, cotangent: Tensor, pulled: Pulled, pushed: Pushed) -> list[Tensor]:
        """Derivative along the tangents of what `pull` gave, summed over K, plus `pull` of `cotangent` [N, R, e].

        Returns:
            for `start` [S, m, d] and for each of `deep` [n, d].
        """
        dx = cotangent
        if self.norm is not None and self.projection is not None:
            dx = torch.matmul(cotangent.to(self.dtype), self.projection.t()).to(self.norm.x.dtype)
            (dy_norm, dx_norm), (tangent, t) = pulled.at_norm, pushed.at_norm
            dx = self.norm.second(dx, dy_norm, dx_norm, tangent, t)
        prompts = []
        for layer in reversed(range(len(self.blocks))):
            dx = self.blocks[layer].second(dx, pulled.blocks[layer], pushed.blocks[layer])
            if 0 < layer <= len(self.n_deep):
                dx, prompt = (part[0] for part in self._back(dx[None], layer))
                prompts.append(prompt)
        start = self._shared(dx[None])[0]
        if self.start_norm is not None and pushed.at_start is not None:
            (dy_start, dx_start), (tangent, t) = pulled.at_start, pushed.at_start
            start = self.start_norm.second(start, dy_start, dx_start, tangent, t)
        return self._in_prompt_dtypes([start, *reversed(prompts)])

    def _back(self, dx: Tensor, layer: int) -> Tensors:
        """Cotangents of a layer's input [K, N, L, d] -> of the rows before it and of its prompt [K, n, d]"""
        return self.tower.place.back(dx, self.n_deep[layer - 1], self.prompt_dtypes[layer])

    def _shared(self, dx: Tensor) -> Tensor:
        """[K, N, m, d] -> [K, S, m, d]"""
        return dx.sum(dim=1, keepdim=True) if self.starts == 1 and self.sequences > 1 else dx

    def _in_prompt_dtypes(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        return [tensor.to(dtype) for tensor, dtype in zip(tensors, self.prompt_dtypes, strict=True)]


class Pulled(NamedTuple):
    """What `TowerTrace.pull` computes on its way: the cotangents at which `second` differentiates it."""

    blocks: list[Tensors]
    at_norm: Tensors
    """[K, N, R, d], after and before the last norm"""
    at_start: Tensors
    """[K, S, m, d], after and before the norm of `start`"""


class Pushed(NamedTuple):
    """What `TowerTrace.push` computes on its way: the tangents along which `second` differentiates."""

    blocks: list[Tensors]
    at_norm: Tensors
    at_start: Tensors | None


# --- features as functions of prompts --------------------------------------------------------------------------------


class Trace(Protocol):
    """Features at given prompts, and their derivatives as in `clip.derivatives`; K in front where there are several."""

    output: Tensor

    def pull(self, cotangents: Tensor) -> tuple[list[Tensor], Any]:
        """Cotangents [K, ...] of the features -> [K, ...] of each prompt, and what `second` needs"""
        ...

    def push(self, *tangents: Tensor) -> tuple[Tensor, Any]:
        """Tangents [K, ...] of each prompt -> [K, ...] of the features, and what `second` needs"""
        ...

    def second(self, cotangent: Tensor, pulled: Any, pushed: Any) -> list[Tensor]:
        """Derivative of what `pull` gave along the tangents, summed over K, plus the pull of `cotangent` [...]"""
        ...


class ConstantTrace:
    """Features [..., e] that no prompt changes."""

    def __init__(self, output: Tensor) -> None:
        self.output = output

    def pull(self, cotangents: Tensor) -> tuple[list[Tensor], int]:
        return [], len(cotangents)

    def push(self, *tangents: Tensor) -> tuple[Tensor, None]:
        return torch.zeros_like(self.output)[None], None

    def second(self, cotangent: Tensor, pulled: int, pushed: None) -> list[Tensor]:
        return []


class AutogradTrace:
    """Features of any twice differentiable function of prompts; the derivatives are autograd's.

    The push is the derivative of <tangent, pull of c> with respect to the cotangent c, in which that is linear.
    """

    def __init__(self, function: Callable[..., Tensor], prompts: Sequence[Tensor]) -> None:
        self._prompts = [prompt.detach().requires_grad_() for prompt in prompts]
        with torch.enable_grad():
            features = function(*self._prompts)
            # add 0 times every prompt: autograd needs a path to each, and the function may not use all of them
            nothing = 0 * reduce(torch.add, [prompt.sum() for prompt in self._prompts])
            self._features = features + nothing.to(features.dtype)
        self.output = self._features.detach()

    def pull(self, cotangents: Tensor) -> tuple[list[Tensor], tuple[Tensor, list[Tensors]]]:
        cotangents = cotangents.detach().requires_grad_()
        with torch.enable_grad():
            pulled = [
                torch.autograd.grad(self._features, self._prompts, cotangent, create_graph=True, materialize_grads=True)
                for cotangent in cotangents
            ]
        self._pulled = cotangents, pulled
        return [torch.stack(parts).detach() for parts in zip(*pulled, strict=True)], self._pulled

    def push(self, *tangents: Tensor) -> tuple[Tensor, Tensor]:
        cotangents, pulled = self._pulled
        with torch.enable_grad():
            products = [
                (part * tangent[k]).sum()
                for k, parts in enumerate(pulled)
                for part, tangent in zip(parts, tangents, strict=True)
            ]
            along = reduce(torch.add, products)
        return torch.autograd.grad(along, cotangents, retain_graph=True, materialize_grads=True)[0], along

    def second(self, cotangent: Tensor, pulled: tuple[Tensor, list[Tensors]], pushed: Tensor) -> list[Tensor]:
        ends, starts = (pushed, self._features), (torch.ones_like(pushed), cotangent)
        return list(torch.autograd.grad(ends, self._prompts, starts, materialize_grads=True))


class ImageTrace:
    """Image features [N, e]: `start` is one prompt for all images, and the last layer keeps one row."""

    def __init__(self, tower: Tower, prompts: Sequence[Tensor]) -> None:
        start, *deep = prompts
        self.trace = tower.trace(start[None], *deep)
        self.output = self.trace.output[:, 0]

    def pull(self, cotangents: Tensor) -> tuple[list[Tensor], Pulled]:
        (start, *deep), pulled = self.trace.pull(cotangents[:, :, None])
        return [start[:, 0], *deep], pulled

    def push(self, *tangents: Tensor) -> tuple[Tensor, Pushed]:
        start, *deep = tangents
        features, pushed = self.trace.push(start[:, None], *deep)
        return features[:, :, 0], pushed

    def second(self, cotangent: Tensor, pulled: Pulled, pushed: Pushed) -> list[Tensor]:
        start, *deep = self.trace.second(cotangent[:, None], pulled, pushed)
        return [start[0], *deep]


class RecomputedTrace:
    """Features [..., C, e] made in chunks of C, of which only the features are kept.

    Args:
        chunks: each makes a trace of its part.
    """

    def __init__(self, chunks: Sequence[Callable[[], Trace]]) -> None:
        self.chunks = chunks
        outputs = [chunk().output for chunk in chunks]
        self.lengths = [output.shape[-2] for output in outputs]
        self.output = torch.cat(outputs, dim=-2)

    def pull(self, cotangents: Tensor) -> tuple[list[Tensor], Tensor]:
        parts = cotangents.split(self.lengths, dim=-2)
        return _sums(chunk().pull(part)[0] for chunk, part in zip(self.chunks, parts, strict=True)), cotangents

    def push(self, *tangents: Tensor) -> tuple[Tensor, Tensors]:
        return torch.cat([chunk().push(*tangents)[0] for chunk in self.chunks], dim=-2), tangents

    def second(self, cotangent: Tensor, pulled: Tensor, pushed: Tensors) -> list[Tensor]:
        parts = zip(cotangent.split(self.lengths, dim=-2), pulled.split(self.lengths, dim=-2), strict=True)
        return _sums(
            _second(chunk(), part, cotangents, pushed)
            for chunk, (part, cotangents) in zip(self.chunks, parts, strict=True)
        )


def _second(trace: Trace, cotangent: Tensor, cotangents: Tensor, tangents: Tensors) -> list[Tensor]:
    """All three in turn: pull of `cotangents`, push of `tangents`, second."""
    _, pulled = trace.pull(cotangents)
    _, pushed = trace.push(*tangents)
    return trace.second(cotangent, pulled, pushed)


def _sums(parts: Iterable[list[Tensor]]) -> list[Tensor]:
    """Sums of each prompt's tensors over the parts"""
    return [reduce(torch.add, tensors) for tensors in zip(*parts, strict=True)]


# --- for autograd ----------------------------------------------------------------------------------------------------


def features(tower: Tower, start: Tensor, *deep: Tensor) -> Tensor:
    """The tower's output [N, R, e] as a function of its prompts for autograd and `torch.func`, twice differentiable."""
    return _Features.apply(tower, Slot(), start, *deep)


def output(tower: Tower, owner: nn.Module, start: Tensor, *deep: Tensor) -> Tensor:
    """The tower's output, by the closed forms where only derivatives by its prompts are needed.

    Args:
        owner: the module whose frozen parameters the tower uses.
    """
    encode = partial(features, tower) if only_prompts_move(owner, (start, *deep)) else tower.output
    return encode(start, *deep)


def output_with_branches(
    tower: Tower, owner: nn.Module, rows: Tensor, branches: Mapping[int, Branch], first: int = 0
) -> Tensor:
    """The tower's output [N, R, e] where some blocks have a branch beside them: block(x) + branch(ln_1(x)).

    A branch's own tensors may have gradients, the blocks' stay frozen.

    Args:
        tower: its prompts are not used.
        owner: as in `output`.
        rows: [N, L, d], input of layer `first`.
        branches: by layer, counted from 0.
        first: the layer to start from.
    """
    for layer in sorted(branches):
        if layer > first:
            rows = output(tower.part(slice(first, layer)), owner, rows)
        normed = tower.blocks[layer].ln_1(tower.layouts[layer].kept(rows[None])[0])
        rows = output(tower.part(slice(layer, layer + 1)), owner, rows) + branches[layer](normed)
        first = layer + 1
    if first < len(tower.blocks):
        rows = output(tower.part(slice(first, None)), owner, rows)
    return tower.read(rows)


def output_with_projections(tower: Tower, rows: Tensor, branches: Mapping[int, Branch], first: int = 0) -> Tensor:
    """The tower's output [N, R, e] where branches add to the queries, keys and values of some blocks.

    Args:
        tower: its prompts are not used.
        rows: [N, L, d], input of layer `first`.
        branches: by layer, counted from 0; ln_1(x) [N, L, d] -> [N, L, 3 d]. Derivatives are autograd's.
        first: the layer to start from.
    """
    part = tower.part(slice(first, None))
    return tower.read(part.output(rows, projected={layer - first: branch for layer, branch in branches.items()}))


class Slot:
    """What a function's `forward` leaves for its derivative besides tensors."""

    content: Any


class _Features(torch.autograd.Function):
    @staticmethod
    def forward(tower: Tower, slot: Slot, *prompts: Tensor) -> Tensor:
        slot.content = tower.trace(*prompts)
        return slot.content.output

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        _, ctx.slot, *prompts = inputs
        ctx.save_for_backward(*prompts)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        (cotangent,) = cotangents
        return None, None, *_Pull.apply(ctx.slot.content, Slot(), cotangent, *ctx.saved_tensors)


class _Pull(torch.autograd.Function):
    """(cotangent, prompts) -> cotangents of the prompts"""

    @staticmethod
    def forward(trace: TowerTrace, slot: Slot, cotangent: Tensor, *prompts: Tensor) -> Tensors:
        prompts_cotangents, pulled = trace.pull(cotangent[None])
        slot.content = trace, pulled
        return tuple(tensor[0] for tensor in prompts_cotangents)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensors) -> None:
        _, ctx.slot, cotangent, *_ = inputs
        ctx.save_for_backward(cotangent)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - the decorator's stub has no names
        ctx: Any, *tangents: Tensor
    ) -> tuple[Tensor | None, ...]:
        (cotangent,) = ctx.saved_tensors
        trace, pulled = ctx.slot.content
        along, pushed = trace.push(*(tangent[None] for tangent in tangents))
        return None, None, along[0], *trace.second(torch.zeros_like(cotangent), pulled, pushed)
