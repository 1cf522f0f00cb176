"""The recorded FLOPs of a step: counted again from the shapes of its products; the run stays as it was."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny_runs import learned
from torch.utils._python_dispatch import TorchDispatchMode

from runner.step_cost import flops_of_step

PRODUCTS = {"mm": 1, "addmm": 2, "bmm": 1, "baddbmm": 2, "baddbmm_": 2, "addmm_": 2}
"""Products of matrices, by which argument is the second factor."""


class Products(TorchDispatchMode):
    """Twice the multiplications of all products of matrices and convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if name in PRODUCTS:
            self.flops += 2 * result.numel() * args[PRODUCTS[name]].shape[-2]
        elif name == "convolution":  # of the patches
            self.flops += 2 * result.numel() * math.prod(args[1].shape[1:])
        else:
            assert name not in {"convolution_backward", "_scaled_dot_product_flash_attention"}, name
        return result


@pytest.mark.parametrize("name", ["CoOp", "MaPLe", "MultiModalAdapter", "ProMetaR", "CLIPLoRA"])
def test_flops_of_a_step(tiny_trainer, name):
    trainer = tiny_trainer(name, ["TRAINER.CPU_REPLAY", "off"])
    trainer.num_batches, trainer.epoch, trainer.max_epoch = 10, 0, 2
    batch = next(iter(trainer.train_loader_x))
    trainer.last_batch, before = (batch,), learned(trainer)
    torch.manual_seed(0)
    counted = flops_of_step(trainer)
    after = learned(trainer)
    assert all(torch.equal(after[each], before[each]) for each in before)
    trainer.set_model_mode("train")
    torch.manual_seed(0)
    with Products() as products:
        trainer.forward_backward(batch)
    assert counted == products.flops > 10**6


def test_a_step_that_is_not_finite_leaves_no_file(tiny_trainer, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    trainer = tiny_trainer("CoOp")
    trainer.num_batches, trainer.epoch, trainer.max_epoch = 10, 0, 2
    batch = next(iter(trainer.train_loader_x))
    trainer.last_batch = (batch | {"img": batch["img"] * float("nan")},)
    assert flops_of_step(trainer) is None
    assert not list(Path(trainer.output_dir).glob("*.txt")) and not list(Path.cwd().iterdir())


def test_no_step_no_flops(tiny_trainer):
    assert flops_of_step(tiny_trainer("CoOp")) is None
