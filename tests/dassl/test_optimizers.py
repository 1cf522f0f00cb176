"""Optimisers from the configuration; expected values are the settings themselves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dassl.config import get_cfg_default
from dassl.optim import build_optimizer
from dassl.optim.radam import RAdam
from dassl.utils.state_shapes import check_optimizer_state


@pytest.mark.parametrize(
    ("name", "kind", "values"),
    [
        ("adam", torch.optim.Adam, {"betas": (0.8, 0.99), "eps": 1e-3, "amsgrad": False}),
        ("amsgrad", torch.optim.Adam, {"betas": (0.8, 0.99), "eps": 1e-3, "amsgrad": True}),
        ("adamw", torch.optim.AdamW, {"betas": (0.8, 0.99), "eps": 1e-3}),
        ("radam", RAdam, {"betas": (0.8, 0.99), "eps": 1e-3}),
        ("sgd", torch.optim.SGD, {"momentum": 0.7, "dampening": 0, "nesterov": True}),
        ("rmsprop", torch.optim.RMSprop, {"momentum": 0.7, "alpha": 0.9}),
    ],
)
def test_each_optimizer_takes_its_settings(name, kind, values):
    cfg = get_cfg_default().OPTIM
    cfg.NAME, cfg.LR, cfg.WEIGHT_DECAY, cfg.MOMENTUM, cfg.SGD_NESTEROV = name, 0.3, 0.01, 0.7, True
    cfg.ADAM_BETA1, cfg.ADAM_BETA2, cfg.ADAM_EPS, cfg.RMSPROP_ALPHA = 0.8, 0.99, 1e-3, 0.9
    optimizer = build_optimizer(nn.Linear(2, 1), cfg)
    assert type(optimizer) is kind
    group = optimizer.param_groups[0]
    assert {key: group[key] for key in values} == values
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (0.3, 0.01, 2)


def test_a_node_without_an_epsilon_gets_pytorchs():
    """Other repositories make nodes like OPTIM that do not have the key."""
    cfg = get_cfg_default().OPTIM
    assert cfg.pop("ADAM_EPS") == 1e-8
    assert build_optimizer(nn.Linear(2, 1), cfg).param_groups[0]["eps"] == 1e-8


def test_modules_parameters_and_groups_are_accepted():
    cfg = get_cfg_default().OPTIM
    model = nn.Linear(2, 1)
    for given in (model, model.parameters(), list(model.parameters())):
        assert build_optimizer(given, cfg).param_groups[0]["params"] == [model.weight, model.bias]
    groups = [{"params": [model.weight], "lr": 0.5}, {"params": [model.bias]}]
    for optimizer in (build_optimizer(groups, cfg), build_optimizer(model, cfg, param_groups=groups)):
        assert [group["lr"] for group in optimizer.param_groups] == [0.5, cfg.LR]


def test_staged_rates():
    cfg = get_cfg_default().OPTIM
    cfg.STAGED_LR, cfg.NEW_LAYERS, cfg.BASE_LR_MULT, cfg.LR = True, ["1"], 0.5, 0.2
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1), nn.Linear(1, 1))
    base, new = build_optimizer(model, cfg).param_groups
    assert (base["lr"], new["lr"]) == (0.1, 0.2)
    assert new["params"] == list(model[1].parameters())
    assert base["params"] == [*model[0].parameters(), *model[2].parameters()]
    cfg.NEW_LAYERS = ()
    with pytest.warns(UserWarning, match="NEW_LAYERS is empty"):
        build_optimizer(model, cfg)
    with pytest.raises(TypeError, match="STAGED_LR needs a module"):
        build_optimizer(list(model.parameters()), cfg)


def test_how_an_optimiser_computes_is_not_taken_from_a_file():
    """A checkpoint of an optimiser that updates tensor by tensor: what it has learned is kept, not how it works."""
    parameter = torch.nn.Parameter(torch.ones(3))
    older = torch.optim.SGD([parameter], lr=0.1, foreach=False)
    newer = torch.optim.SGD([parameter], lr=0.2, foreach=True)
    state = older.state_dict()
    check_optimizer_state(newer, state)
    newer.load_state_dict(state)
    assert newer.param_groups[0]["foreach"] is True
    assert newer.param_groups[0]["lr"] == 0.1
