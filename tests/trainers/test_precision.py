"""PREC: fp32, fp16, bf16 and amp run everywhere, and learned tensors stay float32.

Expected values: the float32 run. Half precision here is bfloat16 (8 significant bits): losses within 3 %.
"""

from __future__ import annotations

import pytest
import torch
from golden_data import images
from golden_replay import evaluate
from tiny_runs import NODES, STRONG_META_STEP, build_trainer, learned, set_position

from trainers.precision import Precision

QUIET_START = 4
"""Seed of a start whose meta step does not amplify rounding: with this LR_RATIO, others move logits by 3 to 60 %."""


def run(trainer):
    """Two steps; the losses and the held-out logits."""
    losses = []
    for k in (0, 1):
        set_position(trainer, k)
        torch.manual_seed(k)
        batch = {"img": images()["train_images"][k], "label": images()["train_labels"][k]}
        losses.append({name: value for name, value in trainer.forward_backward(batch).items() if "loss" in name})
    return losses, evaluate(trainer, images()["heldout_images"])


@pytest.fixture
def runs(tiny_cfg, capsys):
    """Runs a trainer at a PREC from a fixed start; gives losses, logits, the trainer and what it printed."""

    def start(name, precision):
        options = {"PREC": precision} | ({"LR_RATIO": 1.0} if name == "ProMetaR" else {})
        torch.manual_seed(QUIET_START)
        trainer = build_trainer(tiny_cfg(name, options))
        return *run(trainer), trainer, capsys.readouterr().out

    return start


@pytest.mark.parametrize("precision", ["bf16", "amp"])
@pytest.mark.parametrize("name", NODES)
def test_half_precision_is_near_float32(runs, name, precision):
    full_losses, full_logits, full, _ = runs(name, "fp32")
    losses, logits, trainer, _ = runs(name, precision)
    for ours, expected in zip(losses, full_losses, strict=True):
        assert ours == pytest.approx(expected, rel=0.03, abs=0.02)
    assert (logits - full_logits).abs().max() < 0.1 * full_logits.abs().max()
    assert any((logits - full_logits).flatten().abs() > 1e-6)  # it was another precision indeed
    assert all(tensor.dtype == torch.float32 for tensor in learned(trainer).values())
    expected_dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    assert trainer.prompts.clip.dtype == expected_dtype
    for state in trainer.optim.state.values():
        assert all(value.dtype == torch.float32 for value in state.values() if torch.is_tensor(value))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp16", "bf16", "amp"])
@pytest.mark.parametrize("name", NODES)
def test_half_precision_on_a_gpu_is_near_float32(tiny_trainer, name, precision):
    results = []
    for choice in ("fp32", precision):
        options = {"PREC": choice, "USE_CUDA": True} | ({"LR_RATIO": 1.0} if name == "ProMetaR" else {})
        results.append(run(tiny_trainer(name, options)))
    (full_losses, full_logits), (losses, logits) = results
    for ours, expected in zip(losses, full_losses, strict=True):
        assert ours == pytest.approx(expected, rel=0.03, abs=0.02)
    assert (logits - full_logits).abs().max() < 0.1 * full_logits.abs().max()


def test_the_factor_against_underflow_changes_nothing_in_float32(tiny_trainer, monkeypatch):
    """256 is a power of two: the meta step's gradients are the same to the last bits."""
    after = []
    for scale in (1.0, 256.0):
        monkeypatch.setattr(Precision, "second_order_scale", scale)
        trainer = tiny_trainer("ProMetaR", STRONG_META_STEP)
        start = learned(trainer)
        run(trainer)
        after.append(learned(trainer))
    for name, value in after[0].items():
        update = (value - start[name]).abs().max().item()
        assert update > 0
        torch.testing.assert_close(after[1][name], value, rtol=2**-22, atol=1e-5 * update)


@pytest.mark.parametrize("name", NODES)
def test_fp16_on_a_cpu_is_fp32_and_says_so(runs, name):
    full_losses, full_logits, _, log = runs(name, "fp32")
    assert "using fp32" not in log
    losses, logits, _, log = runs(name, "fp16")
    assert log.count("PREC fp16 is not available on a CPU: using fp32") == 1
    assert losses == full_losses and torch.equal(logits, full_logits)
