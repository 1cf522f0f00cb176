"""Closed forms of `clip.derivatives` as one Triton kernel each, for CUDA.

A layer norm's second derivative is some sixteen operations in plain PyTorch, each of which reads and writes whole
tensors; here it is one. The plain forms stay the reference, and the fallback. Kernels compute in float32 and take any
number of rows in any precision up to that, also different ones at once. They are compiled once for each width and
precision, whatever the number of rows, keys or classes, and kept on disk by Triton.

Where plain PyTorch would round a value to half precision before it uses it again, the kernels do so too.

Loops over a number that is known at run time are written with `while`: the interpreter of Triton 3.6 cannot count with
`range` under NumPy 2.4.

Shape legend: K cotangents or tangents, N sequences, L rows, L' rows kept, d width, b problems of attention, Q queries,
M keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from clip.fused_rows import launch
from clip.fused_rows import merge_back as merge_back
from clip.fused_rows import split as split
from clip.fused_rows import split_back as split_back

if TYPE_CHECKING:
    from clip.derivatives import Norm

ELEMENTS = 1024
"""Elements that one program of an elementwise kernel computes."""
KEYS = 256
"""Keys that a program of an attention kernel reads at a time."""


# --- layer norm ------------------------------------------------------------------------------------------------------


@triton.jit
def _row(pointer, row, width, BLOCK: tl.constexpr):
    """One row in float32, 0 beyond its width."""
    column = tl.arange(0, BLOCK)
    return tl.load(pointer + row.to(tl.int64) * width + column, mask=column < width, other=0).to(tl.float32)


@triton.jit
def _projected(u, normed, inside, rstd, width):
    """r P(u) = r (u - mean(u) - x^ mean(u x^))"""
    mean = tl.sum(u, axis=0) / width
    along = tl.sum(u * normed, axis=0) / width
    return tl.where(inside, rstd * (u - mean - normed * along), 0.0)


@triton.jit
def _normed(x, mean, rstd, row, width, BLOCK: tl.constexpr):
    """x^ of one row, 0 beyond its width; and the row's reciprocal deviation"""
    r = tl.load(rstd + row)
    inside = tl.arange(0, BLOCK) < width
    return tl.where(inside, (_row(x, row, width, BLOCK) - tl.load(mean + row)) * r, 0.0), r


@triton.jit
def _store(pointer, row, values, width, BLOCK: tl.constexpr):
    """Write one row; returns it as written, in float32."""
    column = tl.arange(0, BLOCK)
    values = values.to(pointer.dtype.element_ty)
    tl.store(pointer + row.to(tl.int64) * width + column, values, mask=column < width)
    return values.to(tl.float32)


@triton.jit
def _residual_row(residual, row, length, start, kept, width, BLOCK: tl.constexpr):
    """What is added to a row: of each sequence of `length` rows the first is number `start` of `kept` residual rows."""
    place = row % length + start
    column = tl.arange(0, BLOCK)
    at = ((row // length) * kept + place).to(tl.int64) * width + column
    return tl.load(residual + at, mask=(column < width) & (place < kept), other=0).to(tl.float32)


@triton.jit(do_not_specialize=["length", "stride"])
def _forward_kernel(
    x, added, weight, bias, u, y, mean, rstd, length, stride, eps, width, ADDS: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    inside = tl.arange(0, BLOCK) < width
    value = _row(x, (row // length) * stride + row % length, width, BLOCK)
    if ADDS:
        value = _store(u, row, value + _row(added, row, width, BLOCK), width, BLOCK)
    m = tl.sum(value, axis=0) / width
    distance = tl.where(inside, value - m, 0.0)
    r = tl.rsqrt(tl.sum(distance * distance, axis=0) / width + eps)
    tl.store(mean + row, m)
    tl.store(rstd + row, r)
    result = distance * r * _row(weight, row * 0, width, BLOCK) + _row(bias, row * 0, width, BLOCK)
    _store(y, row, result, width, BLOCK)


@triton.jit(do_not_specialize=["n_rows", "length", "start", "kept"])
def _pull_kernel(
    dy, x, mean, rstd, weight, residual, dx, dx_and_residual,
    n_rows, length, start, kept, width, ADDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, at = tl.program_id(0), tl.program_id(1) * n_rows + tl.program_id(0)
    inside = tl.arange(0, BLOCK) < width
    normed, r = _normed(x, mean, rstd, row, width, BLOCK)
    u = _row(dy, at, width, BLOCK) * _row(weight, row * 0, width, BLOCK)
    result = _store(dx, at, _projected(u, normed, inside, r, width), width, BLOCK)
    if ADDS:
        result += _residual_row(residual, at, length, start, kept, width, BLOCK)
        _store(dx_and_residual, at, result, width, BLOCK)


@triton.jit(do_not_specialize=["n_rows", "length", "stride"])
def _push_kernel(
    tangent, added, x, mean, rstd, weight, u, t, y,
    n_rows, length, stride, width, ADDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row, at = tl.program_id(0), tl.program_id(1) * n_rows + tl.program_id(0)
    inside = tl.arange(0, BLOCK) < width
    normed, r = _normed(x, mean, rstd, row, width, BLOCK)
    value = _row(tangent, (at // length) * stride + at % length, width, BLOCK)
    if ADDS:
        value = _store(u, at, value + _row(added, at, width, BLOCK), width, BLOCK)
    result = _store(t, at, _projected(value, normed, inside, r, width), width, BLOCK)
    _store(y, at, result * _row(weight, row * 0, width, BLOCK), width, BLOCK)


@triton.jit(do_not_specialize=["n_rows", "length", "start", "kept"])
def _second_kernel(
    ddy, dy, dx, tangent, t, x, mean, rstd, weight, residual, ddx,
    n_rows, length, start, kept, width, ADDS: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    inside = tl.arange(0, BLOCK) < width
    w = _row(weight, row * 0, width, BLOCK)
    normed, r = _normed(x, mean, rstd, row, width, BLOCK)
    bent = tl.zeros([BLOCK], dtype=tl.float32)
    for k in tl.static_range(K):  # pyright: ignore[reportGeneralTypeIssues] - Triton unrolls it
        at = k * n_rows + row
        u, t_k = _row(dy, at, width, BLOCK) * w, _row(t, at, width, BLOCK)
        along_x = tl.sum(_row(tangent, at, width, BLOCK) * normed, axis=0) / width
        along_dy = tl.sum(u * normed, axis=0) / width
        both = tl.sum(u * t_k, axis=0) / width
        bent += along_x * _row(dx, at, width, BLOCK) + along_dy * t_k + both * normed
    result = _projected(_row(ddy, row, width, BLOCK) * w, normed, inside, r, width) - r * bent
    if ADDS:
        result = result.to(ddx.dtype.element_ty).to(tl.float32)
        result += _residual_row(residual, row, length, start, kept, width, BLOCK)
    _store(ddx, row, result, width, BLOCK)


def norm_forward(
    x: Tensor, added: Tensor | None, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`clip.derivatives.Norm.forward`.

    Args:
        x: [N.., L, d].
        added: the same shape, is added to x first.
        dtype: of the normed rows.

    Returns:
        x + added, the normed rows [N.., L, d], mean and rstd [N.., L, 1]; without `added`, x itself comes first.
    """
    rows, length, stride = _regular(x)
    u = x if added is None else _empty_sum(x, added)
    y = torch.empty(x.shape, dtype=dtype, device=x.device)
    mean, rstd = (torch.empty(*x.shape[:-1], 1, dtype=torch.float32, device=x.device) for _ in range(2))
    pointers = rows, rows if added is None else added.contiguous(), weight, bias, u, y, mean, rstd
    _launch_by_row(_forward_kernel, x, 1, *pointers, length, stride, eps, ADDS=added is not None)
    return u, y, mean, rstd


def norm_pull(norm: Norm, dy: Tensor, residual: Tensor | None, start: int) -> tuple[Tensor, Tensor]:
    """`clip.derivatives.Norm.pull`: dy [K, N, L, d], residual [K, N, L', d] -> [K, N, L, d] twice"""
    x, mean, rstd, weight = norm
    dx = torch.empty(dy.shape, dtype=dy.dtype, device=dy.device)
    total = dx if residual is None else torch.empty_like(dx)
    residual, places = _residual(residual, dx, start)
    pointers = dy.contiguous(), x.contiguous(), mean, rstd, weight, residual, dx, total
    _launch_by_row(_pull_kernel, x, len(dy), *pointers, _count(x), *places, ADDS=total is not dx)
    return dx, total


def norm_push(norm: Norm, tangent: Tensor, added: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """`clip.derivatives.Norm.push`: tangent, added [K, N, L, d] -> their sum, t in float32 and y', [K, N, L, d] each"""
    x, mean, rstd, weight = norm
    rows, length, stride = _regular(tangent)
    u = tangent if added is None else _empty_sum(tangent, added)
    t = torch.empty(tangent.shape, dtype=torch.float32, device=x.device)
    y = torch.empty(tangent.shape, dtype=dtype, device=x.device)
    pointers = rows, rows if added is None else added.contiguous(), x.contiguous(), mean, rstd, weight, u, t, y
    _launch_by_row(_push_kernel, x, len(tangent), *pointers, _count(x), length, stride, ADDS=added is not None)
    return u, t, y


def norm_second(
    norm: Norm, ddy: Tensor, dy: Tensor, dx: Tensor, tangent: Tensor, t: Tensor, residual: Tensor | None, start: int
) -> Tensor:
    """`clip.derivatives.Norm.second`: ddy [N, L, d], residual [N, L', d], the others [K, N, L, d] -> [N, L, d]"""
    x, mean, rstd, weight = norm
    ddx = torch.empty(ddy.shape, dtype=ddy.dtype, device=x.device)
    adds = residual is not None
    residual, places = _residual(residual, ddx, start)
    pointers = *(tensor.contiguous() for tensor in (ddy, dy, dx, tangent, t, x)), mean, rstd, weight, residual, ddx
    _launch_by_row(_second_kernel, x, 1, *pointers, _count(x), *places, ADDS=adds, K=len(dy))
    return ddx


def _launch_by_row(kernel: Any, x: Tensor, times: int, *arguments: Any, **constants: Any) -> None:
    """Run a kernel `times` times for each row of x [.., d]; d and the power of two that holds it are added."""
    width = x.shape[-1]
    launch(kernel, (_count(x), times), *arguments, width, **constants, BLOCK=triton.next_power_of_2(width))


def _count(x: Tensor) -> int:
    """Number of rows of x [.., d]"""
    return x.numel() // x.shape[-1]


def _regular(rows: Tensor) -> tuple[Tensor, int, int]:
    """Rows [.., L, d] that a kernel can read; L; and how many rows lie between the starts of two sequences.

    They are copied unless they lie at equal distances, as the first L rows of longer sequences do.
    """
    *_, length, width = rows.shape
    rows = rows.reshape(-1, length, width)
    if rows.stride()[1:] != (width, 1) or rows.stride(0) % width:
        rows = rows.contiguous()
    return rows, length, rows.stride(0) // width


def _empty_sum(rows: Tensor, added: Tensor) -> Tensor:
    """Memory for rows + added, in the precision that PyTorch gives to a sum"""
    dtype = rows.dtype if rows.dtype == added.dtype else torch.promote_types(rows.dtype, added.dtype)
    return torch.empty(rows.shape, dtype=dtype, device=rows.device)


def _residual(residual: Tensor | None, rows: Tensor, start: int) -> tuple[Tensor, tuple[int, int, int]]:
    """The tensor (anything if there is none); rows of a sequence, number of the first residual row, and how many"""
    kept = 0 if residual is None else residual.shape[-2]
    return rows if residual is None else residual.contiguous(), (rows.shape[-2], start, kept)


# --- activation ------------------------------------------------------------------------------------------------------


@triton.jit
def _at(pointer, place, inside):
    """Entries in float32, 0 outside"""
    return tl.load(pointer + place, mask=inside, other=0).to(tl.float32)


@triton.jit(do_not_specialize=["n"])
def _quick_gelu_value_kernel(x, y, n, SCALE: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    value = _at(x, place, place < n)
    tl.store(y + place, (value * tl.sigmoid(SCALE * value)).to(y.dtype.element_ty), mask=place < n)


@triton.jit(do_not_specialize=["n"])
def _quick_gelu_kernel(z, bias, a, n, WIDTH: tl.constexpr, SCALE: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n
    value = SCALE * (_at(z, place, inside) + _at(bias, place % WIDTH, inside))
    value = value.to(z.dtype.element_ty)
    tl.store(z + place, value, mask=inside)
    value = value.to(tl.float32)
    tl.store(a + place, (value * tl.sigmoid(value)).to(a.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n"])
def _quick_gelu_slope_kernel(upstream, z, result, n, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n
    at = _at(z, place, inside)
    s = tl.sigmoid(at)
    place += tl.program_id(1).to(tl.int64) * n
    slope = (s + at * s * (1 - s)) * _at(upstream, place, inside)
    tl.store(result + place, slope.to(result.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n"])
def _quick_gelu_second_kernel(dda, da, tangent, z, ddz, n, SCALE: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n
    at = _at(z, place, inside)
    upstream = tl.zeros([BLOCK], dtype=tl.float32)
    for k in tl.static_range(K):  # pyright: ignore[reportGeneralTypeIssues] - Triton unrolls it
        upstream += _at(da + k * n.to(tl.int64), place, inside) * _at(tangent + k * n.to(tl.int64), place, inside)
    s = tl.sigmoid(at)
    slope, bend = s + at * s * (1 - s), SCALE * s * (1 - s) * (2 + at * (1 - 2 * s))
    result = slope * _at(dda, place, inside) + bend * upstream
    tl.store(ddz + place, result.to(ddz.dtype.element_ty), mask=inside)


def quick_gelu_value(x: Tensor, scale: float) -> Tensor:
    """x sigmoid(scale x)"""
    y, n = torch.empty(x.shape, dtype=x.dtype, device=x.device), x.numel()
    launch(_quick_gelu_value_kernel, (triton.cdiv(n, ELEMENTS),), x.contiguous(), y, n, scale, ELEMENTS)
    return y


def quick_gelu(product: Tensor, bias: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """z = scale (product + bias), in the memory of `product` [.., H], and z sigmoid(z)"""
    a, n = torch.empty_like(product), product.numel()
    launch(_quick_gelu_kernel, (triton.cdiv(n, ELEMENTS),), product, bias, a, n, product.shape[-1], scale, ELEMENTS)
    return product, a


def quick_gelu_slope(upstream: Tensor, z: Tensor) -> Tensor:
    """f'(z) upstream_k; upstream [K, ..], z [..]"""
    result, n = torch.empty(upstream.shape, dtype=upstream.dtype, device=z.device), z.numel()
    grid = triton.cdiv(n, ELEMENTS), upstream.numel() // n
    launch(_quick_gelu_slope_kernel, (grid), upstream.contiguous(), z.contiguous(), result, n, ELEMENTS)
    return result


def quick_gelu_second(dda: Tensor, da: Tensor, tangent: Tensor, z: Tensor, scale: float) -> Tensor:
    """f'(z) dda + f''(z) sum_k z'_k da_k; dda, z [..], da and tangent [K, ..]"""
    ddz = torch.empty(dda.shape, dtype=dda.dtype, device=z.device)
    tensors, n = (tensor.contiguous() for tensor in (dda, da, tangent, z)), z.numel()
    launch(_quick_gelu_second_kernel, (triton.cdiv(n, ELEMENTS),), *tensors, ddz, n, scale, len(da), ELEMENTS)
    return ddz


# --- attention -------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["count", "n_keys"])
def _centred_kernel(scores, p, centred, weighted, count, n_keys, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    scores += row * n_keys
    p += (row // count) * n_keys
    mean = 0.0
    first = 0
    while first < n_keys:
        place = first + tl.arange(0, BLOCK)
        mean += tl.sum(_at(scores, place, place < n_keys) * _at(p, place, place < n_keys), axis=0)  # pyright: ignore[reportOperatorIssue] - a scalar
        first += BLOCK
    first = 0
    while first < n_keys:
        place = first + tl.arange(0, BLOCK)
        inside = place < n_keys
        value = (_at(scores, place, inside) - mean).to(centred.dtype.element_ty)
        tl.store(centred + row * n_keys + place, value, mask=inside)
        value = value.to(tl.float32) * _at(p, place, inside)
        tl.store(weighted + row * n_keys + place, value.to(weighted.dtype.element_ty), mask=inside)
        first += BLOCK


@triton.jit
def _bent(bent, upstream, scores, place, n_keys, K: tl.constexpr):
    """bent + sum_k upstream_k scores_k at some keys of a row"""
    inside = place < n_keys
    value = _at(bent, place, inside)
    for k in tl.static_range(K):  # pyright: ignore[reportGeneralTypeIssues] - Triton unrolls it
        value += _at(upstream + k * n_keys, place, inside) * _at(scores + k * n_keys, place, inside)
    return value


@triton.jit(do_not_specialize=["n_keys"])
def _softmax_second_kernel(bent, upstream, scores, p, result, n_keys, K: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    bent += row * n_keys
    p += row * n_keys
    upstream += row * K * n_keys
    scores += row * K * n_keys
    mean = 0.0
    first = 0
    while first < n_keys:
        place = first + tl.arange(0, BLOCK)
        mean += tl.sum(_bent(bent, upstream, scores, place, n_keys, K) * _at(p, place, place < n_keys), axis=0)  # pyright: ignore[reportOperatorIssue] - a scalar
        first += BLOCK
    first = 0
    while first < n_keys:
        place = first + tl.arange(0, BLOCK)
        value = (_bent(bent, upstream, scores, place, n_keys, K) - mean) * _at(p, place, place < n_keys)
        tl.store(result + row * n_keys + place, value.to(result.dtype.element_ty), mask=place < n_keys)
        first += BLOCK


def centred(scores: Tensor, p: Tensor) -> tuple[Tensor, Tensor]:
    """centred(scores) of `clip.derivatives` under p [b, Q, M], and p times that; all but p [b, Q, K, M]"""
    *_, count, n_keys = scores.shape
    result, weighted = torch.empty_like(scores), torch.empty_like(scores)
    tensors = scores.contiguous(), p.contiguous(), result, weighted
    launch(_centred_kernel, (_count(scores),), *tensors, count, n_keys, KEYS, num_warps=1)
    return result, weighted


def softmax_second(bent: Tensor, upstream: Tensor, scores: Tensor, p: Tensor) -> Tensor:
    """p centred(bent + sum_k upstream_k scores_k); bent, p [b, Q, M], upstream, scores [b, Q, K, M]"""
    n_keys, result = bent.shape[-1], torch.empty_like(bent)
    tensors = (tensor.contiguous() for tensor in (bent, upstream, scores, p))
    count = scores.shape[2]
    launch(_softmax_second_kernel, (_count(bent),), *tensors, result, n_keys, count, KEYS, num_warps=1)
    return result
