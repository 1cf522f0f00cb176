"""Learning rates against those that the published Dassl gave, epoch by epoch (golden data of the project)."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from dassl.config import get_cfg_default
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.optim.lr_scheduler import ConstantWarmupScheduler, LinearWarmupScheduler
from dassl.utils import MismatchError, UserError, load_checkpoint, resume_from_checkpoint, save_checkpoint

GOLDEN = Path(__file__).resolve().parents[3] / "shared" / "golden" / "lr_schedules.json"
GOLDEN_CASES = json.loads(GOLDEN.read_text()) if GOLDEN.exists() else []

# Rates worked out by hand from the formulas of cosine annealing and steps.
COSINE = {"NAME": "sgd", "LR": 0.01, "MAX_EPOCH": 8, "LR_SCHEDULER": "cosine"}
LINEAR = {**COSINE, "WARMUP_EPOCH": 3, "WARMUP_TYPE": "linear", "WARMUP_MIN_LR": 1e-5}
CONSTANT = {**COSINE, "WARMUP_EPOCH": 2, "WARMUP_TYPE": "constant", "WARMUP_CONS_LR": 1e-4}
STEPS = {"NAME": "sgd", "LR": 1.0, "MAX_EPOCH": 5, "GAMMA": 0.5}


def cosine(epoch):
    """Cosine annealing from 1 to 0 in 8 epochs."""
    return 0.5 * (1 + math.cos(math.pi * epoch / 8))


HAND_CASES = [
    ("linear warm-up by hand", LINEAR, [1e-5, 0.01 / 3, 0.02 / 3, *(0.01 * cosine(k) for k in range(5))]),
    (
        "no recount by hand",  # annealing goes on from the full rate with the factors of epochs 3, 4, ...
        {**CONSTANT, "WARMUP_RECOUNT": False},
        [1e-4, 1e-4, *(0.01 * cosine(k) / cosine(2) for k in range(2, 8))],
    ),
    ("multi step by hand", {**STEPS, "LR_SCHEDULER": "multi_step", "STEPSIZE": [1, 3]}, [1.0, 0.5, 0.5, 0.25, 0.25]),
    ("single step by hand", {**STEPS, "LR_SCHEDULER": "single_step", "STEPSIZE": [2]}, [1.0, 1.0, 0.5, 0.5, 0.25]),
    ("one step at the end", {**STEPS, "LR_SCHEDULER": "single_step"}, [1.0] * 5),
]
CASES = HAND_CASES + [(c["name"], c["settings"], c["lr_at_epoch"]) for c in GOLDEN_CASES]


def build(settings):
    cfg = get_cfg_default()
    for key, value in settings.items():
        cfg.merge_from_list([f"OPTIM.{key}", value])
    model = nn.Linear(2, 1)
    optimizer = build_optimizer(model, cfg.OPTIM)
    return model, optimizer, build_lr_scheduler(optimizer, cfg.OPTIM)


def epoch(optimizer, scheduler):
    """One epoch of training; returns its learning rate."""
    used = optimizer.param_groups[0]["lr"]
    optimizer.step()
    scheduler.step()
    return used


def is_stepped(name):
    return "never stepped" not in name


@pytest.mark.parametrize(("name", "settings", "expected"), CASES, ids=[case[0] for case in CASES])
def test_rates(name, settings, expected):
    _, optimizer, scheduler = build(settings)
    rates = [
        epoch(optimizer, scheduler) if is_stepped(name) else optimizer.param_groups[0]["lr"]
        for _ in range(len(expected))
    ]
    assert rates == pytest.approx(expected, rel=1e-12, abs=1e-15)


@pytest.mark.skipif(not GOLDEN.exists(), reason="the golden data are not beside the repository")
def test_all_eleven_golden_settings_are_there():
    assert sum(is_stepped(case["name"]) for case in GOLDEN_CASES) == 11


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [case for case in CASES if is_stepped(case[0])],
    ids=[case[0] for case in CASES if is_stepped(case[0])],
)
def test_rates_after_a_resume_at_any_epoch(name, settings, expected, tmp_path):
    for resumed_at in range(1, len(expected)):
        model, optimizer, scheduler = build(settings)
        for _ in range(resumed_at):
            epoch(optimizer, scheduler)
        states = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}
        folder = str(tmp_path / str(resumed_at))
        save_checkpoint({"state_dict": model.state_dict(), "epoch": resumed_at, **states}, folder)
        model, optimizer, scheduler = build(settings)
        assert resume_from_checkpoint(folder, model, optimizer, scheduler) == resumed_at
        rates = [epoch(optimizer, scheduler) for _ in range(resumed_at, len(expected))]
        assert rates == pytest.approx(expected[resumed_at:], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(("name", "settings", "expected"), HAND_CASES, ids=[case[0] for case in HAND_CASES])
def test_states_hold_plain_data_only(name, settings, expected, tmp_path):
    *_, scheduler = build(settings)

    def plain(value):
        if isinstance(value, dict):
            return type(value) is dict and all(map(plain, value.values()))
        if isinstance(value, (list, tuple)):
            return all(map(plain, value))
        return value is None or type(value) in (bool, int, float, str)

    assert plain(scheduler.state_dict())
    torch.save(scheduler.state_dict(), tmp_path / "state")
    assert torch.load(tmp_path / "state", weights_only=True) == scheduler.state_dict()


def test_staged_groups_keep_their_ratio():
    settings = {**LINEAR, "STAGED_LR": True, "NEW_LAYERS": ["1"], "BASE_LR_MULT": 0.1}
    cfg = get_cfg_default()
    for key, value in settings.items():
        cfg.merge_from_list([f"OPTIM.{key}", value])
    optimizer = build_optimizer(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1)), cfg.OPTIM)
    scheduler = build_lr_scheduler(optimizer, cfg.OPTIM)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    base, new = (group["lr"] for group in optimizer.param_groups)
    assert base == pytest.approx(0.1 * new)


def test_the_signatures_of_the_lineage():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    successor = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    assert ConstantWarmupScheduler(optimizer, successor, 2, 0.5, -1, False).get_last_lr() == [0.5]
    assert LinearWarmupScheduler(optimizer, successor, 2, 0.25, last_epoch=-1, verbose=True).get_last_lr() == [0.25]


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("LR_SCHEDULER", "cosin", 'did you mean "cosine"'),
        ("WARMUP_TYPE", "constnt", 'did you mean "constant"'),
        ("STEPSIZE", (2.5,), "STEPSIZE"),
        ("NAME", "sdg", 'did you mean "sgd"'),
    ],
)
def test_wrong_settings_are_named(key, value, told):
    with pytest.raises(UserError, match=told):
        build({"NAME": "sgd", "WARMUP_EPOCH": 1, key: value})


def test_a_state_without_its_successor_is_refused():
    *_, scheduler = build(LINEAR)
    state = scheduler.state_dict()
    del state["successor"]
    with pytest.raises(MismatchError, match="warm-up"):
        scheduler.load_state_dict(state)

    def __init__(self, successor, own):
        self.state = {**own, "successor": successor}


@pytest.mark.parametrize("warmup_type", ["constant", "linear"])
def test_resuming_from_a_published_checkpoint_follows_the_schedule(warmup_type, tmp_path):
    settings = {**LINEAR, "WARMUP_TYPE": warmup_type, "WARMUP_CONS_LR": 1e-4}
    model, optimizer, scheduler = build(settings)
    expected = [epoch(optimizer, scheduler) for _ in range(8)]
    model, optimizer, scheduler = build(settings)
    for _ in range(5):
        epoch(optimizer, scheduler)
    state = {key: value for key, value in vars(scheduler).items() if key != "optimizer"}
    assert isinstance(state["successor"], torch.optim.lr_scheduler.CosineAnnealingLR)
    (tmp_path / "checkpoint").write_text("model.pth.tar-5\n")
    content = {"state_dict": model.state_dict(), "epoch": 5, "optimizer": optimizer.state_dict(), "scheduler": state}
    torch.save(content, tmp_path / "model.pth.tar-5")
    with pytest.raises(Exception, match="Unsupported global"):  # so this is a file that needs the special reader
        torch.load(tmp_path / "model.pth.tar-5", weights_only=True)
    model, optimizer, scheduler = build(settings)
    resume_from_checkpoint(str(tmp_path), model, optimizer, scheduler)
    assert [epoch(optimizer, scheduler) for _ in range(3)] == pytest.approx(expected[5:], rel=1e-12)
    assert type(load_checkpoint(tmp_path / "model.pth.tar-5")["scheduler"]["successor"]) is dict
