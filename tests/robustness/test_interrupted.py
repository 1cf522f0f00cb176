"""Runs that are interrupted, on real processes: killed, out of disk space, started twice.

Expected values: the checkpoints of a run that nothing happened to, byte for byte. The long form of the first test:
`KILLS=36 pytest tests/robustness/test_interrupted.py -k killed`.
"""

from __future__ import annotations

import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from forked import fork_program, run_forked

from dassl.interruption import SAME_REQUEST_S

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


def test_interruptions_in_the_first_epoch_change_no_bit(tmp_path):
    """Two kills and a SIGTERM to the whole process group, each after a checkpoint within the first epoch.

    CoOp reads its images by two workers.
    """
    command = [sys.executable, str(KILLED_RUNS), str(tmp_path), "--first-epoch"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    assert [report["method"] for report in reports] == ["CoOp", "MaPLe", "ProMetaR", "PromptSRC"]
    for report in reports:
        assert report["statuses"] == [-signal.SIGKILL, -signal.SIGKILL, 128 + signal.SIGTERM]
        assert report["batches"] == sorted(set(report["batches"])) and report["files compared"] >= 4
    assert done.stderr.count("stopping after this step; Ctrl-C again stops at once") == 4


def stop_when_training(arguments, number, folder):
    """train.py in a process of its own that gets a signal after its second training line."""
    with (folder / "out.txt").open("w+") as out, (folder / "err.txt").open("w+") as err:
        process = fork_program(["train.py", *arguments], out, err)
        while (folder / "out.txt").read_text().count("\nepoch [") < 2:
            assert process.is_alive(), (folder / "err.txt").read_text()
            time.sleep(0.02)
        os.kill(process.pid, number)
        process.join(120)
        return process.exitcode, (folder / "err.txt").read_text().splitlines()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_where_it_is_and_how_to_continue(scene, tmp_path, number):
    arguments = [*scene.arguments("CoOp", tmp_path / "a b"), "OPTIM.MAX_EPOCH", "200"]
    status, said = stop_when_training(arguments, number, tmp_path)
    assert status == 128 + number
    assert said[-2:-1] == ["stopping after this step; Ctrl-C again stops at once"]
    name = "" if number == signal.SIGINT else " (SIGTERM)"
    stopped = re.fullmatch(
        rf"interrupted{re.escape(name)}: stopped (after .*); (.*); the same command continues: (.*)", said[-1]
    )
    assert stopped, said[-1]
    assert str(tmp_path) in stopped[2]
    assert shlex.split(stopped[3]) == ["python", "train.py", *arguments]
    assert not list(tmp_path.glob("a b/*/.*"))


def make_steps_slow():
    """From now on, a step of CoOp takes half a minute."""
    from trainers.coop import CoOp

    step = CoOp.forward_backward

    def slow(self, batch):
        print("epoch [a step begins]", flush=True)
        time.sleep(30)
        return step(self, batch)

    CoOp.forward_backward = slow


def test_a_second_ctrl_c_stops_at_once(scene, tmp_path):
    """The first waits for the end of the step, as half a second shows; the second does not."""
    out, err = tmp_path / "out.txt", tmp_path / "err.txt"
    with out.open("w+") as out_file, err.open("w+") as err_file:
        words = ["train.py", *scene.arguments("CoOp", tmp_path / "out")]
        process = fork_program(words, out_file, err_file, prepare=make_steps_slow)
        while "a step begins" not in out.read_text():
            assert process.is_alive(), err.read_text()
            time.sleep(0.02)
        os.kill(process.pid, signal.SIGINT)
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)  # `timeout` and some launchers send it twice: one request
        time.sleep(SAME_REQUEST_S + 0.1)
        assert process.is_alive()
        os.kill(process.pid, signal.SIGINT)
        started = time.monotonic()
        process.join(20)
    assert process.exitcode == 130 and time.monotonic() - started < 10
    assert [line for line in err.read_text().splitlines() if line][-2:] == [
        "stopping after this step; Ctrl-C again stops at once",
        "stopped at once",
    ]


def test_two_processes_give_the_same_bits(scene, tmp_path):
    """Also with another order of Python's sets."""
    results = []
    for hash_seed in ("1", "2"):
        output = tmp_path / hash_seed
        arguments = [*scene.arguments("CoOp", output), "OPTIM.MAX_EPOCH", "1"]
        done = run(["--deterministic", *arguments], env={"PYTHONHASHSEED": hash_seed})
        assert done.returncode == 0, done.stderr
        assert "deterministic: True" in done.stdout
        results.append((output / "prompt_learner" / "model.pth.tar-1").read_bytes())
    assert results[0] == results[1]


def test_a_full_disk_is_one_line(scene, tmp_path):
    """The system refuses files beyond 60 kB: prompts fit, the modulator of ProMetaR does not."""
    arguments = scene.arguments("ProMetaR", tmp_path / "out")
    small = 60_000
    done = run_forked(
        ["train.py", *arguments], prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (small, small))
    )
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
def test_ctrl_c_during_the_imports_is_one_line(program, tmp_path):
    """Ctrl-C comes while NumPy or PyTorch is imported, whichever is first; these here only wait for it."""
    for name in ("numpy", "torch"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("import time\nprint('importing', flush=True)\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, *program.split()],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert any(line == "importing\n" for line in process.stdout)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=60)[1] == "interrupted\n" and process.returncode == 130
