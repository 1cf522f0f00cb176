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


PAGE = Path(benchmark.__file__).parents[1] / "docs" / "performance.md"
COMMANDS = [
    line.removeprefix("python -m tools.benchmark ")
    for block in re.findall(r"```bash\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    for line in block.splitlines()
]


def test_the_performance_page_has_commands():
    assert len(COMMANDS) >= 5


@pytest.mark.parametrize("command", COMMANDS)
def test_the_commands_of_the_performance_page(command, capsys):
    """On a tiny model with few classes and images."""
    small = "--backbone tiny --device cpu --threads 1 --classes 5 --eval-batch-size 2 --repeats 1"
    benchmark.main([*command.split(), *small.split()])
    printed = capsys.readouterr().out
    assert ("test ratio" if "--eval-only" in command else "step [cpu s]") in printed
    assert ("outer gradient" in printed) == ("ProMetaR" in command)
