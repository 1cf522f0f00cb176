"""How many operations a training step dispatches: its cost wherever launching work takes longer than doing it.

Counted on a CLIP of 12 + 12 layers of width 64, a batch of four with four classes, float32 on the CPU. Views are left
out. The bounds are a little above what was counted; whoever raises one should know why.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tools import bench
from tools.benchmark import parse_args

BOUNDS = {"ProMetaR": 6_750, "IVLP": 950, "MaPLe": 1_000, "CoOp": 700, "VPT": 450, "CoCoOp": 720}
BOUNDS |= {"KgCoOp": 710, "ProGrad": 890, "PromptSRC": 1_150, "TCP": 720, "MultiModalAdapter": 1_050, "CoPrompt": 1_220}
BOUNDS |= {"LinearProbe": 195, "CLIPLoRA": 1_400}
VIEWS = {
    *("view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze", "squeeze", "detach", "alias"),
    *("split", "split_with_sizes", "unbind", "as_strided", "lift_fresh", "_unsafe_view", "_reshape_alias"),
}
KERNEL_BOUNDS = {"ProMetaR": 4_150, "IVLP": 800, "MaPLe": 850, "CoOp": 600}
NO_KERNEL = {
    *("empty", "empty_like", "empty_strided", "new_empty", "_efficientzerotensor", "squeeze_"),
    *("_record_function_enter_new", "_record_function_exit", "_local_scalar_dense", "promote_types"),
}
"""Memory, marks for the profiler, and numbers that are read from the device."""
SIZES = dict(
    embed_dim=64,
    image_resolution=64,
    vision_layers=12,
    vision_width=64,
    vision_patch_size=16,
    context_length=77,
    vocab_size=49408,
    transformer_width=64,
    transformer_heads=1,
    transformer_layers=12,
)

TWO_HEADS = dict(vision_width=128, transformer_width=128, transformer_heads=2)
"""Rows of a single head need no copy where others do."""


class Count(TorchDispatchMode):
    """Number of operations that PyTorch dispatches, less those `not_counted`."""

    def __init__(self, not_counted: set[str]) -> None:
        super().__init__()
        self.not_counted, self.total = not_counted, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.total += function.overloadpacket.__name__ not in self.not_counted
        return function(*args, **(kwargs or {}))


@pytest.fixture
def warm_bench(tmp_path, monkeypatch):
    """A trainer of some number of classes whose optimisers have their state, called by its name."""
    monkeypatch.setitem(bench.BACKBONES, "deep", SIZES)

    def make(trainer, classes, *options):
        arguments = ["--trainer", trainer, "--backbone", "deep", "--device", "cpu", *options]
        arguments += ["TRAINER.CPU_REPLAY", "off"]
        arguments += [] if trainer != "ProMetaR" else ["TRAINER.PROMETAR.MONITOR", "False"]
        one = bench.Bench(parse_args(arguments), classes, str(tmp_path))
        for _ in range(2):
            torch.manual_seed(0)
            one.step()
        return one

    return make


def operations(one, not_counted=VIEWS):
    with Count(not_counted) as count:
        torch.manual_seed(0)
        one.step()
    return count.total


@pytest.mark.parametrize("trainer", BOUNDS)
def test_operations_of_a_step(trainer, warm_bench):
    """Below the bound, and the same for 5 and for 23 classes, whose names differ in length."""
    counts = [operations(warm_bench(trainer, classes)) for classes in (5, 23)]
    assert 100 < counts[0] <= BOUNDS[trainer]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("trainer", KERNEL_BOUNDS)
def test_kernels_of_a_step_in_half_precision(trainer, warm_bench, monkeypatch):
    """What a GPU would launch, one kernel for each operation that works on memory; nothing depends on the classes."""
    pytest.importorskip("triton")
    from kernel_launches import recorded_launches

    monkeypatch.setitem(bench.BACKBONES, "deep", SIZES | TWO_HEADS)
    counts, variants = [], []
    for classes in (5, 23):
        one = warm_bench(trainer, classes, "--prec", "bf16")
        one.trainer._stop_for_anomaly = lambda *_: None  # recorded kernels compute nothing
        with recorded_launches() as launches:
            counts.append(operations(one, VIEWS | NO_KERNEL) + len(launches))
        variants.append({launch.variant for launch in launches})
    assert len(launches) > 100
    assert 100 < counts[0] <= KERNEL_BOUNDS[trainer]
    assert counts[0] == counts[1]
    assert variants[0] == variants[1]
