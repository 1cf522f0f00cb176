"""What a run keeps on its device: generator states, the loss scale, and the bits that --deterministic promises.

Expected values: the same draws, and the same run a second time; of the scaler, PyTorch's documented rules (an overflow
halves the scale and skips the update).
"""

from __future__ import annotations

import pytest
import torch
from golden_data import images, training_batch
from tiny_runs import NODES, build_trainer, learned, set_position

from dassl.utils import set_random_seed, use_deterministic_algorithms
from dassl.utils.random_state import random_state, restore_random_state, same_random_state_afterwards


@pytest.fixture
def trainer_on(tiny_cfg, device):
    """Builds a trainer on the device from seed 1."""

    def build(name, **options):
        cfg = tiny_cfg(name, options | {"USE_CUDA": device.type == "cuda"})
        set_random_seed(1)
        return build_trainer(cfg)

    return build


def batch_of(number):
    return training_batch(number)


def test_generators_draw_the_same_after_a_state_is_restored(device):
    set_random_seed(3)
    torch.rand(5, device=device)
    state = random_state()
    drawn = torch.rand(4, device=device), torch.rand(4)
    with same_random_state_afterwards():
        torch.rand(100, device=device)
    torch.rand(7, device=device)
    restore_random_state(state)
    assert torch.equal(torch.rand(4, device=device), drawn[0]) and torch.equal(torch.rand(4), drawn[1])


def test_the_generators_state_survives_a_checkpoint(trainer_on, device, tmp_path):
    trainer = trainer_on("CoOp")
    set_position(trainer, 0)
    trainer.save_model(0, str(tmp_path))
    expected = torch.rand(4, device=device), torch.rand(4)
    again = trainer_on("CoOp")
    torch.rand(9, device=device)
    again.resume_model_if_exist(str(tmp_path))
    again._restore_training_state()
    assert torch.equal(torch.rand(4, device=device), expected[0]) and torch.equal(torch.rand(4), expected[1])


def test_an_overflow_halves_the_scale_and_skips_the_update(trainer_on, device, tmp_path, capsys):
    """With amp; a CPU's trainer has no scaler in use, so it is given one that has the same rules."""
    trainer = trainer_on("CoOp", PREC="amp")
    if device.type == "cpu":
        assert not trainer.scaler.is_enabled()
        trainer.scaler = torch.amp.GradScaler(device.type)
    assert trainer.scaler.is_enabled()
    set_position(trainer, 0)
    trainer.forward_backward(batch_of(0))
    before, scale = learned(trainer), trainer.scaler.get_scale()
    gradients = {name: torch.full_like(tensor, float("inf")) for name, tensor in trainer.theta().items()}
    trainer.update_prompts(gradients)
    assert all(torch.equal(value, before[name]) for name, value in learned(trainer).items())
    assert trainer.scaler.get_scale() == scale / 2 and trainer._skipped_updates == 1
    trainer.output_dir, trainer.num_batches = str(tmp_path), 4
    trainer.after_epoch()
    assert f"1 of 4 updates of epoch 1 skipped, loss scale now {scale / 2:g}" in capsys.readouterr().out
    trainer.forward_backward(batch_of(0))
    assert not all(torch.equal(value, before[name]) for name, value in learned(trainer).items())

    trainer.save_model(0, str(tmp_path))
    again = trainer_on("CoOp", PREC="amp")
    if device.type == "cpu":
        again.scaler = torch.amp.GradScaler(device.type)
    again.resume_model_if_exist(str(tmp_path))
    again._restore_training_state()
    assert again.scaler.get_scale() == scale / 2


@pytest.mark.parametrize("name", NODES)
def test_deterministic_runs_have_the_same_bits(trainer_on, name):
    use_deterministic_algorithms()
    try:
        results = []
        for _ in range(2):
            trainer = trainer_on(name)
            for number in (0, 1):
                set_position(trainer, number)
                torch.manual_seed(number)
                trainer.forward_backward(batch_of(number))
            results.append((learned(trainer), trainer.model_inference(images()["heldout_images"].to(trainer.device))))
    finally:
        torch.use_deterministic_algorithms(False)
    (values, logits), (other_values, other_logits) = results
    assert torch.equal(logits, other_logits)
    assert all(torch.equal(value, other_values[key]) for key, value in values.items())
