"""Every command of the README runs, in the order in which it stands there.

What a reader has and this machine has not is put in its place: a tiny data set in EuroSAT's layout and a tiny CLIP, by
config overrides behind the printed command.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from golden_data import write_backbones
from tiny_runs import write_data

import train

ROOT = Path(train.__file__).parent
CONFIG = "vit_b16_c2_ep10_batch4_4+4ctx"


def commands(text: str) -> list[str]:
    """Lines of the bash blocks, continued lines joined, comments and blank lines left out."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    lines = (re.sub(r"\s+#.*", "", line).strip() for line in blocks.splitlines())
    return [line for line in lines if line]


COMMANDS = commands((ROOT / "README.md").read_text())


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    write_data(folder / "data")
    return folder, write_backbones(folder)["vit"]


@pytest.fixture(scope="module")
def run(place):
    """Runs a command line in the repository; returns what it printed."""
    folder, backbone = place
    tiny = f'MODEL.BACKBONE.NAME {backbone} INPUT.SIZE "(64, 64)" DATALOADER.NUM_WORKERS 0 OPTIM.MAX_EPOCH 1'
    depth = " ".join(f"TRAINER.PROMETAR.PROMPT_DEPTH_{side} 3" for side in ("VISION", "TEXT"))
    environment = dict(os.environ) | {
        "DATA": str(folder / "data"),
        "OUTPUT": str(folder / "output"),
        "SHOTS": "1",
        "COLUMNS": "160",  # a row of a table on one line
        "VIRTUAL_ENV": sys.prefix,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }

    def run(command: str, expect: int = 0) -> str:
        if "base2new_" in command and "eurosat" in command:
            command = f"{command} {CONFIG} {tiny} {depth}"
        command = command.replace("output/base2new", f"{folder}/output/base2new").replace("shots_16", "shots_1")
        command = command.replace("experiments report output", f"experiments report {folder}/output")
        result = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
        )
        assert result.returncode == expect, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
        return result.stdout

    return run


def test_the_readme_has_commands():
    assert len(COMMANDS) >= 8


def test_the_two_commands(run, place):
    assert COMMANDS[:2] == ["bash scripts/demo.sh", "bash scripts/test.sh"]
    printed = run("bash scripts/demo.sh")
    table = printed[printed.index("data set") :]
    assert re.search(r"Shapes +ProMetaR .* +\d+\.\d+ +\d+\.\d+ +\d+\.\d+ +1", table)
    assert re.search(r"Shapes +ZeroshotCLIP .* +60\.\d+ +53\.\d+", table)  # as in clip/backbones/pretrain_log.txt
    again = run("bash scripts/demo.sh")
    assert again.count("Results are available in") == 6 and "epoch [" not in again
    assert "pytest" in run("bash scripts/test.sh --version")

    assert "bash scripts/embedded_benchmark.sh" in (ROOT / "README.md").read_text()
    command = "bash scripts/embedded_benchmark.sh --trainers zsclip --settings base2new"
    assert "3 runs: 3 finished now" in run(command)
    benchmark = run(command)
    assert "3 runs, 3 of them finished before" in benchmark and "ZeroshotCLIP" in benchmark


def test_running_a_method(run, place):
    folder, _ = place
    method = [line for line in COMMANDS[2:] if line.startswith(("bash", "python parse"))]
    assert len(method) == 3
    trained, tested, parsed = (run(line) for line in method)
    assert "Finish training" in trained and "SUBSAMPLE BASE CLASSES" in trained
    assert "SUBSAMPLE NEW CLASSES" in tested and "Loading weights to VLPromptLearner" in tested
    assert "* openworld_auc: " in tested  # all classes together
    assert "(1 runs)" in parsed

    plan, report = (run(line) for line in COMMANDS if line.startswith("python -m experiments"))
    # three runs for each of 11 data sets, 3 seeds and 17 methods; of zero-shot one seed
    assert plan.count("train.py") == 11 * 3 * (3 * 17 + 1) and "--trainer ProMetaR" in plan
    assert "EuroSAT" in report and (folder / "output" / "report" / "report.html").is_file()

    assert "Results are available in" in run(method[0])
    log = next((folder / "output" / "base2new" / "train_base" / "eurosat").glob("**/log.txt"))
    log.write_text(log.read_text().split("Finish training")[0])  # as a crash leaves it
    (log.parent / "result.json").unlink()
    again = run(method[0])
    assert "holds an unfinished run" in again and "epoch [" not in again  # nothing left to train
    assert "Finish training" in again


def test_train_directly(run, place, tmp_path):
    (line,) = [line for line in COMMANDS if line.startswith("python train.py")]
    run(f"python -m shapes_world.generate --root {place[0]}/data shapes")
    line = line.replace("--root data", f"--root {place[0]}/data").replace("output/try", str(tmp_path / "try"))
    printed = run(line.replace("NUM_SHOTS 16", "NUM_SHOTS 1") + " OPTIM.MAX_EPOCH 1")
    assert "Finish training" in printed
    assert (tmp_path / "try" / "VLPromptLearner" / "model.pth.tar-1").is_file()

    (predict,) = [line for line in COMMANDS if line.startswith("python predict.py")]
    (export,) = [line for line in COMMANDS if line.startswith("python export.py")]
    image = next((place[0] / "data" / "shapes" / "images").glob("**/*.png"))
    predict = predict.replace("output/try", str(tmp_path / "try")).replace("data/shapes/images", str(image))
    assert image.name in run(predict)
    run(export.replace("output/", f"{tmp_path}/"))
    assert (tmp_path / "exported" / "class_weights.safetensors").is_file()


def test_unknown_method_and_missing_arguments(run):
    assert "usage" not in run("bash scripts/run.sh train_base nobody shapes 1", expect=2)
    run("bash scripts/prometar/base2new_train.sh shapes", expect=1)
