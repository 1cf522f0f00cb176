"""The plainly computed methods equal the trainers, and the benchmark reports."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tiny_runs import STRONG_META_STEP

from dassl.utils import UserError
from experiments.plan.methods import METHODS
from tools import benchmark

FLOAT32_NOISE = 5e-5  # of the change that one step makes
LAST_BIT = 2.0**-24  # of a learned value below 1
PARTS = {"text tower", "image tower", "optimiser", "rest", "backward"}
META_PARTS = PARTS - {"backward"} | {"teacher", "base gradient", "query gradient", "outer gradient"}


@pytest.mark.parametrize("trainer", benchmark.RECIPES)
def test_step_and_evaluation_equal_the_plain_ones(trainer, tmp_path):
    report = tmp_path / "report.json"
    options = ["--trainer", trainer, "--backbone", "tiny", "--device", "cpu", "--threads", "1", "--classes", "5"]
    options += ["--baseline", "--eval-batch-size", "2", "--repeats", "1", "--json", str(report)]
    # of seed 1, ProMetaR's start amplifies the rounding of either way to the limit
    own = ["--seed", "4", *STRONG_META_STEP] if trainer == "ProMetaR" else []
    for _ in range(3):  # steps of milliseconds: again where the machine stalled in one of the two
        benchmark.main([*options, *own, "TRAINER.CPU_REPLAY", "off"])  # a replayed step has no parts
        (row,) = json.loads(report.read_text())["rows"]
        whole = pytest.approx(row["step"]["seconds"], rel=2.0)
        if sum(row["split"].values()) == whole:
            break
    assert row["update"] > 1e-5
    assert row["deviation"] < FLOAT32_NOISE * row["update"] + LAST_BIT
    assert row["evaluation deviation"] < 1e-4  # of logits up to 14
    assert row["step"]["seconds"] > 0 and row["baseline test"]["seconds"] > 0
    with_teacher = dict.fromkeys(("PromptSRC", "CoPrompt"), PARTS | {"teacher"})
    assert set(row["split"]) == ({"ProMetaR": META_PARTS} | with_teacher).get(trainer, PARTS)
    assert sum(row["split"].values()) == whole


def test_the_line_through_the_baseline():
    rows = [{"classes": count, "baseline step": {"seconds": 2 + 0.5 * count}} for count in (10, 20, 50)]
    assert benchmark.baseline_line(rows) == pytest.approx((2, 0.5, 0))
    rows[1]["baseline step"]["seconds"] = 24
    assert benchmark.baseline_line(rows)[2] > 0.3
    assert benchmark.baseline_line(rows[:2]) is None


def test_peak_memory(tmp_path):
    """A hundred classes in 77 positions each need more than what is computed here."""
    report = tmp_path / "report.json"
    options = ["--backbone", "tiny", "--device", "cpu", "--threads", "1", "--classes", "100", "--train-only"]
    benchmark.main([*options, "--baseline", "--memory", "--repeats", "1", "--json", str(report)])
    (row,) = json.loads(report.read_text())["rows"]
    assert 0 < row["memory"] < row["baseline memory"] / 2


def test_what_cannot_be_measured_is_said():
    with pytest.raises(UserError, match="--classes 1001: choose 1 to 1000"):
        benchmark.main(["--backbone", "tiny", "--device", "cpu", "--classes", "1001"])


def test_figures_that_cannot_be_written_are_one_line(tmp_path):
    (tmp_path / "file").touch()
    small = ["--backbone", "tiny", "--device", "cpu", "--classes", "2", "--eval-only", "--eval-batch-size", "1"]
    with pytest.raises(UserError, match=f"cannot create the folder {tmp_path}/file"):
        benchmark.main([*small, "--repeats", "1", "--json", str(tmp_path / "file" / "report.json")])


def test_every_method_is_measured_by_its_own_recipe():
    """Nothing in tools/ names the methods: those that learn are all there, each with a config file of its folder."""
    learning = {method.trainer: method.folder for method in METHODS.values() if method.learns}
    assert {trainer: Path(path).parent.name for trainer, path in benchmark.RECIPES.items()} == learning
    assert all(Path(path).is_file() for path in benchmark.RECIPES.values())


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
    benchmark.main([*_without(command.split(), small.split()[::2]), *small.split()])
    printed = capsys.readouterr().out
    assert ("test ratio" if "--eval-only" in command else "step [cpu s]") in printed
    assert ("outer gradient" in printed) == ("ProMetaR" in command and "--eval-only" not in command)


def _without(words, flags):
    """The words of a command without some flags and their values."""
    kept, dropping = [], False
    for word in words:
        dropping = word in flags if word.startswith("--") else dropping and not word.startswith("TRAINER.")
        kept += [] if dropping else [word]
    return kept
