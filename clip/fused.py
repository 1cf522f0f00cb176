"""Closed forms of `clip.derivatives` as one Triton kernel each, for CUDA.

A layer norm's second derivative is some sixteen operations in plain PyTorch, each of which reads and writes whole
tensors; here it is one. The plain forms stay the reference, and the fallback. Kernels compute in float32 and take any
number of rows in any precision up to that. They are compiled once for each width and precision, and kept on disk by
Triton.

Shape legend: K cotangents or tangents, N rows, d width.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 1024
"""Elements that one program of an elementwise kernel computes."""


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


@triton.jit(do_not_specialize=["n_rows"])
def _pull_kernel(dy, x, mean, rstd, weight, dx, n_rows, width, BLOCK: tl.constexpr):
    row, at = tl.program_id(0), tl.program_id(1) * n_rows + tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < width
    r = tl.load(rstd + row)
    normed = tl.where(inside, (_row(x, row, width, BLOCK) - tl.load(mean + row)) * r, 0.0)
    u = _row(dy, at, width, BLOCK) * _row(weight, row * 0, width, BLOCK)
    result = _projected(u, normed, inside, r, width)
    tl.store(dx + at.to(tl.int64) * width + column, result.to(dx.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n_rows"])
def _push_kernel(tangent, x, mean, rstd, weight, t, y, n_rows, width, BLOCK: tl.constexpr):
    row, at = tl.program_id(0), tl.program_id(1) * n_rows + tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < width
    r = tl.load(rstd + row)
    normed = tl.where(inside, (_row(x, row, width, BLOCK) - tl.load(mean + row)) * r, 0.0)
    result = _projected(_row(tangent, at, width, BLOCK), normed, inside, r, width)
    place = at.to(tl.int64) * width + column
    tl.store(t + place, result, mask=inside)
    result *= _row(weight, row * 0, width, BLOCK)
    tl.store(y + place, result.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["n_rows"])
def _second_kernel(
    ddy, dy, dx, tangent, t, x, mean, rstd, weight, ddx, n_rows, width, K: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < width
    r = tl.load(rstd + row)
    w = _row(weight, row * 0, width, BLOCK)
    normed = tl.where(inside, (_row(x, row, width, BLOCK) - tl.load(mean + row)) * r, 0.0)
    bent = tl.zeros([BLOCK], dtype=tl.float32)
    for k in tl.static_range(K):
        at = k * n_rows + row
        u, t_k = _row(dy, at, width, BLOCK) * w, _row(t, at, width, BLOCK)
        along_x = tl.sum(_row(tangent, at, width, BLOCK) * normed, axis=0) / width
        along_dy = tl.sum(u * normed, axis=0) / width
        both = tl.sum(u * t_k, axis=0) / width
        bent += along_x * _row(dx, at, width, BLOCK) + along_dy * t_k + both * normed
    result = _projected(_row(ddy, row, width, BLOCK) * w, normed, inside, r, width) - r * bent
    tl.store(ddx + row.to(tl.int64) * width + column, result.to(ddx.dtype.element_ty), mask=inside)


def norm_pull(dy: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor) -> Tensor:
    """`clip.derivatives.Norm.pull`: dy [K, N.., d] and x [N.., d] -> [K, N.., d]"""
    dx = torch.empty(dy.shape, dtype=dy.dtype, device=dy.device)
    rows, width = x.numel() // x.shape[-1], x.shape[-1]
    _pull_kernel[rows, len(dy)](
        dy.contiguous(), x.contiguous(), mean, rstd, weight, dx, rows, width, BLOCK=triton.next_power_of_2(width)
    )
    return dx


def norm_push(tangent: Tensor, x: Tensor, mean: Tensor, rstd: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """`clip.derivatives.Norm.push`: tangent [K, N.., d] -> t in float32 and y', [K, N.., d] each"""
    t = torch.empty(tangent.shape, dtype=torch.float32, device=x.device)
    y = torch.empty(tangent.shape, dtype=tangent.dtype, device=x.device)
    rows, width = x.numel() // x.shape[-1], x.shape[-1]
    _push_kernel[rows, len(tangent)](
        tangent.contiguous(), x.contiguous(), mean, rstd, weight, t, y, rows, width, BLOCK=triton.next_power_of_2(width)
    )
    return t, y


def norm_second(
    ddy: Tensor,
    dy: Tensor,
    dx: Tensor,
    tangent: Tensor,
    t: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor,
) -> Tensor:
    """`clip.derivatives.Norm.second`: ddy [N.., d], the others [K, N.., d] -> [N.., d]"""
    ddx = torch.empty(ddy.shape, dtype=ddy.dtype, device=x.device)
    rows, width = x.numel() // x.shape[-1], x.shape[-1]
    tensors = (tensor.contiguous() for tensor in (ddy, dy, dx, tangent, t, x))
    _second_kernel[rows,](
        *tensors, mean, rstd, weight, ddx, rows, width, K=len(dy), BLOCK=triton.next_power_of_2(width)
    )
    return ddx


# --- activation ------------------------------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["n"])
def _quick_gelu_second_kernel(dda, da, tangent, z, ddz, n, SCALE: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr):
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n
    at = tl.load(z + place, mask=inside, other=0).to(tl.float32)
    upstream = tl.zeros([BLOCK], dtype=tl.float32)
    for k in tl.static_range(K):
        da_k = tl.load(da + k * n + place, mask=inside, other=0).to(tl.float32)
        upstream += da_k * tl.load(tangent + k * n + place, mask=inside, other=0).to(tl.float32)
    s = tl.sigmoid(at)
    slope, bend = s + at * s * (1 - s), SCALE * s * (1 - s) * (2 + at * (1 - 2 * s))
    result = slope * tl.load(dda + place, mask=inside, other=0).to(tl.float32) + bend * upstream
    tl.store(ddz + place, result.to(ddz.dtype.element_ty), mask=inside)


def quick_gelu_second(dda: Tensor, da: Tensor, tangent: Tensor, z: Tensor, scale: float) -> Tensor:
    """f'(z) dda + f''(z) sum_k z'_k da_k; dda, z [..], da and tangent [K, ..]"""
    ddz = torch.empty(dda.shape, dtype=dda.dtype, device=z.device)
    n = z.numel()
    _quick_gelu_second_kernel[triton.cdiv(n, ELEMENTS),](
        dda.contiguous(), da.contiguous(), tangent.contiguous(), z.contiguous(), ddz, n, scale, len(da), ELEMENTS
    )
    return ddz
