"""Several runs on each GPU: how many, and CUDA's MPS around them; nvidia-smi and the daemon are small scripts."""

from __future__ import annotations

import argparse
import os
import stat
from pathlib import Path

import pytest
import torch
from stand_in import install, lay_out

from dassl.utils import UserError
from experiments import __main__ as program
from experiments.launch import command as launch
from experiments.launch import gpus, launcher
from experiments.launch.launcher import Launch
from experiments.launch.workers import make_workers

DAEMON = """#!/bin/sh
log={folder}/daemon.log
echo "args=$* pipe=$CUDA_MPS_PIPE_DIRECTORY visible=$CUDA_VISIBLE_DEVICES" >> $log
[ "$1" = "-d" ] && {{ {start}; }}
read command && echo "command=$command" >> $log
exit {answer}
"""


@pytest.fixture
def path_folder(tmp_path, monkeypatch):
    """The first folder of PATH; nothing of the machine's CUDA is seen."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}/usr/bin{os.pathsep}/bin")
    for name in ("CUDA_MPS_PIPE_DIRECTORY", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return folder


def script(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def nvidia_smi(folder: Path, *free: int) -> None:
    lines = "\\n".join(f"{k}, GPU-{k}{k}-uuid, {mib}" for k, mib in enumerate(free))
    script(folder / "nvidia-smi", f"#!/bin/sh\nprintf '{lines}\\n'\n")


@pytest.fixture
def daemon(path_folder):
    """Installs a daemon that starts, or does `start` instead, and answers with status `answer`; gives its log."""

    def install(start="exit 0", answer=0):
        script(path_folder / gpus.MPS_CONTROL, DAEMON.format(folder=path_folder, start=start, answer=answer))

    install()
    install.log = lambda: (path_folder / "daemon.log").read_text().splitlines()
    return install


@pytest.mark.parametrize(
    ("free", "visible", "cores", "expected"),
    [
        ([81920], ["0"], 64, 6),  # 80 GiB
        ([81920], ["0"], 16, 4),
        ([81920, 30000], ["0", "1"], 64, 2),  # the same number on each
        ([81920, 30000], ["0"], 64, 6),
        ([200000], ["0"], 256, gpus.MOST_PER_GPU),
        ([8000], ["0"], 64, 1),
        ([81920], ["0"], 2, 1),
        ([81920, 30000], ["GPU-11"], 64, 2),  # by the beginning of a UUID
        ([81920], ["MIG-7"], 64, 1),  # not in nvidia-smi's list
    ],
)
def test_the_number_of_runs_on_a_gpu(path_folder, free, visible, cores, expected):
    nvidia_smi(path_folder, *free)
    assert gpus.runs_per_gpu(visible, cores) == expected


@pytest.mark.parametrize("answer", [None, "exit 9", "echo no devices were found", "sleep 5"])
def test_where_the_memory_is_not_known_it_is_one(path_folder, answer, monkeypatch):
    monkeypatch.setattr(gpus, "SECONDS_TO_ANSWER", 0.3)
    if answer:
        script(path_folder / "nvidia-smi", f"#!/bin/sh\n{answer}\n")
    assert gpus.runs_per_gpu(["0"], 64) == 1


def test_workers_that_share_a_gpu(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)))
    workers = make_workers(None, per_gpu=3)
    assert [worker.environment["CUDA_VISIBLE_DEVICES"] for worker in workers] == ["0", "1"] * 3
    assert {worker.environment["OMP_NUM_THREADS"] for worker in workers} == {"2"}  # 12 cores for 6 runs
    assert all("OMP_NUM_THREADS" not in worker.environment for worker in make_workers(None))


def test_the_service_runs_as_long_as_the_launch(daemon, capsys, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with gpus.shared_gpus(4) as variables:
        folder = variables["CUDA_MPS_PIPE_DIRECTORY"]
        assert Path(folder).is_dir()
        assert daemon.log() == [f"args=-d pipe={folder} visible=", f"args= pipe={folder} visible=3", GET]
    assert daemon.log()[3:] == [f"args= pipe={folder} visible=3", "command=quit"]
    assert not Path(folder).exists()
    assert capsys.readouterr().out == "4 runs share each GPU through MPS\n"


GET = "command=get_server_list"


def test_it_is_stopped_after_an_interrupt_too(daemon):
    with pytest.raises(KeyboardInterrupt), gpus.shared_gpus(2):
        raise KeyboardInterrupt
    assert daemon.log()[-1] == "command=quit"


@pytest.mark.parametrize(
    ("start", "why"),
    [
        ("echo permission denied >&2; exit 3", "nvidia-cuda-mps-control ended with status 3: permission denied"),
        ("sleep 5", "timed out"),
    ],
)
def test_without_the_service_runs_take_turns(daemon, start, why, capsys, monkeypatch):
    monkeypatch.setattr(gpus, "SECONDS_TO_ANSWER", 0.5)
    daemon(start)
    with gpus.shared_gpus(2) as variables:
        assert variables == {}
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("2 runs take turns on each GPU, without MPS: ") and why in line
    assert not any("quit" in entry for entry in daemon.log())


def test_a_service_that_does_not_answer_is_stopped(daemon, capsys):
    daemon(answer=1)
    with gpus.shared_gpus(2) as variables:
        assert variables == {}
        assert daemon.log()[-1] == "command=quit"
    assert "without MPS: nvidia-cuda-mps-control get_server_list: " in capsys.readouterr().out


def test_where_it_is_not_installed(path_folder, capsys):
    with gpus.shared_gpus(2) as variables:
        assert variables == {}
    assert capsys.readouterr().out.endswith("nvidia-cuda-mps-control is not installed\n")


def test_nothing_is_started_for_one_run_or_beside_the_user_s_own(daemon, monkeypatch, path_folder):
    with gpus.shared_gpus(1) as variables:
        assert variables == {}
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "/somewhere")
    with gpus.shared_gpus(4) as variables:
        assert variables == {}
    assert not (path_folder / "daemon.log").exists()


FILE = "configs/experiments/embedded_base2new.yaml"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--per-gpu", "0"], "--per-gpu should be at least 1, not 0"),
        (["--per-gpu", "2"], "--per-gpu needs a GPU, and PyTorch sees none: use --workers"),
        (["--per-gpu", "2", "--workers", "3"], "--per-gpu and --workers exclude each other"),
        (["--per-gpu", "2", "--launcher", "slurm"], "--per-gpu and --launcher slurm exclude each other"),
    ],
)
def test_numbers_that_make_no_sense(options, message, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=message):
        program.main(["run", FILE, "--dry-run", *options])


def test_a_launch_on_a_shared_gpu(daemon, tmp_path, monkeypatch, capsys):
    """Three of four runs at once on one GPU, in the service's environment, which is stopped at the end."""
    program_folder, environments = tmp_path / "program", []
    program_folder.mkdir()
    monkeypatch.setattr(launcher, "TRAIN_PROGRAM", install(program_folder) / "train.py")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)

    class Watched(Launch):
        def _submit(self, run, worker):
            lay_out(run)
            environments.append(worker.environment)
            return super()._submit(run, worker)

    monkeypatch.setattr(launch, "Launch", Watched)
    declared = tmp_path / "few.yaml"
    declared.write_text("trainers: [coop, vpt]\nseeds: [1, 2]\nsettings: {few_shot: {datasets: [eurosat], shots: 1}}\n")
    places = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out")]
    assert program.main(["run", str(declared), *places, "--per-gpu", "3"]) == 0
    (pipe,) = {environment["CUDA_MPS_PIPE_DIRECTORY"] for environment in environments}
    assert len(environments) == 4 and {environment["CUDA_VISIBLE_DEVICES"] for environment in environments} == {"0"}
    assert daemon.log()[0].startswith(f"args=-d pipe={pipe} ") and daemon.log()[-1] == "command=quit"
    printed = capsys.readouterr().out
    assert "3 runs share each GPU through MPS" in printed and "4/4" in printed
    assert program.main(["run", str(declared), *places, "--per-gpu", "3"]) == 0  # nothing left: no service
    assert len(daemon.log()) == 5 and len(environments) == 4


def test_the_number_is_chosen_where_none_is_given(path_folder, monkeypatch):
    nvidia_smi(path_folder, 81920)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    args = argparse.Namespace(per_gpu=None, workers=None)
    assert launch.runs_at_a_time(args) == 4
    assert launch.runs_at_a_time(argparse.Namespace(per_gpu=2, workers=None)) == 2
    assert launch.runs_at_a_time(argparse.Namespace(per_gpu=None, workers=3)) == 1  # so many in all
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert launch.runs_at_a_time(args) == 1
