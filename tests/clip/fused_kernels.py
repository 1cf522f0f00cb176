"""Run by test_fused.py in a process of its own, with TRITON_INTERPRET=1."""

from __future__ import annotations

import torch

from clip import derivatives, fused, model
from clip.derivatives import AttentionTrace, Norm, QuickGELUForm
from clip.kernel_choice import choose_kernels
from clip.packed_text import EndMarks, PackedPrompts, PackedRows, TextTrace
from clip.towers import EveryRow, ImageTrace

ROUNDING = {torch.float32: 16 * 2**-23, torch.bfloat16: 2 * 2**-7, torch.float16: 2 * 2**-10}
"""Two units in the last place of the largest value; 16 in float32, in which whole towers are compared too."""


def close(ours, expected, dtype):
    """Largest difference within the rounding of `dtype`."""
    for one, other in zip(ours, expected, strict=True):
        limit = ROUNDING[dtype] * max(other.abs().max().item(), 1)
        difference = (one.double() - other.double()).abs().max().item()
        assert difference < limit, (dtype, tuple(other.shape), difference, limit)


@torch.no_grad()
def norm_forms(x, weight, bias, added, dy, tangent, residual, start):
    """Forward, pull, push and second, with what is added and without; of rows that lie apart, as those of a slice."""
    layer = model.LayerNorm(len(weight)).to(weight.dtype)
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
    results = []
    for plus in (None, added):
        y, norm = Norm.forward(x[:, :-1], layer, x.dtype, plus)
        dx, total = norm.pull(dy, None if plus is None else residual, start)
        u, t, y_tangent = norm.push(tangent[:, :, :-1], x.dtype, None if plus is None else dy)
        second = norm.second(added, dy, dx, u, t, None if plus is None else residual[0], start)
        results += [y, norm.x, norm.mean, norm.rstd, dx, total, u, t, y_tangent, second]
    return results


@torch.no_grad()
def gelu_forms(x, weight, bias, dda, da, tangent):
    form = QuickGELUForm()
    z, value = form.of_linear(x, (weight, bias))
    return [z, value, form.times_slope(da, z), form.second(dda, da, tangent, z)]


@torch.no_grad()
def attention_forms(q, k, v, do, q_tangent, k_tangent, v_tangent, ddo):
    o, attention = AttentionTrace.forward(q, k, v, None, q[:1, :1, :1])
    cotangents, kept = attention.pull(do)
    o_tangent, kept_too = attention.push(q_tangent, k_tangent, v_tangent)
    return [o, *cotangents, o_tangent, *attention.second(ddo, kept, kept_too)]


def compare(forms, dtype, tensors, wide=(), **how):
    """Kernels on the tensors in `dtype`, those numbered in `wide` in float32, against plain float64."""
    tensors = [tensor.to(dtype) for tensor in tensors]
    derivatives.kernels = None
    expected = forms(*(tensor.double() for tensor in tensors), **how)
    derivatives.kernels = fused
    close(forms(*(tensor.float() if i in wide else tensor for i, tensor in enumerate(tensors)), **how), expected, dtype)


def check_forms():
    generator = torch.Generator().manual_seed(0)

    def draw(*shapes):
        return [torch.randn(shape, generator=generator) for shape in shapes]

    sizes = [(1, 1, 5, 1, 1, 0), (2, 3, 64, 2, 2, 0), (2, 4, 130, 2, 6, 1), (1, 2, 17, 3, 3, 2), (2, 2, 24, 2, 2, 2)]
    for dtype in ROUNDING:
        # a precision is where values are loaded and stored, which is the same for all sizes
        for n, length, width, count, kept, start in sizes if dtype == torch.float32 else (sizes[0], sizes[3]):
            rows, both = (n, length, width), (count, n, length, width)
            longer = (n, length + 1, width), (count, n, length + 1, width)
            drawn = draw(longer[0], width, width, rows, both, longer[1], (count, n, kept, width))
            compare(norm_forms, dtype, drawn, wide=(1, 2), start=start)
            hidden, each = (n, length, 7), (count, n, length, 7)
            compare(gelu_forms, dtype, draw(rows, (7, width), 7, hidden, each, each))
        for b, queries, keys, count in ((1, 1, 1, 1), (2, 3, 5, 2), (1, 2, fused.KEYS + 7, 2)):
            q, k = (b, queries, 4), (b, keys, 4)
            several = (b, queries, count, 4), (b, count, keys, 4), (b, keys, count, 4)
            compare(attention_forms, dtype, draw(q, k, k, several[0], *several, (b, queries, 1, 4)))


TOKENS = torch.tensor([[98, 1, 7, 99, 0, 0], [98, 1, 8, 9, 10, 99], [98, 1, 9, 7, 99, 0]])  # START 98, END 99


def layouts():
    """Of 2 sequences and 2 heads: every row has a query; some; packed prompts of 2 shared rows; their end marks."""
    packed = PackedPrompts.from_tokens(TOKENS)
    return [EveryRow(2, 4, 4, 2), EveryRow(2, 4, 1, 2), PackedRows(packed, 2, 2), EndMarks(packed, 2, 2)]


@torch.no_grad()
def check_layouts():
    """Rows are moved, not computed: equal to the last bit, but for the sums of what problems share."""
    for layout in layouts():
        for count, width in ((1, 4), (2, 3)):
            torch.manual_seed(0)
            derivatives.kernels = None
            qkv = torch.randn(count, 2, layout.length, 3 * 2 * width)
            parts = layout.split(qkv)
            cotangents = [torch.randn_like(part) for part in parts]
            kept = torch.randn_like(layout.merge(parts[0]))
            expected = [*parts, layout.split_back(*cotangents), layout.merge_back(kept)]
            derivatives.kernels = fused
            found = [*layout.split(qkv), layout.split_back(*cotangents), layout.merge_back(kept)]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
            assert all(map(torch.equal, found[:3], expected[:3])) and torch.equal(found[4], expected[4])
            assert all(part.is_contiguous() for part in found[:4])


def tower_traces():
    """A small image tower, one of whose layers brings prompts of its own, and a small text tower; their prompts."""
    torch.manual_seed(0)
    clip = model.CLIP(24, 32, 2, 64, 16, 6, 100, 64, 1, 2).requires_grad_(False)
    prompts = [torch.randn(1, 64), torch.randn(1, 64)]
    yield ImageTrace(clip.visual.tower(torch.randn(1, 3, 32, 32), 1, 2), prompts), prompts
    context = torch.tensor([[-1, 0, -1, -1, -1, -1]] * 3)
    yield TextTrace(clip, PackedPrompts.from_tokens(TOKENS, context), prompts[0], prompts[1:]), prompts


@torch.no_grad()
def tower_results():
    """Features, pull, push and second."""
    results = []
    for trace, prompts in tower_traces():
        pulled, kept = trace.pull(torch.randn(2, *trace.output.shape))
        pushed, kept_too = trace.push(*(torch.randn(2, *prompt.shape) for prompt in prompts))
        second = trace.second(torch.randn(trace.output.shape), kept, kept_too)
        results += [trace.output, *pulled, pushed, *second]
    return results


def learned_text_tower():
    """Gradients by autograd of a tower that learns its weights too."""
    torch.manual_seed(0)
    clip = model.CLIP(24, 32, 2, 64, 16, 6, 100, 64, 1, 2)
    features = clip.encode_text(TOKENS)
    return torch.autograd.grad(features.square().sum(), list(clip.transformer.parameters()))


def check_learned_tower():
    """Autograd does not see the kernels: they are left out."""
    derivatives.kernels = None
    expected = learned_text_tower()
    derivatives.kernels = fused
    assert all(map(torch.equal, learned_text_tower(), expected))


def check_towers():
    derivatives.kernels = None
    expected = tower_results()
    choose_kernels("on", torch.device("cpu"))
    assert derivatives.kernels is fused
    close(tower_results(), expected, torch.float32)


def value_forms(x, weight):
    """Of a frozen model without derivatives."""
    layer = model.LayerNorm(len(weight)).to(weight.dtype).requires_grad_(False)
    layer.weight.copy_(weight)
    return [layer(x), layer(x[:, 0]), model.QuickGELU()(x), model.QuickGELU()(x[..., ::2])]


def check_values():
    """In float32 without a graph, and wherever kernels cannot run: under autograd and `torch.func`, in an export."""
    for dtype in ROUNDING:
        with torch.no_grad():
            compare(value_forms, dtype, (torch.randn(2, 3, 5), torch.randn(5)), wide=(1,))
    gelu, x = model.QuickGELU(), torch.randn(2, 3)
    expected = x * torch.sigmoid(1.702 * x)
    derivatives.kernels = fused
    learned = x.clone().requires_grad_()
    assert torch.autograd.grad(gelu(learned).sum(), learned)[0].abs().min() > 0
    with torch.no_grad():
        found = [torch.func.vmap(gelu)(x), torch.export.export(gelu, (x,)).module()(x)]
        torch.testing.assert_close(found, [expected, expected])
        torch.testing.assert_close(gelu(x.double()), expected.double())


if __name__ == "__main__":
    derivatives.kernels_run_on = "cpu"
    check_forms()
    check_values()
    check_layouts()
    check_learned_tower()
    check_towers()
    print("all equal")
