"""train.py: flags, and one clear line for each mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run_forked

import train
from dassl.utils import UserError
from experiments.launch.command import parameters
from experiments.launch.single import read_request

ROOT = Path(train.__file__).parent
COOP = "configs/trainers/CoOp/vit_b16_ep50_ctxv1.yaml"


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
        ({}, ("INPUT.TRANSFORMS", "(crop,)"), "crop"),
        ({}, ("MODEL.INIT_WEIGHTS", "/nowhere/prompts.pth"), "/nowhere/prompts.pth"),
        ({}, ("OPTIM.NAME", "sdg"), "sdg"),
    ],
)
def test_a_mistake_is_said_in_one_line_and_leaves_no_folder(run, flags, opts, says, tmp_path):
    flags = {"output_dir": tmp_path / "new" / "out"} | flags
    with pytest.raises(UserError) as error:
        run(*opts, **flags)
    assert says in str(error.value) and "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_a_mistake_leaves_a_used_folder_as_it_is(run, tmp_path):
    run("DATASET.NUM_SHOTS", 1)
    log = (tmp_path / "out" / "log.txt").read_bytes()
    with pytest.raises(UserError):
        run("TRAINER.COOP.PREC", "fp8")
    assert (tmp_path / "out" / "log.txt").read_bytes() == log


@pytest.mark.parametrize("words", [("--eval-only",), ("--resume", "/nowhere/run"), ("--extend",)])
def test_a_run_that_cannot_begin_leaves_no_folder(files, tmp_path, monkeypatch, words):
    monkeypatch.chdir(ROOT)
    given = ["--root", files[0] / "data", "--trainer", "CoOp", "--backbone", files[1], "--config-file", COOP]
    given += ["--dataset-config-file", "configs/datasets/eurosat.yaml", "--output-dir", tmp_path / "new" / "out"]
    out, err = sys.stdout, sys.stderr
    try:
        with pytest.raises(UserError):
            train.main(train.parse_args([*map(str, given), *words, "INPUT.SIZE", "(64, 64)", "USE_CUDA", "False"]))
    finally:
        sys.stdout, sys.stderr = out, err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("nowhere/run", "nowhere/run does not exist; TMP has the folders runs"),
        ("runs", "TMP/runs has no trained model"),
    ],
)
def test_a_wrong_model_folder_is_named_before_other_settings(tmp_path, folder, says):
    """Without the model's record, the backbone and other settings are missing, which would mislead."""
    (tmp_path / "runs").mkdir()
    words = ["--trainer", "CoOp", "--eval-only", "--model-dir", str(tmp_path / folder), "DATASET.NAME", "EuroSAT"]
    with pytest.raises(UserError) as error:
        train.main(train.parse_args(words))
    expected = f"no trained model for --model-dir {tmp_path / folder}: "
    assert str(error.value).startswith(expected) and says.replace("TMP", str(tmp_path)) in str(error.value)


def test_class_names_that_do_not_match_are_named(run, files, tmp_path):
    images = files[0] / "data" / "eurosat" / "2750"
    names = tmp_path / "names.txt"
    names.write_text("c0 face\nc9 no such folder\n")
    with pytest.raises(UserError, match="names.txt"):
        run("DATASET.PATH", images, "DATASET.CLASSNAMES", names, dataset_config_file="configs/datasets/folder.yaml")


def program(*words, cwd=ROOT, **environment):
    """The result of train.py as a program; DATA is unset."""
    command = [sys.executable, ROOT / "train.py", *words]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120, env=without_data(environment))


def without_data(environment):
    return {name: value for name, value in os.environ.items() if name != "DATA"} | environment


def test_a_bare_command_gives_the_usage_at_once_and_makes_nothing(tmp_path):
    result = program(cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert result.returncode == 2 and "usage: train.py" in result.stderr and not list(tmp_path.iterdir())
    assert "argparse" in result.stderr and "torch" not in result.stderr


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        (("--seed", "-1"), 2, "from 0 to"),
        (("--output-dir", ""), 2, "--output-dir has an empty value"),
        (("--trainr", "CoOp"), 2, "did you mean --trainer?"),
        (("--transforms", "normalize", "OPTIM.LR", "0.1"), 2, "--transforms would take OPTIM.LR"),
        (("--seed", "1"), 1, "which trainer? give --trainer"),
        (("--trainer", "CoOp"), 1, "which data set? give --dataset-config-file"),
        (("--trainer", "CoOp", "DATASET.NAME", "EuroSAT", "--seed", "1"), 1, "flags go before the KEY VALUE pairs"),
        (("--trainer", "CoOp", "DATASET.NAME=EuroSAT"), 1, "DATASET.NAME EuroSAT, not DATASET.NAME=EuroSAT"),
        (("--trainer", "CoOp", "DATASET.NAME", "EuroSAT", "COOP.N_CTX", "4"), 1, '"TRAINER.COOP.N_CTX"'),
        (("--trainer", "CoOp", "DATASET.NAME", "EuroSAT", "SEED", str(2**32)), 1, "SEED must be at most 4294967295"),
    ],
)
def test_a_mistake_ends_the_program_before_anything_is_made(words, status, says, tmp_path):
    result = run_forked(["train.py", *words], tmp_path, without_data({}))
    assert result.returncode == status and says in result.stderr and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_data_sets_are_not_looked_for_in_the_current_folder(tmp_path):
    result = run_forked(["train.py", "--trainer", "CoOp", "DATASET.NAME", "EuroSAT"], tmp_path, without_data({}))
    assert result.returncode == 1 and "give --root DATA, or set the variable DATA" in result.stderr
    assert not list(tmp_path.iterdir())


def test_the_program_exits_with_one_line(tmp_path):
    result = program("--trainer", "Nobody", "--root", "/nowhere", "DATASET.NAME", "EuroSAT", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_seed_zero_is_a_seed():
    assert train.setup_cfg(train.parse_args(["--seed", "0"])).SEED == 0
    assert train.setup_cfg(train.parse_args([])).SEED == -1


@pytest.mark.parametrize("written", ["mine", "./mine/", "sub/../mine", "~/mine"])
def test_the_path_of_own_data_is_absolute(monkeypatch, tmp_path, written):
    """A record with a relative path would mean other data in another working directory."""
    for name in ("here", "there"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        monkeypatch.setenv("HOME", str(folder))
        assert str(folder / "mine") == train.setup_cfg(train.parse_args(["DATASET.PATH", written])).DATASET.PATH
    absolute = str(tmp_path / "mine.csv")
    assert absolute == train.setup_cfg(train.parse_args(["DATASET.PATH", absolute])).DATASET.PATH
    assert train.setup_cfg(train.parse_args([])).DATASET.PATH == ""


def test_the_path_of_own_data_in_a_file_is_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("DATASET:\n  PATH: images\n")
    cfg = train.setup_cfg(train.parse_args(["--dataset-config-file", "mine.yaml"]))
    assert str(tmp_path / "images") == cfg.DATASET.PATH


@pytest.mark.parametrize("text", ["²", "1_0", "-1", "one", "9" * 5000])
def test_a_seed_of_a_script_is_a_number(text):
    with pytest.raises(UserError, match="^SEED should be a number, not"):
        read_request("train_base", "coop", ["eurosat", text])


def test_numbers_of_slurm_are_numbers():
    pairs = ["slurm_mem=64", "slurm_partition=gpu²", "slurm_array=²", "slurm_time=٦٠"]
    assert parameters(pairs) == {"slurm_mem": 64, "slurm_partition": "gpu²", "slurm_array": "²", "slurm_time": 60}


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
