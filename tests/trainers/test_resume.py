"""An interrupted run that is resumed ends where an uninterrupted one ends, to the last bit.

Expected values: the uninterrupted run. Order, augmentation and ProMetaR's tasks are drawn at random in both.
"""

from __future__ import annotations

import multiprocessing
import random

import pytest
import torch
from tiny_runs import build_trainer, learned

from trainers.prometar import MODULATOR

EPOCHS = 3
METHODS = {
    "CoOp": {},
    "MaPLe": {},
    "TCP": {"OPTIM.NAME": "adam", "OPTIM.ADAM_EPS": 1e-3},
    "CoPrompt": {},
    "LinearProbe": {"CLAP_WEIGHT": 1.0},
    "CLIPLoRA": {"OPTIM.NAME": "adamw"},
    "ProMetaR": {"ADAPT_LR": 0.1, "LR_RATIO": 1.0},
    "PromptSRC": {"GPA_MEAN": 2.0, "GPA_STD": 1.0},
    "CoOp, two workers": {"DATALOADER.NUM_WORKERS": 2, "DATALOADER.TRAIN_X.BATCH_SIZE": 3},
    "ProMetaR, phi by Adam": {"ADAPT_LR": 0.1, "LR_RATIO": 1.0, "OPTIM_VNET.NAME": "adam", "OPTIM_VNET.STEP_LR": True},
}


class Interrupted(Exception):
    """Stands for a run that is killed."""


@pytest.fixture
def start(tiny_cfg, tmp_path, monkeypatch):
    """Trains into a folder, up to the beginning of epoch `stop`; gives the trainer and the rates of each epoch."""

    def train(method, folder, stop=None, resume="", epochs=EPOCHS, **options):
        cfg = tiny_cfg(method.split(",")[0], METHODS[method] | options)
        cfg.OUTPUT_DIR, cfg.RESUME = str(tmp_path / folder), str(tmp_path / resume) if resume else ""
        cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
        cfg.DATASET.NUM_SHOTS = 1  # one batch an epoch, of four of seven images
        cfg.TEST.NO_TEST = True
        cfg.TRAIN.CHECKPOINT_FREQ = 1
        for node in (cfg.OPTIM, cfg.OPTIM_VNET):
            node.MAX_EPOCH, node.WARMUP_EPOCH, node.WARMUP_TYPE, node.WARMUP_CONS_LR = epochs, 1, "constant", 1e-4
        torch.manual_seed(0)
        random.seed(0)
        trainer = build_trainer(cfg)
        trainer.start_values = learned(trainer)
        rates = {}

        def before_epoch():
            if trainer.epoch == stop:
                raise Interrupted
            rates[trainer.epoch] = [optimizer.param_groups[0]["lr"] for optimizer in trainer._optims.values()]

        monkeypatch.setattr(trainer, "before_epoch", before_epoch)
        if stop is None:
            trainer.train()
        else:
            with pytest.raises(Interrupted):
                trainer.train()
            trainer.close_writer()
        return trainer, rates

    return train


@pytest.fixture(scope="module")
def whole_runs():
    """The uninterrupted run of each method, trained by the first test that compares with it."""
    return {}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stop", [1, 2])
def test_resumed_run_ends_where_an_uninterrupted_one_does(start, whole_runs, method, stop):
    """Stopped right after the warm-up, and later."""
    if method not in whole_runs:
        whole_runs[method] = start(method, "whole")
    whole, rates = whole_runs[method]
    _, rates_before = start(method, "parts", stop=stop)
    resumed, rates_after = start(method, "parts")
    assert sorted(rates_before) == list(range(stop)) and sorted(rates_after) == list(range(stop, EPOCHS))
    assert rates_before | rates_after == rates
    assert len({tuple(rate) for rate in rates.values()}) == EPOCHS  # warm-up, then falling
    expected, start_values = learned(whole), whole.start_values
    assert all(torch.equal(value, expected[name]) for name, value in learned(resumed).items())
    assert not any(torch.equal(value, start_values[name]) for name, value in expected.items())  # all were trained
    for ours, other in zip(resumed._optims.values(), whole._optims.values(), strict=True):
        for one, another in zip(ours.state.values(), other.state.values(), strict=True):
            assert one.keys() == another.keys()
            assert all(torch.equal(torch.as_tensor(one[key]), torch.as_tensor(another[key])) for key in one)


def test_resume_from_another_folder(start):
    whole, _ = start("CoOp", "whole")
    start("CoOp", "first", stop=1)
    resumed, rates = start("CoOp", "second", resume="first")
    assert sorted(rates) == [1, 2]
    assert torch.equal(learned(resumed)["ctx"], learned(whole)["ctx"])


@pytest.mark.parametrize("keep", [False, True])
def test_the_modulator_stays_as_long_as_it_is_needed(start, tmp_path, keep):
    start("ProMetaR", "run", stop=2, KEEP_MODULATOR=keep)
    assert (tmp_path / "run" / MODULATOR / "model.pth.tar-2").is_file()
    start("ProMetaR", "run", KEEP_MODULATOR=keep)
    assert (tmp_path / "run" / MODULATOR).is_dir() == keep
    assert (tmp_path / "run" / "VLPromptLearner" / f"model.pth.tar-{EPOCHS}").is_file()


def test_a_finished_run_is_not_trained_again(start):
    finished, _ = start("ProMetaR", "run")
    again, rates = start("ProMetaR", "run")
    assert rates == {}
    expected, loaded = learned(finished), learned(again)
    assert all(torch.equal(loaded[name], expected[name]) for name in expected if not name.startswith("linear_"))


def test_a_finished_run_can_be_trained_longer(start, capsys):
    """phi was removed and starts anew; the state of the random generators is there and goes on."""
    start("ProMetaR", "run")
    capsys.readouterr()
    _, whole_rates = start("ProMetaR", "longer from the start", epochs=EPOCHS + 1)
    longer, rates = start("ProMetaR", "run", epochs=EPOCHS + 1, **{"TRAIN.EXTEND": True})
    assert sorted(rates) == [EPOCHS] and rates[EPOCHS] == whole_rates[EPOCHS]  # the new schedule's
    assert longer.extended_after == [EPOCHS]
    printed = capsys.readouterr().out
    schedule = f"cosine over {EPOCHS + 1} epochs from epoch {EPOCHS + 1}, lr {rates[EPOCHS][0]:.4e}"
    assert f"Extending the run: {schedule}" in printed
    assert (
        f"No {MODULATOR} in " in printed
        and "starting from initial values" in printed
        and "no state of the random generators" not in printed
    )


def test_modulator_rate_stands_still_unless_told_otherwise(start):
    """The published code never steps the modulator's schedule: it stays at the warm-up rate."""
    _, rates = start("ProMetaR", "still")
    assert [rate[1] for rate in rates.values()] == [1e-4] * EPOCHS
    _, rates = start("ProMetaR", "follows", **{"OPTIM_VNET.STEP_LR": True})
    assert [rate[1] for rate in rates.values()] == [rate[0] for rate in rates.values()]


def test_workers_end_with_the_training(tiny_trainer):
    """Where the garbage collector ends them, each takes five seconds."""
    trainer = tiny_trainer("CoOp", {"DATALOADER.NUM_WORKERS": 2, "TEST.NO_TEST": True})
    trainer.train()
    assert not multiprocessing.active_children()
