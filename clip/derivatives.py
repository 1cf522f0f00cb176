"""Closed-form first and second derivatives of a frozen transformer block.

The weights are frozen, so a block is a fixed function y = f(x). A step of prompt learning needs four things of it, and
each part of the block (layer norm, activation, attention) has them as four short functions:

    forward   y = f(x)
    pull      dx_k = J(x)^T dy_k                          for k = 1 .. K cotangents dy_k at once
    push      x'_k -> y'_k = J(x) x'_k                    for k = 1 .. K tangents x'_k at once
    second    d/dx of  sum_k <dy_k, J(x) x'_k>, plus J(x)^T ddy

`second` is forward-over-reverse differentiation, written out. Differentiate dx_k = J(x)^T dy_k along x'_k and sum over
k: since J^T is the same for all k, one backward pass serves all K derivatives (`ddy` is the sum from the layer above).
The linear maps are applied K times in `pull` and in `push`, and only once in `second`; no derivative of a weight is
ever formed.

Layer norm, with m, r the mean and the reciprocal deviation of a row, x^ = (x - m) r and
P(u) = u - mean(u) - x^ mean(u x^):
    y = w x^ + b        dx = r P(w dy)        y' = w r P(x') = w t
    second = r P(w ddy) - r sum_k [ mean(x'_k x^) dx_k + mean(w dy_k x^) t_k + x^ mean(dy_k y'_k) ]
Activation f:
    dz = f'(z) da       a' = f'(z) z'         second = f'(z) dda + f''(z) sum_k z'_k da_k
Attention, S = c q k^T + mask, p = softmax(S), o = p v, and centred(U) = U - sum_j p U (per row):
    D = do v^T, E = centred(D), dS = p E,     dq = c dS k, dk = c dS^T q, dv = p^T do
    S' = c (q' k^T + q k'^T), F = centred(S'), p' = p F,     o' = p' v + p v'
    ddS = p centred(ddo v^T + sum_k do_k v'_k^T + sum_k E_k F_k)
    second: dq = c (ddS k + sum_k dS_k k'_k), dk = c (ddS^T q + sum_k dS_k^T q'_k), dv = p^T ddo + sum_k p'_k^T do_k

Shape legend: K cotangents or tangents (always in front: [K, N, L, d]), N sequences, L rows, d width, H hidden width,
b problems of attention (sequences times heads), Q queries and M keys of a problem, c head width. K stands within a
problem where that makes sums over k products of matrices: q' and do [b, Q, K, c], k' [b, K, M, c], v' [b, M, K, c],
scores [b, Q, K, M].
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from clip.model import ResidualAttentionBlock

Tensors = tuple[Tensor, ...]

aten = torch.ops.aten

kernels: ModuleType | None = None
"""`clip.fused`, where `clip.kernel_choice` has put it: the same forms as one kernel each. None: plain PyTorch."""
kernels_run_on = "cuda"
"""Type of the device that the kernels were chosen for."""


def kernels_for(tensor: Tensor) -> ModuleType | None:
    """The kernels where they can run; None: plain PyTorch.

    They compute in float32 at most, on the device that they were chosen for. Autograd, `torch.func` and exports cannot
    look into a kernel, so plain PyTorch is used under each of them. The closed forms run without all three.
    """
    if kernels is None or torch.is_grad_enabled() or tensor.dtype == torch.float64:
        return None
    if tensor.device.type != kernels_run_on or torch.compiler.is_compiling():
        return None
    return None if torch._C._are_functorch_transforms_active() else kernels


# --- layer norm ------------------------------------------------------------------------------------------------------


class Norm(NamedTuple):
    """What a layer norm keeps of its rows x [N, L, d]; computed in the precision of its parameters, as `forward` is."""

    x: Tensor
    mean: Tensor
    rstd: Tensor
    weight: Tensor

    @classmethod
    def forward(
        cls, x: Tensor, layer: nn.LayerNorm, dtype: torch.dtype, added: Tensor | None = None
    ) -> tuple[Tensor, Norm]:
        """Normed rows [N, L, d] of x + added in precision `dtype`, and what the other functions need."""
        if (kernels := kernels_for(x)) is not None and layer.weight.dtype == torch.float32:
            x, y, mean, rstd = kernels.norm_forward(x, added, layer.weight, layer.bias, layer.eps, dtype)
            return y, cls(x, mean, rstd, layer.weight)
        x = x if added is None else x + added
        wide = x.to(layer.weight.dtype)
        y, mean, rstd = torch.native_layer_norm(wide, layer.normalized_shape, layer.weight, layer.bias, layer.eps)
        return y.to(dtype), cls(x, mean, rstd, layer.weight)

    def rows(self, part: slice) -> Norm:
        """The same for some of the rows alone."""
        x, mean, rstd = (tensor[:, part].contiguous() for tensor in self[:3])
        return Norm(x, mean, rstd, self.weight)

    def pull(self, dy: Tensor, residual: Tensor | None = None, start: int = 0) -> tuple[Tensor, Tensor]:
        """dx = r P(w dy), and dx plus the residual rows from `start` on; dy, results [K, N, L, d].

        Args:
            residual: [K, N, L', d]; rows of dx after its end get nothing. None: the results are the same tensor.
        """
        if residual is not None and start >= residual.shape[-2]:
            residual = None
        if (kernels := self._kernels()) is not None:
            return kernels.norm_pull(self, dy, residual, start)
        dx = self._projected(dy, self.weight).to(dy.dtype)
        return dx, dx if residual is None else _with_residual(dx, residual, start)

    def push(self, tangent: Tensor, dtype: torch.dtype, added: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """x' = tangent + added, t = r P(x') and y' = w t, [K, N, L, d] each.

        t has the precision of the parameters, y' has `dtype`.
        """
        if (kernels := self._kernels()) is not None:
            return kernels.norm_push(self, tangent, added, dtype)
        tangent = tangent if added is None else tangent + added
        t = self._projected(tangent, None)
        return tangent, t, (self.weight * t).to(dtype)

    def second(
        self,
        ddy: Tensor,
        dy: Tensor,
        dx: Tensor,
        tangent: Tensor,
        t: Tensor,
        residual: Tensor | None = None,
        start: int = 0,
    ) -> Tensor:
        """As in the head of this file, plus the residual rows [N, L', d] from `start` on, as in `pull`.

        ddy, result [N, L, d]; dy, dx of `pull`, tangent, t of `push` [K, N, L, d].
        """
        if residual is not None and start >= residual.shape[-2]:
            residual = None
        if (kernels := self._kernels()) is not None:
            return kernels.norm_second(self, ddy, dy, dx, tangent, t, residual, start)
        ddx = self._projected(ddy[None], self.weight)[0]
        normed = (self.x.to(self.weight.dtype) - self.mean) * self.rstd
        dy = dy * self.weight
        along_x = (tangent * normed).mean(dim=-1, keepdim=True)  # [K, N, L, 1]
        along_dy = (dy * normed).mean(dim=-1, keepdim=True)
        both = (dy * t).mean(dim=-1, keepdim=True).sum(dim=0)  # [N, L, 1]
        bent = (along_x * dx).addcmul_(along_dy, t).sum(dim=0).addcmul_(normed, both)
        ddx = ddx.addcmul_(bent, self.rstd, value=-1).to(ddy.dtype)
        return ddx if residual is None else _with_residual(ddx, residual, start)

    def _kernels(self) -> ModuleType | None:
        return kernels_for(self.x) if self.weight.dtype == torch.float32 else None

    def _projected(self, rows: Tensor, weight: Tensor | None) -> Tensor:
        """r P(weight rows) for each of K"""
        x, dtype = self.x.to(self.weight.dtype), self.weight.dtype
        shape = [x.shape[-1]]
        results = [
            aten.native_layer_norm_backward(
                each.to(dtype), x, shape, self.mean, self.rstd, weight, None, [True, False, False]
            )[0]
            for each in rows
        ]
        return results[0][None] if len(results) == 1 else torch.stack(results)


def _with_residual(rows: Tensor, residual: Tensor, start: int) -> Tensor:
    """A new tensor: rows [.., L, d] plus the residual rows [.., L', d] from `start` on, as far as these reach"""
    residual = residual[..., start : start + rows.shape[-2], :]
    if residual.shape == rows.shape:
        return rows + residual
    result = rows.clone()
    result[..., : residual.shape[-2], :].add_(residual)
    return result


# --- activation ------------------------------------------------------------------------------------------------------


class Activation(ABC):
    """A function of single entries. It gets z = scale * x and gives scale * f(x), so that one operation is enough."""

    scale: float

    @abstractmethod
    def value(self, z: Tensor) -> Tensor:
        """scale * f(x)"""

    @abstractmethod
    def times_slope(self, upstream: Tensor, z: Tensor) -> Tensor:
        """df/dx * upstream; upstream [K, ...] and z [...]"""

    @abstractmethod
    def times_curvature(self, upstream: Tensor, z: Tensor) -> Tensor:
        """d2f/dx2 * upstream, of one shape"""

    def of_linear(self, x: Tensor, parameters: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """z = scale (x W^T + bias) and `value` of it, [..., H] each; x [..., d], parameters W [H, d] and bias [H]"""
        z = _affine(x, parameters, self.scale, self.scale)
        return z, self.value(z)

    def second(self, dda: Tensor, da: Tensor, tangent: Tensor, z: Tensor) -> Tensor:
        """f' dda + f'' sum_k x'_k da_k; da of `pull`, tangent x' of `push` [K, ...]; dda, z [...]"""
        return self.times_slope(dda, z).add_(self.times_curvature((da * tangent).sum(dim=0), z))


class QuickGELUForm(Activation):
    """f(x) = x sigmoid(1.702 x) = silu(z) / 1.702 with z = 1.702 x; s = sigmoid(z).

    f' = s + z s (1 - s);  f'' = 1.702 s (1 - s) (2 + z (1 - 2 s)), where z s = silu(z).
    """

    scale = 1.702

    def value(self, z: Tensor) -> Tensor:
        return torch.nn.functional.silu(z)

    def of_linear(self, x: Tensor, parameters: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if (kernels := kernels_for(x)) is None:
            return super().of_linear(x, parameters)
        weight, bias = parameters
        return kernels.quick_gelu(torch.matmul(x, weight.t()), bias, self.scale)

    def times_slope(self, upstream: Tensor, z: Tensor) -> Tensor:
        if (kernels := kernels_for(z)) is not None:
            return kernels.quick_gelu_slope(upstream, z)
        return aten.silu_backward(upstream, z)

    def times_curvature(self, upstream: Tensor, z: Tensor) -> Tensor:
        s = z.sigmoid()
        factor = torch.addcmul(z, z, s, value=-2).add_(2).mul_(upstream).mul_(self.scale)
        return aten.sigmoid_backward(factor, s)  # factor * s (1 - s)

    def second(self, dda: Tensor, da: Tensor, tangent: Tensor, z: Tensor) -> Tensor:
        if (kernels := kernels_for(z)) is not None:
            return kernels.quick_gelu_second(dda, da, tangent, z, self.scale)
        return super().second(dda, da, tangent, z)


class GELUForm(Activation):
    """f(x) = x Phi(x), Phi and phi the normal distribution and its density. f' = Phi + x phi, f'' = phi (2 - x^2)."""

    scale = 1.0

    def value(self, z: Tensor) -> Tensor:
        return torch.nn.functional.gelu(z)

    def times_slope(self, upstream: Tensor, z: Tensor) -> Tensor:
        return aten.gelu_backward(upstream, z)

    def times_curvature(self, upstream: Tensor, z: Tensor) -> Tensor:
        square = z * z
        density = torch.exp(square * -0.5).mul_(1 / math.sqrt(2 * math.pi))
        return square.neg_().add_(2).mul_(density).mul_(upstream)


CLOSED_FORMS: dict[str, Activation] = {"QuickGELU": QuickGELUForm(), "GELU": GELUForm()}
"""By the name of the module that computes it."""


# --- attention -------------------------------------------------------------------------------------------------------


class Layout(Protocol):
    """How the rows of a tower form problems of attention; linear maps and their transposes.

    `heads` is h, d = h c. Kept rows have queries, and are the input of the next layer; all rows have keys and values.
    """

    def mask(self, dtype: torch.dtype) -> Tensor | None:
        """Added to the scores, [b, Q, M]; None: every query sees every key"""
        ...

    def split(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Rows [K, N, L, 3 d] -> q [b, Q, K, c], k [b, K, M, c], v [b, M, K, c], each contiguous"""
        ...

    def split_back(self, dq: Tensor, dk: Tensor, dv: Tensor) -> Tensor:
        """The transpose of `split`"""
        ...

    def merge(self, attended: Tensor) -> Tensor:
        """[b, Q, K, c] -> kept rows [K, N, L', d]"""
        ...

    def merge_back(self, rows: Tensor) -> Tensor:
        """The transpose of `merge`"""
        ...

    def kept(self, rows: Tensor) -> Tensor:
        """Rows [K, N, L, d] -> those kept [K, N, L', d]"""
        ...

    def leading(self, kept: Tensor) -> Tensor:
        """Cotangents of the kept rows [K, N, L', d] -> of the first rows of the tower, which include all kept rows"""
        ...


class AttentionTrace(NamedTuple):
    """What attention keeps: q [b, Q, c], k, v [b, M, c], weights p [b, Q, M]."""

    q: Tensor
    k: Tensor
    v: Tensor
    p: Tensor
    some: Tensor
    """[1, 1, 1], any values: `baddbmm` needs a tensor to add the product to, and multiplies this one by 0"""

    @property
    def scale(self) -> float:
        return self.q.shape[-1] ** -0.5

    @classmethod
    def forward(
        cls, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, some: Tensor
    ) -> tuple[Tensor, AttentionTrace]:
        """Attended values [b, Q, c]."""
        scale = q.shape[-1] ** -0.5
        added, beta = (some, 0) if mask is None else (mask, 1)
        p = torch.baddbmm(added, q, k.mT, beta=beta, alpha=scale).softmax(dim=-1)
        return p @ v, cls(q, k, v, p, some)

    def pull(self, do: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]:
        """do [b, Q, K, c] -> (dq [b, Q, K, c], dk [b, K, M, c], dv [b, M, K, c]) and what `second` needs."""
        b, n_queries, n, c = do.shape
        n_keys = self.k.shape[1]
        upstream = (do.flatten(1, 2) @ self.v.mT).unflatten(1, (n_queries, n))  # D [b, Q, K, M]
        if n == 1 and kernels_for(self.p) is None:
            # one operation gives dS; D is centred in `second`, and most pulls have no `second`
            p = self.p[:, :, None]
            centred, d_scores = None, aten._softmax_backward_data(upstream, p, -1, p.dtype)
        else:
            centred, d_scores = self._centred(upstream)
        dq = self._scaled(d_scores.flatten(1, 2), self.k).view(b, n_queries, n, c)
        dk = self._scaled(d_scores.flatten(2).mT, self.q).view(b, n, n_keys, c)
        dv = (self.p.mT @ do.flatten(2)).view(b, n_keys, n, c)
        return (dq, dk, dv), (do, upstream if centred is None else centred, d_scores)

    def push(self, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Tangents q' [b, Q, K, c], k' [b, K, M, c], v' [b, M, K, c] -> o' [b, Q, K, c] and what `second` needs."""
        b, n_queries, n, c = q.shape
        n_keys = self.k.shape[1]
        # S' of all tangents side by side, [b, Q, K M], so that q k'^T is one product that is added in place
        scores = self._scaled(q.flatten(1, 2), self.k.mT).view(b, n_queries, n * n_keys)
        scores.baddbmm_(self.q, k.flatten(1, 2).mT, alpha=self.scale)
        centred, p = self._centred(scores.view(b, n_queries, n, n_keys))
        o = (p.flatten(1, 2) @ self.v).view(b, n_queries, n * c).baddbmm_(self.p, v.flatten(2))
        return o.view(b, n_queries, n, c), (q, k, v, centred, p)

    def second(
        self, ddo: Tensor, pulled: tuple[Tensor, Tensor, Tensor], pushed: tuple[Tensor, ...]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """ddo [b, Q, 1, c] -> dq [b, Q, 1, c], dk [b, 1, M, c], dv [b, M, 1, c]"""
        do, upstream, d_scores = pulled
        q, k, v, scores, p = pushed
        ddo = ddo.squeeze(2)
        # sums over k are products with K times the width: sum_k do_k v'_k^T = [do_1 .. do_K] [v'_1 .. v'_K]^T
        bent = (ddo @ self.v.mT).baddbmm_(do.flatten(2), v.flatten(2).mT)  # [b, Q, M]
        if (kernels := kernels_for(self.p)) is not None:
            bent = kernels.softmax_second(bent, upstream, scores, self.p)
        else:
            if do.shape[2] == 1:  # `pull` left this to us
                upstream, _ = self._centred(upstream)
            bent += (upstream * scores).sum(dim=2)
            bent = aten._softmax_backward_data(bent, self.p, -1, self.p.dtype)
        dq = self._scaled(bent, self.k).baddbmm_(d_scores.flatten(2), k.flatten(1, 2), alpha=self.scale)
        dk = self._scaled(bent.mT, self.q).baddbmm_(d_scores.flatten(1, 2).mT, q.flatten(1, 2), alpha=self.scale)
        dv = (self.p.mT @ ddo).baddbmm_(p.flatten(1, 2).mT, do.flatten(1, 2))
        return dq[:, :, None], dk[:, None], dv[:, :, None]

    def _centred(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """scores [b, Q, K, M] minus their mean under p; and p times that"""
        if (kernels := kernels_for(self.p)) is not None:
            return kernels.centred(scores, self.p)
        p = self.p[:, :, None]
        centred = scores - (scores * p).sum(dim=-1, keepdim=True)
        return centred, centred * p

    def _scaled(self, left: Tensor, right: Tensor) -> Tensor:
        return torch.baddbmm(self.some, left, right, beta=0, alpha=self.scale)


# --- block -----------------------------------------------------------------------------------------------------------


class Weights:
    """The frozen parameters of a residual attention block, its matrices in the precision that products are made in."""

    def __init__(self, block: ResidualAttentionBlock, form: Activation, dtype: torch.dtype) -> None:
        self.ln_1, self.ln_2, self.activation, self.dtype = block.ln_1, block.ln_2, form, dtype
        attn, mlp = block.attn, block.mlp
        self.in_proj = attn.in_proj_weight.to(dtype), attn.in_proj_bias.to(dtype)
        self.out_proj = attn.out_proj.weight.to(dtype), attn.out_proj.bias.to(dtype)
        self.fc = mlp.c_fc.weight.to(dtype), mlp.c_fc.bias.to(dtype)
        self.proj = mlp.c_proj.weight.to(dtype), mlp.c_proj.bias.to(dtype)
        self.some = self.in_proj[1][:1].view(1, 1, 1)


def _affine(x: Tensor, parameters: tuple[Tensor, Tensor], factor: float = 1.0, bias_factor: float = 1.0) -> Tensor:
    """factor * x W^T + bias_factor * bias, x [..., d]"""
    weight, bias = parameters
    rows = x.reshape(-1, x.shape[-1])
    return torch.addmm(bias, rows, weight.t(), alpha=factor, beta=bias_factor).view(*x.shape[:-1], -1)


@dataclass(frozen=True)
class BlockTrace:
    """What a block keeps of y = u + MLP(LN2(u)), u = x + attention(LN1(x)), and its derivatives there.

    Args:
        moving: rows of x that have tangents and cotangents; the others are constants. None: all.
    """

    weights: Weights
    layout: Layout
    norm_1: Norm
    """of the moving rows"""
    attention: AttentionTrace
    norm_2: Norm
    z: Tensor
    """[N, L', H], input of the activation"""
    length: int
    moving: slice | None

    @classmethod
    def forward(
        cls,
        weights: Weights,
        layout: Layout,
        x: Tensor,
        moving: slice | None = None,
        projected: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[BlockTrace, Tensor]:
        """x [N, L, d] -> y [N, L', d]

        Args:
            projected: LN1(x) [N, L, d] -> what is added to the queries, keys and values [N, L, 3 d]. The derivatives of
                the trace do not include it.
        """
        w, dtype = weights, weights.dtype
        h, norm_1 = Norm.forward(x, w.ln_1, dtype)
        qkv = _affine(h, w.in_proj)  # [N, L, 3 d]
        if projected is not None:
            qkv = qkv + projected(h)
        q, k, v = layout.split(qkv[None])
        attended, attention = AttentionTrace.forward(
            q.squeeze(2), k.squeeze(1), v.squeeze(2), layout.mask(dtype), w.some
        )
        attended = layout.merge(attended[:, :, None])[0]  # [N, L', d]
        h, norm_2 = Norm.forward(layout.kept(x[None])[0], w.ln_2, dtype, added=_affine(attended, w.out_proj))
        z, a = w.activation.of_linear(h, w.fc)  # [N, L', H]
        y = norm_2.x + _affine(a, w.proj, 1 / w.activation.scale)
        norm_1 = norm_1 if moving is None else norm_1.rows(moving)
        return cls(w, layout, norm_1, attention, norm_2, z, x.shape[1], moving), y

    def pull(self, dy: Tensor) -> tuple[Tensor, tuple]:
        """dy [K, N, L', d] -> dx [K, N, moving rows, d], and what `second` needs."""
        w, dtype = self.weights, self.weights.dtype
        da = torch.matmul(dy.to(dtype), w.proj[0])  # [K, N, L', H]
        dh_2 = torch.matmul(w.activation.times_slope(da, self.z), w.fc[0]).to(dy.dtype)
        du_norm, du = self.norm_2.pull(dh_2, residual=dy)
        do = self.layout.merge_back(torch.matmul(du.to(dtype), w.out_proj[0]))
        (dq, dk, dv), attention = self.attention.pull(do)
        dqkv = self._moving(self.layout.split_back(dq, dk, dv))
        dh_1 = torch.matmul(dqkv, w.in_proj[0]).to(dy.dtype)
        dx_norm, dx = self.norm_1.pull(dh_1, self.layout.leading(du), self._first)
        return dx, (da, dh_2, du_norm, attention, dh_1, dx_norm)

    def push(self, tangent: Tensor) -> tuple[Tensor, tuple]:
        """x' [K, N, moving rows, d] -> y' [K, N, L', d], and what `second` needs."""
        w, dtype = self.weights, self.weights.dtype
        _, t_1, h = self.norm_1.push(tangent, dtype)
        qkv = self._with_constants(torch.matmul(h, w.in_proj[0].t()))
        o, attention = self.attention.push(*self.layout.split(qkv))
        kept, o = self.layout.kept(self._with_constants(tangent)), self.layout.merge(o)
        u, t_2, h = self.norm_2.push(kept, dtype, added=torch.matmul(o, w.out_proj[0].t()))
        z = torch.matmul(h, w.fc[0].t())
        y = u + torch.matmul(w.activation.times_slope(z, self.z), w.proj[0].t())
        return y, (tangent, t_1, attention, u, t_2, z)

    def second(self, ddy: Tensor, pulled: tuple, pushed: tuple) -> Tensor:
        """ddy [N, L', d] -> [N, moving rows, d]"""
        w, dtype = self.weights, self.weights.dtype
        da, dh_2, du_norm, attention_pulled, dh_1, dx_norm = pulled
        tangent, t_1, attention_pushed, u, t_2, z = pushed
        ddz = w.activation.second(torch.matmul(ddy.to(dtype), w.proj[0]), da, z, self.z)
        ddh = torch.matmul(ddz, w.fc[0]).to(ddy.dtype)
        ddu = self.norm_2.second(ddh, dh_2, du_norm, u, t_2, residual=ddy)
        ddo = self.layout.merge_back(torch.matmul(ddu.to(dtype), w.out_proj[0])[None])
        ddqkv = self.layout.split_back(*self.attention.second(ddo, attention_pulled, attention_pushed))
        ddh = torch.matmul(self._moving(ddqkv), w.in_proj[0]).to(ddy.dtype)[0]
        residual = self.layout.leading(ddu[None])[0]
        return self.norm_1.second(ddh, dh_1, dx_norm, tangent, t_1, residual, self._first)

    @property
    def _first(self) -> int:
        """Number of the first moving row."""
        return 0 if self.moving is None else self.moving.indices(self.length)[0]

    def _moving(self, rows: Tensor) -> Tensor:
        """[K, N, L, ...] -> [K, N, moving rows, ...]"""
        return rows if self.moving is None else rows[:, :, self.moving]

    def _with_constants(self, rows: Tensor) -> Tensor:
        """The transpose of `_moving`: constant rows have no tangent"""
        if self.moving is None:
            return rows
        start, stop, _ = self.moving.indices(self.length)
        return torch.nn.functional.pad(rows, (0, 0, start, self.length - stop))
