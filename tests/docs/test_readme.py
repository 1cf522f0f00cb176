"""Every command of the README runs, in the order in which it stands there.

What a reader has and this machine has not is put in its place: a tiny data set in EuroSAT's layout and a tiny CLIP, by
config overrides behind the printed command.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from golden_data import write_backbones
from tiny_runs import write_data

import train
from shapes_world.suites import SUITES

ROOT = Path(train.__file__).parent
CONFIG = "vit_b16_c2_ep10_batch4_4+4ctx"


def commands(text: str) -> list[str]:
    """Lines of the bash blocks, continued lines joined, comments and blank lines left out."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)).replace("\\\n", " ")
    lines = (re.sub(r"\s+#.*", "", line).strip() for line in blocks.splitlines())
    return [line for line in lines if line]


README = (ROOT / "README.md").read_text()
COMMANDS = commands(README)


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
        command = command.replace("experiments report output", f"experiments report {folder}/output")
        result = subprocess.run(
            ["bash", "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=500
        )
        assert result.returncode == expect, f"{command}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
        return result.stdout

    return run


def test_the_readme_is_short_and_in_order():
    titles = re.findall(r"^## (.*)$", README, re.MULTILINE)
    doors = ["Compare and reproduce", "Your own photos", "Add a method"]
    assert titles == ["Two commands", *doors, "What there is, and what was measured", "Licence and citation"]
    assert len(README.splitlines()) < 120 and len(COMMANDS) >= 14


def test_what_the_readme_links_is_there():
    targets = re.findall(r"\]\(([^)#\s]+)", README)
    assert len(targets) > 15
    assert [target for target in targets if "://" not in target and not (ROOT / target).exists()] == []
    assert (ROOT / "docs" / "report.png").stat().st_size < 300_000


def test_figures_are_those_of_the_results_page():
    """The H of four rows of the base-to-new table."""
    page = (ROOT / "docs" / "results.md").read_text()
    (said,) = re.findall(r"H over three seeds: (.*?) \(", README)
    for written, trainer in (("zero-shot", "CLIP"), ("CoOp",) * 2, ("MaPLe",) * 2, ("ProMetaR",) * 2):
        (figure,) = re.findall(rf"{written} (\d[\d. ±]*)", said)
        (row,) = re.findall(rf"^\| {trainer} \|(?: [^|]+ \|){{3}} ([^|]+) \|$", page, re.MULTILINE)
        assert figure.strip() == row, trainer


def test_the_two_commands(run, place):
    assert COMMANDS[:2] == ["bash scripts/demo.sh", "bash scripts/test.sh"]
    printed = run("bash scripts/demo.sh")
    table = printed[printed.index("data set") :]
    assert table.startswith("data set Shapes; 1 seed.\n")
    assert re.search(r"\nProMetaR .* \d+\.\d+ +\d+\.\d+ +\d+\.\d+\n", table)
    assert re.search(r"\nCLIP +60\.\d+ +53\.\d+", table)  # as in clip/backbones/pretrain_log.txt
    assert (place[0] / "output" / "report" / "report.html").is_file()
    assert "already in" in run("python -m shapes_world.generate --root $DATA shapes")  # what the demo's next run does
    again = run("bash scripts/prometar/base2new_train.sh shapes 1 vit_shapes_c2_ep5_batch4_4+4ctx")
    again += run("bash scripts/zsclip/base2new_test.sh shapes 1")
    assert again.count("Results are available in") == 3 and "epoch [" not in again
    assert "pytest" in run("bash scripts/test.sh --version")

    assert "bash scripts/embedded_benchmark.sh" in (ROOT / "docs" / "results.md").read_text()
    benchmark = run("bash scripts/embedded_benchmark.sh --trainers zsclip --settings few_shot")
    assert "1 run: 1 finished now" in benchmark and "CLIP" in benchmark  # a second launch: test_launcher.py


def test_comparing(run, place):
    folder, _ = place
    train, test = (line for line in COMMANDS if line.startswith("bash scripts/prometar"))
    trained, tested = run(train), run(test)
    assert "Finish training" in trained and "SUBSAMPLE BASE CLASSES" in trained
    assert "SUBSAMPLE NEW CLASSES" in tested and "Loading weights to VLPromptLearner" in tested
    assert "* openworld_auc: " in tested  # all classes together
    runs = folder / "output" / "base2new" / "train_base" / "eurosat" / "shots_1" / "ProMetaR" / CONFIG
    assert re.search(r"^\* accuracy: \d+\.\d+%", run(f"python parse_test_res.py {runs}"), re.MULTILINE)

    plan, report = (run(line) for line in COMMANDS if line.startswith("python -m experiments"))
    # three runs for each of 11 data sets, 3 seeds and 19 methods; of zero-shot one seed
    assert plan.count("train.py") == 11 * 3 * (3 * 19 + 1) and "--trainer ProMetaR" in plan
    assert "EuroSAT" in report and (folder / "output" / "report" / "report.html").is_file()

    assert "Results are available in" in run(train)
    (log,) = runs.glob("seed1/log.txt")
    log.write_text(log.read_text().split("Finish training")[0])  # as a crash leaves it
    (log.parent / "result.json").unlink()
    again = run(train)
    assert "has an unfinished run" in again and "epoch [" not in again  # nothing left to train
    assert "Finish training" in again


def test_own_photos(run, tmp_path):
    """With generated images for photos, and the small model."""
    suite = SUITES["Shapes"]
    for name in ("my_photos", "new_photos"):
        for label, number in itertools.product(range(3), range(6)):
            path = tmp_path / name / suite.class_names[label].replace(" ", "_") / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            suite.draw("train", label, number).save(path)
    lines = [line for line in COMMANDS if re.search("my_photos|output/mine", line)]
    assert [line.split()[1] for line in lines] == [
        "-m",
        "train.py",
        "docs/examples/wrong_photos.py",
        "predict.py",
        "export.py",
    ]

    def run_here(line: str) -> str:
        line = re.sub("(?:my|new)_photos/|output/(?:mine|exported)", lambda match: f"{tmp_path}/{match[0]}", line)
        line = line.replace("/vit_b16", "/vit_shapes")
        return run(f"{line} OPTIM.MAX_EPOCH 1" if "train.py" in line else line)

    checked, trained, wrong, predicted, _ = (run_here(line) for line in lines)
    assert checked.startswith("ok       my_photos            3 classes")
    assert "Finish training" in trained and "=> per-class result" in trained
    assert wrong.startswith("accuracy on the test photos, by class\n") and "photos in the wrong class" in wrong
    assert predicted.count("5.png") == 3 and suite.class_names[0].replace(" ", "_") in predicted
    assert (tmp_path / "output" / "exported" / "class_weights.safetensors").is_file()


def test_adding_a_method_is_as_on_its_page():
    """Those lines are run by the tests of docs/adding.md, in a copy of the repository."""
    lines = COMMANDS[COMMANDS.index("cp docs/examples/guided_coop.py trainers/") :]
    assert lines[-1].startswith("bash scripts/run.sh train_base guided_coop")
    assert set(lines) <= set(commands((ROOT / "docs" / "adding.md").read_text()))


def test_unknown_method_and_missing_arguments(run):
    assert "usage" not in run("bash scripts/run.sh train_base nobody shapes 1", expect=1)
    run("bash scripts/prometar/base2new_train.sh shapes", expect=1)
