"""train.py: flags, and one clear line for each mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from golden_data import write_backbones
from tiny_runs import write_data

import train
from dassl.utils import UserError

ROOT = Path(train.__file__).parent
COOP = "configs/trainers/CoOp/vit_b16_ep50_ctxv1.yaml"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder with a tiny data set (data/) and the path of a tiny backbone."""
    folder = tmp_path_factory.mktemp("files")
    write_data(folder / "data")
    return folder, write_backbones(folder)["vit"]


@pytest.fixture
def run(files, tmp_path, monkeypatch):
    """Runs train.main in the repository with a working command line, changed by the test."""
    monkeypatch.chdir(ROOT)
    folder, backbone = files

    def run(*opts, **flags):
        given = {
            "root": folder / "data",
            "trainer": "CoOp",
            "output-dir": tmp_path / "out",
            "config-file": COOP,
            "dataset-config-file": "configs/datasets/eurosat.yaml",
            "backbone": backbone,
            "seed": 1,
        } | {name.replace("_", "-"): value for name, value in flags.items()}
        arguments = [str(part) for name, value in given.items() if value is not None for part in (f"--{name}", value)]
        arguments += ["--no-train", "INPUT.SIZE", "(64, 64)", "DATALOADER.NUM_WORKERS", "0", *map(str, opts)]
        out, err = sys.stdout, sys.stderr
        try:
            train.main(train.parse_args(arguments))
        finally:
            sys.stdout, sys.stderr = out, err

    return run


def test_a_right_command_line_builds(run, tmp_path):
    run("DATASET.NUM_SHOTS", 1)
    assert "Parameters to be updated: prompt_learner.ctx" in (tmp_path / "out" / "log.txt").read_text()


@pytest.mark.parametrize(
    ("flags", "opts", "says"),
    [
        ({"root": "/nowhere/data"}, (), "/nowhere/data"),
        ({"backbone": "/nowhere/vit.pt"}, (), "/nowhere/vit.pt"),
        ({"backbone": "ViT-B/17"}, (), "ViT-B/16"),
        ({"trainer": "CoOpp"}, (), "CoOp"),
        ({"dataset_config_file": "configs/datasets/eurosatt.yaml"}, (), "eurosatt.yaml"),
        ({}, ("DATASET.NAME", "EuroSATT"), "EuroSAT"),
        ({}, ("OPTIM.LEARNING_RATE", "1"), "OPTIM.LEARNING_RATE"),
        ({}, ("OPTIM.MAX_EPOCH", "many"), "OPTIM.MAX_EPOCH"),
        ({}, ("OPTIM.MAX_EPOCH",), "OPTIM.MAX_EPOCH"),
        ({}, ("TRAINER.COOP.PREC", "fp8"), "fp8"),
        ({}, ("INPUT.SIZE", "(32, 32)"), "64"),
        ({}, ("DATASET.SUBSAMPLE_CLASSES", "old"), "old"),
        ({"output_dir": "/proc/out"}, (), "/proc/out"),
    ],
)
def test_a_mistake_is_said_in_one_line(run, flags, opts, says):
    with pytest.raises(UserError) as error:
        run(*opts, **flags)
    assert says in str(error.value) and "\n" not in str(error.value)


def test_class_names_that_do_not_match_are_named(run, files, tmp_path):
    images = files[0] / "data" / "eurosat" / "2750"
    names = tmp_path / "names.txt"
    names.write_text("c0 face\nc9 no such folder\n")
    with pytest.raises(UserError, match="names.txt"):
        run("DATASET.PATH", images, "DATASET.CLASSNAMES", names, dataset_config_file="configs/datasets/folder.yaml")


def test_the_program_exits_with_one_line():
    command = [sys.executable, "train.py", "--trainer", "Nobody", "--root", "/nowhere"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_seed_zero_is_a_seed():
    assert train.setup_cfg(train.parse_args(["--seed", "0"])).SEED == 0
    assert train.setup_cfg(train.parse_args([])).SEED == -1


def test_flags_win_over_files_and_pairs_over_flags(monkeypatch):
    monkeypatch.chdir(ROOT)
    args = [
        "--config-file",
        COOP,
        "--backbone",
        "RN50",
        "--transforms",
        "normalize",
        "--source-domains",
        "a",
        "b",
        "--seed",
        "1",
    ]
    cfg = train.setup_cfg(train.parse_args(args))
    assert cfg.MODEL.BACKBONE.NAME == "RN50"
    assert tuple(cfg.INPUT.TRANSFORMS) == ("normalize",) and tuple(cfg.DATASET.SOURCE_DOMAINS) == ("a", "b")
    assert train.setup_cfg(train.parse_args([*args, "MODEL.BACKBONE.NAME", "RN101"])).MODEL.BACKBONE.NAME == "RN101"
