"""The comparison of two checkouts: of this one with itself, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from dassl.utils import UserError
from tools import compare_checkouts

HERE = Path(compare_checkouts.__file__).parents[1]


def test_this_checkout_against_itself(capfd):
    (row,) = compare_checkouts.main(
        [str(HERE), "--trainer", "IVLP", "--backbone", "tiny", "--classes", "3", "--repeats", "3"]
    )
    assert row["classes"] == 3 and row["there"] > 0 and row["here"] > 0
    assert 0.1 < row["here / there"] < 10
    assert "IVLP, tiny, processor seconds of a step" in capfd.readouterr().out


def test_a_folder_that_is_not_a_checkout(tmp_path):
    with pytest.raises(UserError, match="is not a checkout of this repository"):
        compare_checkouts.main([str(tmp_path)])


def test_what_a_trainer_prints_during_a_step_is_no_answer():
    checkout = compare_checkouts.Checkout.__new__(compare_checkouts.Checkout)
    checkout.folder = Path("other")
    checkout._answers = iter(["CPU replay: step runs eagerly: why\n", "0.5\n"])
    assert checkout._answer() == 0.5
    with pytest.raises(UserError, match="the process of other ended before its step was done"):
        checkout._answer()
