"""The Triton kernels of `clip.fused` against the plain forms: the same numbers, and how long each takes.

A case is one form that has a kernel, on random tensors of the sizes that a training step has. Both ways are compared
with the plain form in float64; they are timed as captured, so that launches from the host do not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from unittest import mock

import torch
from torch import Tensor

from clip import derivatives
from clip.derivatives import AttentionTrace, Norm, QuickGELUForm
from clip.model import QuickGELU
from clip.packed_text import PackedPrompts, PackedRows
from clip.towers import EveryRow
from tools.bench import wait_for
from trainers.core.captured import CudaRecorder

Case = Callable[[], list[Tensor]]
COUNT = 2
"""Cotangents and tangents at once: g and r."""


class Sizes(NamedTuple):
    """Of a tower: sequences, rows of each, width, heads; and the classes that are packed."""

    sequences: int
    length: int
    width: int
    heads: int
    classes: int


TINY = Sizes(1, 3, 8, 2, 2)
VIT_B_16 = Sizes(4, 205, 768, 12, 50)


def cases(sizes: Sizes, rounded: torch.dtype, dtype: torch.dtype, device: torch.device) -> dict[str, Case]:
    """By name. Tensors are rounded to `rounded` and computed in `dtype`; they are the same each time."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(rounded).to(device, dtype)

    with torch.no_grad(), mock.patch.object(derivatives, "kernels", None):
        return _norm_cases(sizes, draw) | _gelu_cases(sizes, draw) | _attention_cases(sizes, draw)


def _norm_cases(sizes: Sizes, draw: Callable[..., Tensor]) -> dict[str, Case]:
    shape = sizes.sequences, sizes.length, sizes.width
    x, added, (dy, dx, tangent, t) = draw(*shape), draw(*shape), draw(4, COUNT, *shape)
    layer = torch.nn.LayerNorm(sizes.width, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    layer.weight.copy_(draw(sizes.width))
    layer.requires_grad_(False)
    _, norm = Norm.forward(x, layer, x.dtype)
    t = t.to(layer.weight.dtype)

    def forward() -> list[Tensor]:
        y, kept = Norm.forward(x, layer, x.dtype, added)
        return [y, *kept[:3]]

    return {
        "layer norm": forward,
        "layer norm, pull": lambda: list(norm.pull(dy, residual=tangent)),
        "layer norm, push": lambda: list(norm.push(tangent, x.dtype, added=dy)),
        "layer norm, second": lambda: [norm.second(added, dy, dx, tangent, t, residual=x)],
    }


def _gelu_cases(sizes: Sizes, draw: Callable[..., Tensor]) -> dict[str, Case]:
    form, hidden = QuickGELUForm(), 4 * sizes.width
    x, weight, bias = draw(sizes.sequences, sizes.length, sizes.width), draw(hidden, sizes.width), draw(hidden)
    weight = weight * sizes.width**-0.5
    z, dda, *several = draw(2 + 2 * COUNT, sizes.sequences, sizes.length, hidden)
    da, tangent = torch.stack(several[:COUNT]), torch.stack(several[COUNT:])
    return {
        "QuickGELU, value alone": lambda: [QuickGELU()(z)],
        "linear and QuickGELU": lambda: list(form.of_linear(x, (weight, bias))),
        "QuickGELU, first derivative": lambda: [form.times_slope(da, z)],
        "QuickGELU, second": lambda: [form.second(dda, da, tangent, z)],
    }


def _attention_cases(sizes: Sizes, draw: Callable[..., Tensor]) -> dict[str, Case]:
    layouts = {
        "image": EveryRow(sizes.sequences, sizes.length, sizes.length - 1, sizes.heads),
        "text": PackedRows(_packed(sizes.classes, draw(1).device), 1, sizes.heads),
    }
    found: dict[str, Case] = {}
    for name, layout in layouts.items():
        qkv = draw(COUNT, layout.sequences, layout.length, 3 * sizes.width)
        q, k, v = layout.split(qkv)
        _, attention = AttentionTrace.forward(q[:, :, 0], k[:, 0], v[:, :, 0], None, q[:1, :1, 0, :1])
        (dq, dk, dv), pulled = attention.pull(torch.roll(q, 1))
        _, pushed = attention.push(q, k, v)
        kept = layout.merge(q)
        found |= {
            f"{name} rows to heads": lambda layout=layout, qkv=qkv: list(layout.split(qkv)),
            f"{name} rows from heads": partial(_from_heads, layout, (dq, dk, dv), kept),
            f"{name} attention, pull": lambda attention=attention, q=q: list(attention.pull(q)[0]),
            f"{name} attention, push": lambda attention=attention, q=q, k=k, v=v: [attention.push(q, k, v)[0]],
            f"{name} attention, second": partial(_second, attention, q[:, :, :1].contiguous(), pulled, pushed),
        }
    return found


def _from_heads(layout: EveryRow | PackedRows, parts: tuple[Tensor, Tensor, Tensor], kept: Tensor) -> list[Tensor]:
    return [layout.split_back(*parts), layout.merge_back(kept)]


def _second(attention: AttentionTrace, ddo: Tensor, pulled: tuple, pushed: tuple) -> list[Tensor]:
    return list(attention.second(ddo, pulled, pushed))


def _packed(classes: int, device: torch.device) -> PackedPrompts:
    """Class names of 1 to 6 tokens behind a shared context of 5."""
    end = 1000
    tokens = torch.zeros(classes, 16, dtype=torch.long)
    for number in range(classes):
        length = 1 + number % 6
        tokens[number, :5], tokens[number, 5 : 5 + length] = torch.arange(1, 6), 10 + number
        tokens[number, 5 + length] = end
    return PackedPrompts.from_tokens(tokens).to(device)


def check_kernels(
    sizes: Sizes, dtype: torch.dtype, device: torch.device, repeats: int
) -> dict[str, dict[str, float | bool]]:
    """Errors as parts of the largest value, and microseconds; the kernels must have been chosen before."""
    fused = derivatives.kernels
    reference = cases(sizes, dtype, torch.float64, device)
    results = {}
    for name, case in cases(sizes, dtype, dtype, device).items():
        with torch.no_grad():
            expected, row = reference[name](), {}
            for way, kernels in (("plain", None), ("fused", fused)):
                with mock.patch.object(derivatives, "kernels", kernels):
                    row[f"{way} error"] = _error(case(), expected)
                    row[f"{way} [us]"] = 1e6 * _seconds(case, device, repeats)
        row["equal"] = row["fused error"] <= 2 * row["plain error"] + torch.finfo(dtype).eps
        results[name] = row
    return results


def _error(found: list[Tensor], expected: list[Tensor]) -> float:
    """The worst of all tensors: the largest difference divided by the largest value; 1 for NaN and infinite ones."""
    errors = [
        ((one.double() - other).abs().max() / other.abs().max().clamp(min=1)).nan_to_num(1.0, posinf=1.0).item()
        for one, other in zip(found, expected, strict=True)
    ]
    return max(errors)


def _seconds(case: Case, device: torch.device, repeats: int) -> float:
    """Of one call, averaged over `repeats`; on a GPU a replay of its graph. Interpreted kernels cannot be recorded."""
    call = CudaRecorder(device).capture(case).replay if device.type == "cuda" else case
    call()
    wait_for(device)
    began = time.perf_counter()
    for _ in range(repeats):
        call()
    wait_for(device)
    return (time.perf_counter() - began) / repeats
