"""Runs that are interrupted, on real processes: killed, out of disk space, started twice.

Expected values: the checkpoints of a run that nothing happened to, byte for byte. The long form of the first test:
`KILLS=36 pytest tests/robustness/test_interrupted.py -k killed`.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[2]
KILLED_RUNS = REPOSITORY / "tests" / "helpers" / "killed_runs.py"


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    from killed_runs import Scene

    return Scene(tmp_path_factory.mktemp("scene"))


def run(arguments, **options):
    """train.py in a process of its own."""
    return subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | options.pop("env", {}),
        capture_output=True,
        text=True,
        timeout=300,
        **options,
    )


def test_killed_runs_end_as_if_nothing_had_happened(tmp_path):
    kills = int(os.environ.get("KILLS", "4"))  # 30 and more: a quarter of them for each of four methods
    methods = ["ProMetaR", "PromptSRC"] if kills < 30 else ["CoOp", "MaPLe", "ProMetaR", "PromptSRC"]
    command = [sys.executable, str(KILLED_RUNS), str(tmp_path), "--kills", str(kills), "--methods", *methods]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert sum(report["kills"] for report in reports) == kills
    # one checkpoint an epoch and the file that names the last one; MaPLe: every second and the best; ProMetaR: phi too
    expected = {"CoOp": 5, "MaPLe": 4, "ProMetaR": 10, "PromptSRC": 5}
    assert {report["method"]: report["files compared"] for report in reports} == {
        method: expected[method] for method in methods
    }


def test_two_processes_give_the_same_bits(scene, tmp_path):
    """Also with another order of Python's sets."""
    results = []
    for hash_seed in ("1", "2"):
        output = tmp_path / hash_seed
        arguments = [*scene.arguments("CoOp", output), "OPTIM.MAX_EPOCH", "1"]
        done = run(["--deterministic", *arguments], env={"PYTHONHASHSEED": hash_seed})
        assert done.returncode == 0, done.stderr
        assert "DETERMINISTIC: True" in done.stdout
        results.append((output / "prompt_learner" / "model.pth.tar-1").read_bytes())
    assert results[0] == results[1]


def test_a_full_disk_is_one_line(scene, tmp_path):
    """The system refuses files beyond 60 kB: prompts fit, the modulator of ProMetaR does not."""
    arguments = scene.arguments("ProMetaR", tmp_path / "out")
    small = 60_000
    done = run(arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (small, small)))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(f"error: cannot write {tmp_path}/out/GradientModulator/model.pth")
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("*/.*"))


def test_skipped_updates_are_reported(scene, tmp_path, capsys, monkeypatch):
    """A loss scale of 1e38 makes float32 gradients overflow; each such update halves it."""
    import train
    from trainers.core.precision import Precision

    monkeypatch.setattr(
        Precision, "grad_scaler", lambda self: torch.amp.GradScaler("cpu", init_scale=2.0**125, backoff_factor=2.0**-30)
    )
    train.main(train.parse_args([*scene.arguments("CoOp", tmp_path / "out"), "OPTIM.MAX_EPOCH", "1"]))
    printed = capsys.readouterr().out
    assert "float16 overflow: 1 of 3 updates of epoch 1 skipped, loss scale now 3.96141e+28" in printed  # 2 ** 95


@pytest.mark.parametrize(
    "program",
    [
        "train.py --trainer CoOp",
        "predict.py --checkpoint nowhere --images nowhere",
        "export.py --checkpoint nowhere --output nowhere",
        "-m experiments run nowhere.yaml",
        "-m datasets.check --root nowhere",
        "-m datasets.prepare --list",
        "-m shapes_world.generate --root nowhere",
        "-m tools.benchmark --backbone nowhere",
    ],
)
def test_ctrl_c_during_the_imports_is_one_line(program):
    """Python names each module that it has imported on stderr; Ctrl-C comes after the first of NumPy's or PyTorch's."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", *program.split()],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = next(line for line in process.stderr if re.search(r"\b(numpy|torch)\b", line))
    process.send_signal(signal.SIGINT)
    said = [line for line in process.communicate(timeout=60)[1].splitlines() if not line.startswith("import time:")]
    assert line and said == ["interrupted"] and process.returncode == 130
