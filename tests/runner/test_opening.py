"""What a run prints before it starts, and how many threads it chooses."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import train
from clip.clip import file_without_download
from dassl.utils import BadValueError, threads
from runner.config import default_cfg
from runner.opening import WIDTH, config_lines, print_args

REPOSITORY = Path(__file__).resolve().parents[2]
METHOD = REPOSITORY / "configs/trainers/ProMetaR/vit_b16_c2_ep10_batch4_4+4ctx.yaml"


def configuration(*pairs):
    seed = () if "--seed" in pairs else ("--seed", "1")
    arguments = ["--trainer", "ProMetaR", "--config-file", str(METHOD), *seed, *pairs]
    args = train.parse_args(arguments)
    return args, train.setup_cfg(args)


def test_the_config_shows_differences_and_the_methods_node():
    _, cfg = configuration("OPTIM.LR", "0.5", "DATALOADER.TRAIN_X.BATCH_SIZE", "3")
    lines = config_lines(cfg, default_cfg())
    text = " ".join(line.strip() for line in lines)
    assert all(len(line) <= WIDTH for line in lines) and len(lines) < 25
    assert "SEED: 1" in lines and "OPTIM: LR 0.5" in text and "TRAIN_X.BATCH_SIZE 3" in text
    assert "DIM_RATE 8" in text  # a default, but the method's
    for absent in ("MOMENTUM", "CIFAR", "COCOOP", "COOP", "FIXMATCH", "VERBOSE"):
        assert absent not in text


def test_the_trainer_of_another_repository_has_its_node_by_its_name():
    _, cfg = configuration("TRAINER.NAME", "CDAC")
    text = " ".join(line.strip() for line in config_lines(cfg, default_cfg()))
    assert "TRAINER.CDAC: CLASS_LR_MULTI 10, P_THRESH 0.95" in text and "FIXMATCH" not in text


@pytest.mark.parametrize(
    ("flags", "place"),
    [
        (["OUTPUT_DIR", "out"], "config.yaml in out"),
        (["--eval-only", "OUTPUT_DIR", "out"], "full_config in result.json in out"),
        (["--output-dir", "out"], "config.yaml"),
    ],
)
def test_arguments_that_were_not_given_are_left_out(capsys, flags, place):
    args, cfg = configuration(*flags)
    print_args(args, cfg, default_cfg())
    arguments, _, config = capsys.readouterr().out.partition("** Config **")
    assert "seed: 1" in arguments and "trainer: ProMetaR" in arguments
    assert not any(word in arguments for word in ("backbone", "logger", "setting"))
    assert f"; all: {place})\n" in config


def test_what_the_arguments_say_is_not_said_again(capsys):
    args, cfg = configuration("--seed", "0", "--output-dir", "a", "OUTPUT_DIR", "b")
    print_args(args, cfg, default_cfg())
    arguments, _, config = capsys.readouterr().out.partition("** Config **")
    assert "output_dir: a" in arguments and "seed: 0, trainer: ProMetaR\nopts: OUTPUT_DIR b\n" in arguments
    assert "SEED" not in config and "NAME 'ProMetaR'" not in config and "OUTPUT_DIR: b\n" in config


def test_the_first_line_comes_before_pytorch():
    """Python names each module that it has imported on stderr, in order with what the program prints."""
    done = subprocess.Popen(
        [sys.executable, "-X", "importtime", "train.py", "--trainer", "CoOp"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    lines = []
    for line in done.stdout:
        lines.append(line)
        if "loading PyTorch" in line:
            break
    done.kill()
    done.communicate()
    assert lines[-1] == "CoOp: loading PyTorch\n"
    assert not any("torch" in line or "numpy" in line for line in lines[:-1])


# Threads


@pytest.fixture
def machine(monkeypatch):
    """A machine with 8 cores, of which some are busy, without OMP_NUM_THREADS; the threads are restored."""
    before = torch.get_num_threads()
    torch.set_num_threads(8)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(threads, "usable_cores", lambda: 8)

    def busy(load):
        monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))

    yield busy
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("load", "weights", "deterministic", "expected"),
    [
        (0.0, 3 << 20, False, 1),  # the embedded model
        (0.2, 340 << 20, False, 8),
        (5.9, 340 << 20, False, 2),
        (99.0, 340 << 20, False, 1),
        (5.9, 340 << 20, True, 8),  # the number must not depend on what else runs
        (5.9, None, False, 2),
    ],
)
def test_the_number_of_threads(machine, load, weights, deterministic, expected):
    machine(load)
    said = threads.use_threads(None, weights, deterministic)
    assert torch.get_num_threads() == expected
    assert said.startswith(f"Threads: {expected} (") and said.endswith("; --threads N changes it)")


def test_the_user_decides(machine, monkeypatch):
    machine(0.0)
    assert threads.use_threads(3, None, False) == "Threads: 3 (--threads)" and torch.get_num_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads.use_threads(None, 1, False) == "Threads: 3 (OMP_NUM_THREADS)" and torch.get_num_threads() == 3
    assert threads.use_threads(3, 1, False) == "Threads: 3 (OMP_NUM_THREADS)"
    with pytest.raises(BadValueError, match="--threads 4 contradicts OMP_NUM_THREADS=3: leave one of them out"):
        threads.use_threads(4, 1, False)


def test_the_size_of_the_embedded_model_is_known():
    assert os.path.getsize(file_without_download("ViT-Shapes")) < threads.SMALL_MODEL_BYTES
    assert file_without_download("ViT-B/16") is None
