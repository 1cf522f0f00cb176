"""`TRAINER.TEXT_CHUNK`: the text tower chunk by chunk, recomputed at every order of differentiation."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import NODES, STRONG_META_STEP, learned

from clip.recompute import recomputed
from tools.benchmark import Bench, parse_args


def test_recomputed_derivatives_equal_the_direct_ones_and_keep_only_the_inputs():
    weight = torch.randn(5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def function(x, y):
        hidden = torch.tanh(x @ weight) * y
        return hidden.square().sum(dim=-1), (hidden @ weight).exp()

    results = []
    for apply in (function, lambda *inputs: recomputed(function, *inputs)):
        generator = torch.Generator().manual_seed(2)
        x, y = (0.3 * torch.randn(3, 5, dtype=torch.float64, generator=generator) for _ in range(2))
        leaves = [x.requires_grad_(), y.requires_grad_()]
        loss = sum(output.sin().sum() for output in apply(*leaves))
        first = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.pow(3).sum() for g in first), leaves)
        results.append([loss, *first, *second])
    for direct, ours in zip(*results, strict=True):
        torch.testing.assert_close(ours, direct, rtol=1e-12, atol=1e-12)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor.shape), lambda tensor: tensor):
        recomputed(function, *leaves)
    assert saved == [x.shape, y.shape]


@pytest.mark.parametrize("trainer", NODES)
def test_a_step_in_chunks_equals_a_whole_one(trainer, tmp_path):
    """Seven classes in chunks of three; the learned tensors after a step agree to rounding."""
    after = []
    for chunk in (0, 3):
        arguments = ["--trainer", trainer, "--backbone", "tiny", "--device", "cpu", "TRAINER.TEXT_CHUNK", str(chunk)]
        arguments += [*STRONG_META_STEP, "TRAINER.CLIPLORA.DROPOUT", "0.0"]  # chunks have rows of their own to drop
        bench = Bench(parse_args(arguments), classes=7, folder=str(tmp_path))
        bench.reset()
        bench.step()
        after.append(learned(bench.trainer))
        for _, start in bench.initial:
            assert all((after[-1][name] != value).any() for name, value in start.items())
    start = {name: value for _, state in bench.initial for name, value in state.items()}
    for name, whole in after[0].items():
        update = (whole - start[name]).abs().max().item()
        torch.testing.assert_close(after[1][name], whole, rtol=2**-22, atol=1e-4 * update)
