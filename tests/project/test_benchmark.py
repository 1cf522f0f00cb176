"""The plainly computed methods equal the trainers, and the benchmark reports."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from dassl.utils import UserError
from tools import benchmark

FLOAT32_NOISE = 1e-6  # of prompts after one step of rate 0.0025 on the tiny model


@pytest.mark.parametrize("trainer", benchmark.OPTIONS)
def test_step_and_evaluation_equal_the_plain_ones(trainer, tmp_path):
    report = tmp_path / "report.json"
    options = ["--trainer", trainer, "--backbone", "tiny", "--device", "cpu", "--threads", "1", "--classes", "5"]
    benchmark.main([*options, "--baseline", "--eval-batch-size", "2", "--repeats", "1", "--json", str(report)])
    (row,) = json.loads(report.read_text())["rows"]
    assert row["deviation"] < FLOAT32_NOISE
    assert row["evaluation deviation"] < 1e-4  # of logits up to 14
    assert row["step"]["seconds"] > 0 and row["baseline test"]["seconds"] > 0
    assert sum(row["split"].values()) == pytest.approx(row["step"]["seconds"], rel=2.0)


def test_what_cannot_be_measured_is_said():
    with pytest.raises(UserError, match="--classes 1001: choose 1 to 1000"):
        benchmark.main(["--backbone", "tiny", "--device", "cpu", "--classes", "1001"])


def test_the_command_of_the_performance_page(capsys):
    page = Path(benchmark.__file__).parents[1] / "docs" / "performance.md"
    (command,) = re.findall(r"```bash\npython -m tools\.benchmark (.*)\n```", page.read_text())
    benchmark.main([*command.split(), "--device", "cpu", "--threads", "1", "--eval-batch-size", "2"])
    printed = capsys.readouterr().out
    assert "step cpu ratio" in printed and "outer gradient" in printed
