"""Replays on a CPU: the same bits as the recorded functions, from fewer calls and little memory.

Expected values: the functions themselves. Steps of whole trainers are compared in `test_captured.py`.
"""

from __future__ import annotations

import random
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from trainers.core import replay
from trainers.core.captured import CapturedFunctions
from trainers.core.obstacles import NotCapturableError, NotWorthwhileError
from trainers.core.replay import ALIGNMENT, CpuRecorder, Gaps, direct, lay_out
from trainers.core.tape import Tape

aten = torch.ops.aten


def same_bits(one, other):
    return one.dtype == other.dtype and one.shape == other.shape and replay._same_bits(one, other)


def replayed(function, *arguments, recorder=None):
    """Results of a recording of `function` at the first arguments, replayed at the others."""
    first, *others = arguments
    buffers = [tensor.clone() for tensor in first]
    capture = (recorder or CpuRecorder()).capture(lambda: function(*buffers))
    results = [clones(capture.outputs)]
    for other in others:
        for buffer, tensor in zip(buffers, other, strict=True):
            buffer.copy_(tensor)
        capture.replay()
        results.append(clones(capture.outputs))
    return results


def clones(results):
    return [result.clone() for result in results]


def changed_in_place(x, w):
    y = x @ w
    y += 1
    y[:, 1:3].mul_(y[:, :2])
    y.unsqueeze(0).squeeze_(0).t()[0].fill_(5)
    torch._foreach_add_([y, y[0]], 2.0)
    return y, y.t(), y[1], y.flatten()[3:]


def expanded_and_given(x, w):
    return x, x.t(), w.sum(dim=0).expand(3, -1), x.new_zeros(0, 4), x[:, :0] @ w[:0]


def put_together(x, w):
    same = [x * 2 + 1 for _ in range(2)]
    stacked = torch.stack([x @ w, x @ w.t(), *same])
    pieces = torch.cat([stacked[0][None] + 1, stacked[1:2] - 1], dim=1)
    changed = torch.cat([w + 1, w + 2])
    changed[0] += 1
    padded = F.pad(stacked, (1, 0, 0, 2), value=3.0)
    return stacked, stacked.sum(dim=0), pieces, torch.cat([w + 1, changed]), padded, F.pad(padded, (-1, 2))


def normed(x, w):
    y = F.layer_norm(x, [x.shape[1]], w[0])
    scores = torch.softmax(y @ y.t(), dim=-1)
    values, indices = scores.topk(2)
    return y, scores, values, indices, F.pad(scores, (0, 2)), torch.stack([y, y]).mean(dim=0), scores.sum()


def of_lower_precision(x, w):
    with torch.autocast("cpu", torch.bfloat16):
        y = F.linear(x, w.t())
    return y, y.float().half(), y.to(torch.float64), F.silu(y), torch.full_like(y, 3), torch.arange(5) * y.argmax()


def differentiated(x, w):
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(F.gelu(x @ w), torch.arange(len(x)) * 0), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.norm(), x)
    _, pullback = torch.func.vjp(torch.func.grad(lambda x: torch.tanh(x @ w).norm()), x.detach())
    return gradient.detach(), second, *pullback(second)


def attended(x, w):
    q = (x @ w)[None, None]
    return F.scaled_dot_product_attention(q, q, q, is_causal=True), F.conv2d(q, q[:, :, :2, :2])


def with_not_a_number(x, w):
    return (x - 10).log(), torch.where(x > 0, x, float("nan"))


FUNCTIONS = [
    changed_in_place,
    expanded_and_given,
    put_together,
    normed,
    of_lower_precision,
    differentiated,
    attended,
    with_not_a_number,
]


def arguments(seed, rows=4):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, 4, generator=generator), torch.randn(4, 4, generator=generator)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_replay_gives_the_same_bits(function):
    given = [arguments(seed) for seed in range(3)]
    expected = [clones(function(*each)) for each in given]
    assert not all(map(same_bits, expected[0], expected[1]))
    for results, own in zip(replayed(function, *given), expected, strict=True):
        assert all(map(same_bits, results, own))


def test_a_replay_under_another_mode_gives_the_same_bits():
    first, second = arguments(0), arguments(1)
    buffers = clones(first)
    capture = CpuRecorder().capture(lambda: normed(*buffers))
    for buffer, tensor in zip(buffers, second, strict=True):
        buffer.copy_(tensor)
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        capture.replay()
    assert all(map(same_bits, capture.outputs, normed(*second)))


def test_recordings_share_their_memory():
    """A larger one comes later; the smaller one stays good."""
    recorder, small, large = CpuRecorder(), clones(arguments(0)), clones(arguments(0, rows=300))
    first = recorder.capture(lambda: normed(*small))
    size = recorder._memory.nbytes()
    second = recorder.capture(lambda: normed(*large))
    assert recorder._memory.nbytes() > 10 * size
    for capture, each in ((first, small), (second, large), (first, small)):
        capture.replay()
        assert all(map(same_bits, capture.outputs, normed(*each)))


def test_memory_is_used_again():
    def long(x):
        for _ in range(100):
            x = x + 1
        return (x,)

    recorder = CpuRecorder()
    replayed(long, (torch.ones(100, 100),), recorder=recorder)
    assert 2 * 40_000 <= recorder._memory.nbytes() < 3 * 41_000


class Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.names.append(operation.name())
        return operation(*args, **(kwargs or {}))


def test_only_what_the_results_depend_on_is_called():
    def wasteful(x):
        (x @ x).sum()
        unused = torch.zeros(3, device="meta") + 1
        del unused
        return (x.t().unsqueeze(0) + 1).squeeze(0)[1:].neg()

    x = torch.ones(4, 4)
    capture = CpuRecorder().capture(lambda: wasteful(x))
    with Calls() as calls:
        capture.replay()
    assert calls.names == ["aten::add.out", "aten::neg.out"]


def test_the_same_is_computed_once_and_put_together_where_it_is_computed():
    """16 floats are 64 bytes: pieces of that length may lie one behind the other."""
    x = torch.arange(16.0)

    def function():
        return torch.stack([x + 1, x * 2, (x + 1).neg()])

    capture = CpuRecorder().capture(function)
    with Calls() as calls:
        capture.replay()
    assert calls.names == ["aten::add.out", "aten::mul.out", "aten::neg.out"]
    assert same_bits(capture.outputs, function())


def test_a_tape_holds_no_tensor_that_was_made():
    x = torch.ones(1000)
    with Tape() as tape:
        y = (x + 1) * 2
    assert [tuple(given.shape) for given in tape.given.values()] == [(1000,)]
    assert torch._C._storage_Use_Count(y.untyped_storage()._cdata) == 2  # y, and the question


# --- what is refused -------------------------------------------------------------------------------------------------


def changes_its_argument(x: Tensor) -> Tensor:
    return x.add_(1) * 2


def reads_what_no_operation_made(x: Tensor) -> Tensor:
    return x + torch.from_dlpack(x.numpy().copy())


def uses_another_device(x: Tensor) -> Tensor:
    return torch.zeros(2, device="meta") + 1


def takes_other_memory(x: Tensor) -> Tensor:
    return (x + 1).set_((x * 2).untyped_storage())


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (changes_its_argument, "changes a tensor that was made elsewhere"),
        (reads_what_no_operation_made, "uses a tensor of size [2] that no operation made"),
        (uses_another_device, "uses a tensor on meta"),
        (takes_other_memory, "gives a tensor another memory"),
    ],
)
def test_what_cannot_be_replayed_is_refused(function, reason):
    x = torch.ones(2)
    with pytest.raises(NotCapturableError) as refused:
        CpuRecorder().capture(lambda: function(x))
    assert reason in str(refused.value)


def test_a_recording_with_other_bits_is_refused(monkeypatch):
    x = torch.ones(2)
    monkeypatch.setattr(replay, "steps_of", lambda operation, tensors: [])
    with pytest.raises(NotCapturableError, match="gives other bits"):
        CpuRecorder().capture(lambda: x * 3)


def test_a_function_of_large_tensors_runs_eagerly_without_a_word(capsys):
    functions, x = CapturedFunctions(CpuRecorder(most_bytes=1000)), torch.ones(2000)
    for _ in range(4):
        assert torch.equal(functions(torch.exp, (), x), torch.exp(x))
    assert functions.graphs == 0 and capsys.readouterr().out == ""
    assert list(functions.refused) == ["exp"]
    for most, is_refused in ((8000, False), (7999, True)):  # x.exp() alone is made
        with pytest.raises(NotWorthwhileError, match="makes large tensors") if is_refused else nullcontext():
            CpuRecorder(most).capture(lambda: torch.exp(x).view(2, -1))


def test_the_second_call_of_a_shape_is_recorded():
    calls = []

    def function(x):
        calls.append(len(x))
        return x * 2

    functions = CapturedFunctions(CpuRecorder())
    for length in (1, 2, 1, 2, 1, 2, 3):
        assert torch.equal(functions(function, (), torch.ones(length)), torch.full([length], 2.0))
    assert calls == [1, 2, 1, 2, 3] and functions.graphs == 2


def test_a_dispatch_mode_sees_the_function_s_own_operations():
    functions, x = CapturedFunctions(CpuRecorder()), torch.ones(2)
    for _ in range(3):
        functions(torch.exp, (), x)
    assert functions.graphs == 1
    with Calls() as calls:
        functions(torch.exp, (), x)
    assert calls.names == ["aten::exp", "aten::detach"]


# --- memory and calls ------------------------------------------------------------------------------------------------


def test_storages_that_are_needed_at_the_same_time_do_not_overlap():
    draw = random.Random(0)
    lifetimes, sizes = {}, []
    for storage in range(400):
        first = draw.randrange(200)
        lifetimes[storage] = first, min(199, first + draw.randrange(20))
        sizes.append(draw.choice([0, 1, 64, 100, 5000, 70_000]))
    places, end = lay_out(lifetimes, sizes, without={7})
    assert set(places) == set(lifetimes) - {7}
    for one, start in places.items():
        assert start % ALIGNMENT == 0 and start + sizes[one] <= end
        for other in range(one):
            is_apart = lifetimes[one][1] < lifetimes[other][0] or lifetimes[other][1] < lifetimes[one][0]
            if other in places and not is_apart:
                assert start + max(1, sizes[one]) <= places[other] or places[other] + max(1, sizes[other]) <= start
    most = max(sum(sizes[s] for s, (first, last) in lifetimes.items() if first <= i <= last) for i in range(200))
    assert most <= end < 1.3 * most


def test_gaps_that_touch_become_one():
    gaps = Gaps()
    for start in (0, 128, 64):
        gaps.give(start, 64)
    assert gaps.take(256) is None and gaps.take_end(192, 256) == (0, 256)
    assert gaps.take(64) is None and gaps.take_end(256, 64) == (256, 320)


def test_calls_go_to_pytorch_s_own_functions_where_they_dispatch_the_same():
    x, y = torch.ones(2, 2), torch.ones(2, 2)
    assert direct(aten.add.out, (x, x), {"out": y}, [torch], "add") is torch.add
    assert direct(aten.add_.Tensor, (x, x), {}, [Tensor, torch]) is Tensor.add_
    assert torch.equal(x, y)  # nothing was carried out
    assert direct(aten.silu_backward.grad_input, (x, x), {"grad_input": y}, [torch]) is aten.silu_backward.grad_input
    assert direct(aten.hypot.out, (x, x), {"out": y}, [torch], "add") is aten.hypot.out
