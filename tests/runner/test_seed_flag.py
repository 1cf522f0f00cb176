"""Seeds that no generator takes are refused before anything is read or written."""

from __future__ import annotations

import pytest

import train
from dassl.utils import UserError
from runner.config import overridden_flags


@pytest.mark.parametrize("text", ["-1", "4294967296", "18446744073709551616", "1.5", "one"])
def test_a_seed_flag_out_of_range_is_a_usage_error(text, capsys):
    with pytest.raises(SystemExit) as stopped:
        train.parse_args([f"--seed={text}"])
    assert stopped.value.code == 2
    assert f"a seed is a number from 0 to 4294967295, not {text!r}" in capsys.readouterr().err


@pytest.mark.parametrize("value", [0, 4294967295])
def test_the_ends_of_the_range_are_seeds(value):
    assert value == train.setup_cfg(train.parse_args(["--seed", str(value)])).SEED


def test_a_seed_key_out_of_range_is_one_line():
    with pytest.raises(UserError, match="SEED must be at most 4294967295"):
        train.setup_cfg(train.parse_args(["SEED", "4294967296"]))


def test_a_pair_that_overrides_a_flag_is_said():
    words = [
        "--seed",
        "1",
        "--trainer",
        "CoOp",
        "--output-dir",
        "a",
        "SEED",
        "5",
        "TRAINER.NAME",
        "CoOp",
        "OUTPUT_DIR",
        "b",
        "OPTIM.LR",
        "0.1",
    ]
    args = train.parse_args(words)
    assert train.setup_cfg(args).SEED == 5
    assert overridden_flags(args) == ["SEED 5 (a KEY VALUE pair) overrides --seed 1"]
    args.opts = ["OPTIM.LR", "0.1", "TEST.SPLIT", "val", "OPTIM.LR", "0.2", "TEST.SPLIT", "val"]
    assert overridden_flags(args) == ["OPTIM.LR 0.2 overrides the earlier OPTIM.LR 0.1"]
