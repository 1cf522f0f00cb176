"""Run by test_fused.py in a process of its own, with TRITON_INTERPRET=1."""

from __future__ import annotations

import torch

from clip import derivatives, fused, model
from clip.derivatives import Norm, QuickGELUForm
from clip.kernel_choice import choose_kernels
from clip.towers import ImageTrace

ROUNDING = {torch.float32: 2e-5, torch.bfloat16: 2**-6, torch.float16: 2**-9}
"""Of the largest value."""


def close(ours, expected, dtype):
    """Largest difference within the rounding of `dtype`."""
    for one, other in zip(ours, expected, strict=True):
        limit = ROUNDING[dtype] * max(other.abs().max().item(), 1)
        difference = (one.double() - other.double()).abs().max().item()
        assert difference < limit, (dtype, tuple(other.shape), difference, limit)


@torch.no_grad()
def forms(x, weight, ddy, dy, tangent):
    layer = model.LayerNorm(len(weight)).to(weight.dtype)
    layer.weight.copy_(weight)
    _, norm = Norm.forward(x, layer)
    dx, (t, y) = norm.pull(dy), norm.push(tangent)
    second = norm.second(ddy, dy, dx, tangent, t)
    return [dx, t, y, second, QuickGELUForm().second(ddy, dy, tangent, x)]


def check_forms():
    generator = torch.Generator().manual_seed(0)
    for dtype in ROUNDING:
        for rows, width, count in ((1, 5, 1), (3, 64, 2), (7, 130, 2), (2, 17, 3)):
            shapes = (1, rows, width), (width,), (1, rows, width), (count, 1, rows, width), (count, 1, rows, width)
            x, weight, *rest = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
            derivatives.kernels = None
            expected = forms(*(tensor.double() for tensor in (x, weight, *rest)))
            derivatives.kernels = fused
            close(forms(x, weight.float(), *rest), expected, dtype)


def tower_results():
    """Pull, push and second of a small image tower."""
    torch.manual_seed(0)
    visual = model.VisionTransformer(32, 16, 64, 2, 1, 24).requires_grad_(False)
    trace = ImageTrace(visual.tower(torch.randn(1, 3, 32, 32), 1, 2), [torch.randn(1, 64), torch.randn(1, 64)])
    pulled, kept = trace.pull(torch.randn(2, 1, 24))
    pushed, kept_too = trace.push(torch.randn(2, 1, 64), torch.randn(2, 1, 64))
    return [*pulled, pushed, *trace.second(torch.randn(1, 24), kept, kept_too)]


def check_tower():
    derivatives.kernels = None
    expected = tower_results()
    choose_kernels("on", torch.device("cpu"))
    assert derivatives.kernels is fused
    close(tower_results(), expected, torch.float32)


if __name__ == "__main__":
    check_forms()
    check_tower()
    print("all equal")
