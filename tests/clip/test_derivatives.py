"""The closed forms of `clip.derivatives` and `clip.towers` in float64.

Expected values: finite differences (`gradcheck`, `gradgradcheck`), and autograd through the same formula in plain
PyTorch.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.func import vjp

from clip import model
from clip.derivatives import AttentionTrace, GELUForm, Norm, QuickGELUForm
from clip.model import QuickGELU, VisionTransformer
from clip.packed_text import PackedPrompts, TextTrace, text_tower
from clip.towers import ImageTrace, RecomputedTrace, Tower, features

EXACT = dict(rtol=1e-10, atol=1e-12)


@pytest.fixture
def draw():
    """Random float64 tensors of a shape, the same in every run."""
    generator = torch.Generator().manual_seed(5)
    return lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)


def by_autograd(function, inputs, cotangents, tangents, last):
    """pull, push and second of `function`(*inputs) -> tensor, K cotangents and tangents, by double backward."""
    inputs = [x.clone().requires_grad_() for x in inputs]
    cotangents = cotangents.clone().requires_grad_()
    output = function(*inputs)
    pulled = [grad(output, inputs, cotangent, create_graph=True) for cotangent in cotangents]
    along = [
        sum((x * tangent[k]).sum() for x, tangent in zip(pulled[k], tangents, strict=True))
        for k in range(len(cotangents))
    ]
    pushed = grad(sum(along), cotangents, retain_graph=True)[0]
    second = grad(sum(along) + (output * last).sum(), inputs)
    return [torch.stack(parts) for parts in zip(*pulled, strict=True)], pushed, list(second)


def check_trace(trace, function, inputs, draw, count):
    """A trace against autograd, at `count` cotangents and tangents at once."""
    cotangents, last = draw(count, *trace.output.shape), draw(*trace.output.shape)
    tangents = [draw(count, *x.shape) for x in inputs]
    expected = by_autograd(function, inputs, cotangents, tangents, last)
    pulled, kept = trace.pull(cotangents)
    pushed, kept_too = trace.push(*tangents)
    torch.testing.assert_close(trace.output, function(*inputs), **EXACT)
    torch.testing.assert_close(pulled, expected[0], **EXACT)
    torch.testing.assert_close(pushed, expected[1], **EXACT)
    torch.testing.assert_close(trace.second(last, kept, kept_too), expected[2], **EXACT)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_layer_norm(draw, count):
    layer = model.LayerNorm(6).double().requires_grad_(False)
    layer.weight.copy_(draw(6))
    layer.bias.copy_(draw(6))
    x, added = draw(2, 3, 6), draw(2, 3, 6)
    dy, tangent, last = draw(count, 2, 3, 6), draw(count, 2, 3, 6), draw(2, 3, 6)
    (pulled,), pushed, (second,) = by_autograd(layer, [x + added], dy, [tangent], last)
    y, norm = Norm.forward(x, layer, x.dtype, added)
    (dx, same), (along, t, y_tangent) = norm.pull(dy), norm.push(tangent - 1, x.dtype, torch.ones_like(tangent))
    torch.testing.assert_close([norm.x, y, dx, y_tangent], [x + added, layer(x + added), pulled, pushed], **EXACT)
    torch.testing.assert_close([same, along], [dx, tangent], **EXACT)
    torch.testing.assert_close(norm.second(last, dy, dx, tangent, t), second, **EXACT)


@pytest.mark.parametrize("start,kept,reached", [(0, 3, 3), (0, 2, 2), (1, 4, 3), (2, 4, 2), (2, 2, 0)])
def test_layer_norm_with_a_residual(draw, start, kept, reached):
    """Of three rows, the first `reached` get the residual rows from `start` on."""
    x, dy, tangent, last = draw(2, 3, 6), draw(2, 2, 3, 6), draw(2, 2, 3, 6), draw(2, 3, 6)
    _, norm = Norm.forward(x, model.LayerNorm(6).double(), x.dtype)
    residual = draw(2, 2, kept, 6)
    (dx, total), (_, t, _) = norm.pull(dy, residual, start), norm.push(tangent, x.dtype)
    torch.testing.assert_close(dx, norm.pull(dy)[0], **EXACT)
    expected = dx.clone()
    expected[:, :, :reached] += residual[:, :, start : start + reached]
    torch.testing.assert_close(total, expected, **EXACT)
    expected = norm.second(last, dy, dx, tangent, t)
    found = norm.second(last, dy, dx, tangent, t, residual[0], start)
    expected[:, :reached] += residual[0, :, start : start + reached]
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("form,module", [(QuickGELUForm(), QuickGELU()), (GELUForm(), nn.GELU())])
def test_activations(draw, form, module):
    x, upstream = 3 * draw(40), draw(2, 40)
    x.requires_grad_()
    y = module(x)
    (slope,) = grad(y.sum(), x, create_graph=True)
    (curvature,) = grad(slope.sum(), x)
    z = (form.scale * x).detach()
    torch.testing.assert_close(form.value(z) / form.scale, y.detach(), **EXACT)
    weight, bias, rows = draw(40, 7), draw(40), draw(2, 3, 7)
    z_linear, value = form.of_linear(rows, (weight, bias))
    torch.testing.assert_close(z_linear, form.scale * F.linear(rows, weight, bias), **EXACT)
    torch.testing.assert_close(value / form.scale, module(F.linear(rows, weight, bias)), **EXACT)
    torch.testing.assert_close(form.times_slope(upstream, z), upstream * slope.detach(), **EXACT)
    torch.testing.assert_close(form.times_curvature(upstream[0], z), upstream[0] * curvature, **EXACT)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_attention(draw, count, masked):
    q, k, v = draw(4, 3, 5), draw(4, 6, 5), draw(4, 6, 5)
    mask = torch.zeros(4, 3, 6, dtype=torch.float64).masked_fill_(draw(4, 3, 6) > 0.8, float("-inf"))
    mask[..., 0] = 0
    mask = mask if masked else None

    def function(q, k, v):
        scores = q @ k.mT / 5**0.5
        return (scores if mask is None else scores + mask).softmax(dim=-1) @ v

    cotangents, last = draw(count, 4, 3, 5), draw(4, 3, 5)
    tangents = [draw(count, *x.shape) for x in (q, k, v)]
    pulled, pushed, second = by_autograd(function, [q, k, v], cotangents, tangents, last)
    o, attention = AttentionTrace.forward(q, k, v, mask, q[:1, :1, :1])
    (dq, dk, dv), kept = attention.pull(cotangents.permute(1, 2, 0, 3).contiguous())
    q_tangent, k_tangent, v_tangent = tangents
    tangents = q_tangent.permute(1, 2, 0, 3), k_tangent.permute(1, 0, 2, 3), v_tangent.permute(1, 2, 0, 3)
    o_tangent, kept_too = attention.push(*(x.contiguous() for x in tangents))
    ours = [dq.permute(2, 0, 1, 3), dk.permute(1, 0, 2, 3), dv.permute(2, 0, 1, 3)]
    torch.testing.assert_close(o, function(q, k, v), **EXACT)
    torch.testing.assert_close(ours, pulled, **EXACT)
    torch.testing.assert_close(o_tangent.permute(2, 0, 1, 3), pushed, **EXACT)
    dq, dk, dv = attention.second(last[:, :, None], kept, kept_too)
    torch.testing.assert_close([dq[:, :, 0], dk[:, 0], dv[:, :, 0]], second, **EXACT)


def image_tower(draw, activation):
    tower = VisionTransformer(32, 16, 128, 3, 2, 24, activation).double().requires_grad_(False)
    for parameter in tower.parameters():
        parameter += 0.1 * draw(*parameter.shape)
    return tower


@pytest.mark.parametrize("activation", [QuickGELU, nn.GELU])
@pytest.mark.parametrize("depth,count", [(1, 2), (2, 1), (2, 2), (3, 3)])
def test_image_tower(draw, activation, depth, count, monkeypatch):
    """All depths: prompts of the first layer, of some and of all layers."""
    visual, images = image_tower(draw, activation), draw(2, 3, 32, 32)
    prompts = [draw(2, 128) for _ in range(depth)]
    trace = ImageTrace(visual.tower(images, 2, depth), prompts)
    monkeypatch.setattr(model, "only_prompts_move", lambda *_: False)  # the function by plain autograd
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        check_trace(trace, lambda *prompts: visual(images, prompts), prompts, draw, count)


TOKENS = torch.tensor(
    [[298, 1, 1, 7, 299, 0, 0, 0], [298, 1, 1, 8, 9, 10, 299, 0], [298, 1, 1, 9, 7, 299, 0, 0]]
)  # START = 298, END = 299
LEARNED = {
    "shared": [[-1, 0, 1, -1, -1, -1, -1, -1]] * 3,
    "shared, in the names too": [[-1, 0, 1, 2, -1, -1, -1, -1]] + [[-1, 0, 1, -1, 2, -1, -1, -1]] * 2,
}


@pytest.mark.parametrize("learned", LEARNED.values(), ids=LEARNED.keys())
@pytest.mark.parametrize("depth,count", [(1, 2), (2, 2), (3, 1)])
def test_text_tower(draw, random_clip, learned, depth, count):
    packed = PackedPrompts.from_tokens(TOKENS, torch.tensor(learned))
    rows = 1 + max(max(row) for row in learned)
    prompts = [draw(rows, 128), *(draw(2, 128) for _ in range(depth - 1))]

    def function(context, *deep):
        start, tower = text_tower(random_clip, packed, *packed.embed(random_clip, context), deep)
        return tower.output(start, *deep)[0]  # differentiated by autograd

    check_trace(TextTrace(random_clip, packed, prompts[0], prompts[1:]), function, prompts, draw, count)


def test_a_recomputed_trace_is_the_same(draw, random_clip):
    context, deep = draw(2, 128), [draw(2, 128)]

    def chunk(rows):
        packed = PackedPrompts.from_tokens(TOKENS[rows], torch.tensor(LEARNED["shared"])[rows])
        return TextTrace(random_clip, packed, context, deep)

    whole, parts = chunk(slice(None)), RecomputedTrace([lambda: chunk(slice(0, 2)), lambda: chunk(slice(2, 3))])
    cotangents, tangents, last = draw(2, 3, 24), [draw(2, 2, 128), draw(2, 2, 128)], draw(3, 24)
    results = []
    for trace in (whole, parts):
        pulled, kept = trace.pull(cotangents)
        pushed, kept_too = trace.push(*tangents)
        results.append([trace.output, *pulled, pushed, *trace.second(last, kept, kept_too)])
    torch.testing.assert_close(*results, **EXACT)


@pytest.mark.parametrize("activation", [QuickGELU, nn.GELU])
def test_features_for_autograd(draw, activation):
    """First and second derivatives by finite differences, and under `torch.func`."""
    visual, images = image_tower(draw, activation), draw(1, 3, 32, 32)
    tower: Tower = visual.tower(images, 1, 2)
    prompts = [draw(1, 1, 128).requires_grad_(), draw(1, 128).requires_grad_()]

    def function(*prompts):
        return features(tower, *prompts)[0, 0, :3]  # three outputs are enough, and fast

    assert gradcheck(function, prompts, fast_mode=True)
    assert gradgradcheck(function, prompts, fast_mode=True)

    def first(*prompts):
        return vjp(function, *prompts)[1](torch.ones(3, dtype=torch.float64))

    direct = grad(function(*prompts).sum(), prompts, create_graph=True)
    torch.testing.assert_close(first(*prompts), direct, **EXACT)
    tangents = [draw(1, 1, 128), draw(1, 128)]
    second = vjp(first, *prompts)[1](tuple(tangents))
    expected = grad(sum((d * t).sum() for d, t in zip(direct, tangents, strict=True)), prompts)
    torch.testing.assert_close(second, expected, **EXACT)


def test_a_third_derivative_is_refused(draw):
    visual = image_tower(draw, QuickGELU)
    prompt = draw(1, 128).requires_grad_()
    (first,) = grad(visual(draw(1, 3, 32, 32), [prompt]).sum(), prompt, create_graph=True)
    (second,) = grad(first.square().sum(), prompt, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        second.sum().backward()


def test_towers_that_learn_themselves_are_left_to_autograd(draw):
    """Gradients of weights and of images: what the closed forms do not have."""
    visual = image_tower(draw, QuickGELU)
    prompt, images = draw(1, 128).requires_grad_(), draw(1, 3, 32, 32)
    (expected,) = grad(visual(images, [prompt]).sum(), prompt)
    weight = visual.transformer.resblocks[1].mlp.c_fc.weight.requires_grad_()
    on_prompt, on_weight = grad(visual(images, [prompt]).sum(), [prompt, weight])
    torch.testing.assert_close(on_prompt, expected, **EXACT)
    assert on_weight.abs().max() > 0
    weight.requires_grad_(False)
    images.requires_grad_()
    assert grad(visual(images, [prompt]).sum(), images)[0].abs().max() > 0
    assert F.mse_loss(expected, on_prompt) < 1e-20
