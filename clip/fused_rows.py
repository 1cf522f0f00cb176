"""Rows of a tower to the problems of its attention and back, as one Triton kernel each; part of `clip.fused`.

Plain PyTorch needs up to six operations for one of these (index, stack, pad, sum, concatenate). Kernels move rows of
one head, and compute nothing but the sums over problems that share a row. They are compiled once for each number of
heads, head width and precision.

Shape legend: as in `clip.fused`, and: G problems of a sequence and head (b = N h G), h heads, c head width.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

HEAD_ROWS = 16
"""Rows of one head that a program moves at a time."""


def launch(kernel: Any, programs: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    """Run a kernel. It is typed as Any, since type checkers take it for the plain function that Triton compiles.

    Args:
        kernel: a function that `triton.jit` compiles.
        programs: the number of programs along each axis.
        arguments: those of the kernel; tensors are passed as pointers.
        options: arguments by name, and options of the compilation.
    """
    kernel[programs](*arguments, **options)


@triton.jit
def _cells(at, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Places of the entries of rows of one head, [rows, BLOCK]"""
    return at.to(tl.int64)[:, None] * WIDTH + tl.arange(0, BLOCK)[None, :]


@triton.jit
def _of_head(at, wanted, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Which entries of rows of one head are read or written"""
    return wanted[:, None] & (tl.arange(0, BLOCK)[None, :] < WIDTH)


@triton.jit(do_not_specialize=["sequences", "length", "problems", "n_queries", "n_keys", "count", "total"])
def _split_kernel(
    qkv, queries, keys, q, k, v, sequences, length, problems, n_queries, n_keys, count, total,
    INDEXED: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # of [N, h, G, Q + 2 M, K]
    inside = number < total
    nth, place = number % count, number // count
    within, problem = place % (n_queries + 2 * n_keys), place // (n_queries + 2 * n_keys)
    head, sequence = problem // problems % HEADS, problem // problems // HEADS
    is_query, is_key = within < n_queries, within < n_queries + n_keys
    key = tl.where(is_query, 0, within - n_queries) % n_keys
    row = tl.where(is_query, within, key)
    if INDEXED:
        group = problem % problems
        query_row = tl.load(queries + group * n_queries + within, mask=inside & is_query, other=0)
        key_row = tl.load(keys + group * n_keys + key, mask=inside & (within >= n_queries), other=0)
        row = tl.where(is_query, query_row, key_row).to(tl.int32)
    part = tl.where(is_query, 0, tl.where(is_key, 1, 2))
    source = (((nth * sequences + sequence) * length + row) * 3 + part) * HEADS + head
    values = tl.load(qkv + _cells(source, WIDTH, BLOCK), mask=_of_head(source, inside, WIDTH, BLOCK), other=0)
    to_q = (problem * n_queries + within) * count + nth
    to_k = (problem * count + nth) * n_keys + key
    to_v = (problem * n_keys + key) * count + nth
    tl.store(q + _cells(to_q, WIDTH, BLOCK), values, mask=_of_head(to_q, inside & (part == 0), WIDTH, BLOCK))
    tl.store(k + _cells(to_k, WIDTH, BLOCK), values, mask=_of_head(to_k, inside & (part == 1), WIDTH, BLOCK))
    tl.store(v + _cells(to_v, WIDTH, BLOCK), values, mask=_of_head(to_v, inside & (part == 2), WIDTH, BLOCK))


@triton.jit
def _key_places(problem, key, nth, n_keys, count, part):
    """Row of one head in dk [b, K, M, c], part 1, or in dv [b, M, K, c], part 2"""
    return tl.where(part == 1, (problem * count + nth) * n_keys + key, (problem * n_keys + key) * count + nth)


@triton.jit
def _move_back(
    number, dq, dk, dv, query_of_row, key_of_row, dqkv, sequences, length, problems, n_queries, n_keys, count, shared,
    total, INDEXED: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Rows of [K, N, L, 3, h] that come from one problem at most."""
    number = number * ROWS + tl.arange(0, ROWS)
    inside = number < total
    head, part, place = number % HEADS, number // HEADS % 3, number // HEADS // 3
    row, nth, sequence = place % length, place // length // sequences, place // length % sequences
    first = (sequence * HEADS + head) * problems
    has_key = inside & (part > 0) & (row >= shared)
    if INDEXED:
        query = tl.load(query_of_row + row, mask=inside, other=-1).to(tl.int32)
        key = tl.load(key_of_row + row - shared, mask=has_key, other=0).to(tl.int32)
    else:
        query = tl.where(row < n_queries, row, -1)
        key = row
    at = (first * n_queries + query) * count + nth
    wanted = inside & (part == 0) & (query >= 0)
    values = tl.load(dq + _cells(at, WIDTH, BLOCK), mask=_of_head(at, wanted, WIDTH, BLOCK), other=0)
    at = _key_places(first + key // n_keys, key % n_keys, nth, n_keys, count, part)
    values += tl.load(dk + _cells(at, WIDTH, BLOCK), mask=_of_head(at, has_key & (part == 1), WIDTH, BLOCK), other=0)
    values += tl.load(dv + _cells(at, WIDTH, BLOCK), mask=_of_head(at, has_key & (part == 2), WIDTH, BLOCK), other=0)
    mask = _of_head(number, inside & ((part == 0) | has_key), WIDTH, BLOCK)
    tl.store(dqkv + _cells(number, WIDTH, BLOCK), values, mask=mask)


@triton.jit
def _sum_shared(
    number, dk, dv, dqkv, sequences, length, problems, n_keys, count, shared,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Keys and values of a row that all problems share, one of [K, N, shared, 2, h]: their sum."""
    head, part, place = number % HEADS, number // HEADS % 2 + 1, number // HEADS // 2
    row, nth, sequence = place % shared, place // shared // sequences, place // shared % sequences
    sums = tl.zeros([ROWS, BLOCK], dtype=tl.float32)
    first = 0
    while first < problems:
        group = first + tl.arange(0, ROWS)
        at = _key_places((sequence * HEADS + head) * problems + group, row, nth, n_keys, count, part)
        mask = _of_head(at, group < problems, WIDTH, BLOCK)
        sums += tl.load(dk + _cells(at, WIDTH, BLOCK), mask=mask & (part == 1), other=0).to(tl.float32)
        sums += tl.load(dv + _cells(at, WIDTH, BLOCK), mask=mask & (part == 2), other=0).to(tl.float32)
        first += ROWS
    column = tl.arange(0, BLOCK)
    to = (((nth * sequences + sequence) * length + row) * 3 + part) * HEADS + head
    result = tl.sum(sums, axis=0).to(dqkv.dtype.element_ty)
    tl.store(dqkv + to.to(tl.int64) * WIDTH + column, result, mask=column < WIDTH)


@triton.jit(
    do_not_specialize=["sequences", "length", "problems", "n_queries", "n_keys", "count", "shared", "total", "tiles"]
)
def _split_back_kernel(
    dq, dk, dv, query_of_row, key_of_row, dqkv, sequences, length, problems, n_queries, n_keys, count, shared, total,
    tiles, INDEXED: tl.constexpr, HEADS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    if tl.program_id(0) < tiles:
        _move_back(
            tl.program_id(0), dq, dk, dv, query_of_row, key_of_row, dqkv, sequences, length, problems, n_queries,
            n_keys, count, shared, total, INDEXED, HEADS, WIDTH, ROWS, BLOCK,
        )  # fmt: skip
    else:
        _sum_shared(
            tl.program_id(0) - tiles, dk, dv, dqkv, sequences, length, problems, n_keys, count, shared,
            HEADS, WIDTH, ROWS, BLOCK,
        )  # fmt: skip


@triton.jit(do_not_specialize=["sequences", "length", "places", "count", "total"])
def _merge_back_kernel(
    rows, queries, occupied, result, sequences, length, places, count, total,
    HEADS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    number = tl.program_id(0) * ROWS + tl.arange(0, ROWS)  # of [N, h, G Q, K]
    inside = number < total
    nth, query, problem = number % count, number // count % places, number // count // places
    row = tl.load(queries + query, mask=inside, other=0).to(tl.int32)
    wanted = inside & (tl.load(occupied + query, mask=inside, other=0) != 0)
    source = ((nth * sequences + problem // HEADS) * length + row) * HEADS + problem % HEADS
    values = tl.load(rows + _cells(source, WIDTH, BLOCK), mask=_of_head(source, wanted, WIDTH, BLOCK), other=0)
    tl.store(result + _cells(number, WIDTH, BLOCK), values, mask=_of_head(number, inside, WIDTH, BLOCK))


def split(
    qkv: Tensor, heads: int, sizes: tuple[int, int, int], indices: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """`clip.derivatives.Layout.split`: qkv [K, N, L, 3 d] -> q [b, Q, K, c], k [b, K, M, c], v [b, M, K, c].

    Args:
        sizes: G, Q, M.
        indices: row of each query [G Q] and of each key [G M]. None: G = 1, queries and keys are the first rows.
    """
    count, sequences, length, width = *qkv.shape[:3], qkv.shape[3] // 3 // heads
    problems, n_queries, n_keys = sizes
    b = sequences * heads * problems
    shapes = (b, n_queries, count, width), (b, count, n_keys, width), (b, n_keys, count, width)
    parts = tuple(torch.empty(shape, dtype=qkv.dtype, device=qkv.device) for shape in shapes)
    total, qkv = b * (n_queries + 2 * n_keys) * count, qkv.contiguous()
    launch(_split_kernel, (triton.cdiv(total, HEAD_ROWS),),
        qkv, *(indices or (qkv, qkv)), *parts, sequences, length, *sizes, count, total, indices is not None,
        heads, width, HEAD_ROWS, triton.next_power_of_2(width), num_warps=2,
    )  # fmt: skip
    q, k, v = parts
    return q, k, v


def split_back(
    parts: tuple[Tensor, Tensor, Tensor],
    length: int,
    heads: int,
    sizes: tuple[int, int, int],
    indices: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """`clip.derivatives.Layout.split_back`: dq [b, Q, K, c], dk [b, K, M, c], dv [b, M, K, c] -> [K, N, L, 3 d].

    Args:
        sizes: G, Q, M.
        indices: query of each row [L] (-1: the row has no query), and key of each row [.] after those that are the
            first keys of all problems. None: G = 1, queries and keys are the first rows.
    """
    dq, count, width = parts[0], *parts[0].shape[2:]
    problems, n_queries, n_keys = sizes
    sequences = len(dq) // problems // heads
    shared = 0 if indices is None else length - len(indices[1])
    dqkv = torch.empty(count, sequences, length, 3 * heads * width, dtype=dq.dtype, device=dq.device)
    total = count * sequences * length * 3 * heads
    tiles, sums = triton.cdiv(total, HEAD_ROWS), count * sequences * shared * 2 * heads
    tensors = *(part.contiguous() for part in parts), *(indices or (dq, dq)), dqkv
    launch(_split_back_kernel, (tiles + sums,),
        *tensors, sequences, length, *sizes, count, shared, total, tiles, indices is not None,
        heads, width, HEAD_ROWS, triton.next_power_of_2(width), num_warps=2,
    )  # fmt: skip
    return dqkv


def merge_back(rows: Tensor, heads: int, queries: Tensor, occupied: Tensor) -> Tensor:
    """Rows [K, N, L, d] -> [N h, places, K, c]: at each place the row that `queries` [places] says, where occupied"""
    count, sequences, length, width = *rows.shape[:3], rows.shape[3] // heads
    places = len(queries)
    result = torch.empty(sequences * heads, places, count, width, dtype=rows.dtype, device=rows.device)
    total = sequences * heads * places * count
    launch(_merge_back_kernel, (triton.cdiv(total, HEAD_ROWS),),
        rows.contiguous(), queries, occupied, result, sequences, length, places, count, total,
        heads, width, HEAD_ROWS, triton.next_power_of_2(width), num_warps=2,
    )  # fmt: skip
    return result
