"""Reading results from logs, ours and upstream's, and the base-to-new table."""

from __future__ import annotations

import statistics

import pytest

import parse_test_res
from dassl.utils import UserError
from experiments import base2new

OURS = "epoch [1/1] batch [5/5] ...\nFinish training\nEvaluate on the *test* set\n=> result\n* accuracy: {}%\n"
UPSTREAM = "epoch [1/1] ...\nFinished training\n=> result\n* total: 100\n* accuracy: {}%\n* error: 1%\n"
EVALUATION = "Evaluate on the *test* set\n=> result\n* total: 100\n* accuracy: {}%\n"
CRASHED = "* accuracy: 99.0%\nTraceback (most recent call last):\n"  # a validation result before the crash


def write_run(folder, text):
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text(text)


def test_seeds_are_averaged_and_an_unfinished_one_is_named(tmp_path, capsys):
    for seed, text in enumerate((OURS.format(80.0), UPSTREAM.format("85.5"), CRASHED), 1):
        write_run(tmp_path / f"seed{seed}", text)
    parse_test_res.main([str(tmp_path)])
    printed = capsys.readouterr().out
    assert "* accuracy: 82.75% +- 2.75% (2 runs)" in printed
    assert "unfinished:" in printed and "seed3" in printed


def test_evaluations_need_the_flag(tmp_path, capsys):
    write_run(tmp_path / "seed1", EVALUATION.format(70.0))
    with pytest.raises(UserError, match="no finished run"):
        parse_test_res.main([str(tmp_path)])
    parse_test_res.main([str(tmp_path), "--test-log"])
    assert "* accuracy: 70.00%" in capsys.readouterr().out


def test_many_experiments_and_confidence(tmp_path, capsys):
    for name, values in (("a", (60.0, 70.0)), ("b", (50.0, 50.0))):
        for seed, value in enumerate(values, 1):
            write_run(tmp_path / name / f"seed{seed}", OURS.format(value))
    parse_test_res.main([str(tmp_path), "--multi-exp", "--ci95"])
    printed = capsys.readouterr().out
    assert "Average performance: 57.50%" in printed
    assert f"65.00% +- {1.96 * 5 / 2**0.5:.2f}%" in printed


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nothing-here"):
        parse_test_res.main([str(tmp_path / "nothing-here")])


def test_base_to_new_table(tmp_path, capsys):
    base, new = (80.0, 70.0), (60.0, 50.0)
    runs = "shapes/shots_16/CoOp/vit"
    for seed, (on_base, on_new) in enumerate(zip(base, new, strict=True), 1):
        write_run(tmp_path / base2new.TRAIN / runs / f"seed{seed}", OURS.format(on_base))
        write_run(tmp_path / base2new.TEST / runs / f"seed{seed}", EVALUATION.format(on_new))
    write_run(tmp_path / base2new.TRAIN / runs / "seed3", CRASHED)
    base2new.main([str(tmp_path)])
    line = capsys.readouterr().out.splitlines()[-1]
    h = [2 * b * n / (b + n) for b, n in zip(base, new, strict=True)]
    assert "75.0 +- 7.1" in line and "55.0 +- 7.1" in line
    assert f"{statistics.mean(h):.1f} +- {statistics.stdev(h):.1f}" in line
    assert line.rstrip().endswith("2 (1 incomplete)")


def test_an_empty_output_folder_is_said(tmp_path):
    with pytest.raises(UserError, match="base2new_train.sh"):
        base2new.main([str(tmp_path)])
