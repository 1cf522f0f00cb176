"""Every command line: its help, its speed, and the command `prometar`."""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from forked import run_forked

import parse_test_res
import prometar
import runner.arguments
from datasets import check, prepare
from deploy import arguments as deploy_arguments
from deploy.export import FORMATS
from experiments import arguments as experiment_arguments
from experiments.plan.methods import METHODS
from runner.result import PARTS
from tools import benchmark
from trainers.core.facts import ALL_SETTINGS

ROOT = Path(prometar.__file__).parent


def subparsers_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (action,) = [each for each in parser._actions if isinstance(each, argparse._SubParsersAction)]
    return dict(action.choices)


SUBPARSERS = subparsers_of(experiment_arguments.make_parser())
PARSERS = {
    "train": runner.arguments.make_parser(),
    "predict": deploy_arguments.make_predict_parser(),
    "export": deploy_arguments.make_export_parser(),
    "check": check.make_check_parser(),
    "prepare": prepare.make_prepare_parser(),
    "benchmark": benchmark.make_parser(),
    "parse_test_res": parse_test_res.make_parser(),
    "web": deploy_arguments.make_web_parser(),
    **subparsers_of(deploy_arguments.make_hub_parser()),
    **SUBPARSERS,
}
SCRIPTS = sorted((ROOT / "scripts").rglob("*.sh"))
SOURCED = {"setup.sh", "help.sh"}


@pytest.mark.parametrize("name", PARSERS)
def test_every_flag_is_explained_with_its_default(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    parser = PARSERS[name]
    text = parser.format_help()
    assert "example" in parser.epilog and parser.command in parser.epilog
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        assert action.help, action
        if action.option_strings and action.nargs != 0 and not action.required:
            entry = re.search(rf"^  {action.option_strings[-1]} .*?(?=^  -|^$)", text, re.MULTILINE | re.DOTALL)
            assert entry and "(default: " in entry[0], action.option_strings


@pytest.mark.parametrize("name", PARSERS)
def test_help_fits_a_terminal_of_100_columns(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert [line for line in PARSERS[name].format_help().splitlines() if len(line) > 100] == []


def test_one_name_for_one_thing():
    """The places that commands share have the lineage's flags, and the earlier names still work."""
    flags = {name: parser._option_string_actions for name, parser in PARSERS.items()}
    assert all(
        "--model-dir" in flags[name] and "--checkpoint" in flags[name] for name in ("train", "predict", "export")
    )
    assert all("--root" in flags[name] and "--data" in flags[name] for name in ("train", "check", "prepare", "run"))
    for name in ("train", "export", "run", "report"):
        assert flags[name]["--output-dir"] is flags[name]["--output"] is flags[name]["--to"]
    shown = {word for parser in PARSERS.values() for action in parser._actions for word in action.option_strings}
    assert not shown & {"--checkpoint", "--data", "--output", "--to"}


def test_lists_that_the_help_repeats_are_complete():
    assert set(experiment_arguments.SETTINGS) == set(PARTS) == {*ALL_SETTINGS, "other"}
    assert set(experiment_arguments.KINDS) == {part for parts in PARTS.values() for part in parts}
    assert set(deploy_arguments.GRAPH_FORMATS) == set(FORMATS)
    assert set(METHODS) <= {path.name for path in (ROOT / "scripts").iterdir()}


def called(*words, cwd=ROOT, **environment):
    return subprocess.run(
        list(map(str, words)), cwd=cwd, capture_output=True, text=True, timeout=120, env=dict(os.environ) | environment
    )


@pytest.mark.parametrize("name", [*prometar.COMMANDS, "parse_test_res", "one"])
def test_help_imports_nothing_slow(name, tmp_path):
    program = {"parse_test_res": ["parse_test_res.py"], "one": ["-m", "experiments", "one"]}.get(name)
    words = program or ["prometar.py", name]
    result = called(sys.executable, *words, "--help", PYTHONPROFILEIMPORTTIME="1")
    assert result.returncode == 0 and result.stdout.startswith("usage: ")
    assert program or f"usage: prometar {name} " in result.stdout
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "argparse" in imported and not imported & {"torch", "numpy", "pandas", "PIL", "matplotlib"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(ROOT / "scripts")))
def test_every_script_answers_help(script, tmp_path):
    if script.name in SOURCED:
        assert "Sourced by the other scripts" in script.read_text()
        return
    result = called("bash", script, "--help", cwd=tmp_path)
    assert (result.returncode, result.stderr) == (0, "") and not list(tmp_path.iterdir())
    assert all(len(line) <= 100 for line in result.stdout.splitlines())
    own = str(script.relative_to(ROOT))
    assert f"bash {own}" in result.stdout
    if script.parent.name in METHODS and "run.sh" in script.read_text() and "help.sh" not in script.read_text():
        assert result.stdout.startswith(f"usage: bash {own} ") and "DATA     folder" in result.stdout


# The command


def test_the_command_runs_the_programs(tmp_path):
    """From another folder, where `python prometar.py` stands for the installed command."""
    result = called(sys.executable, ROOT / "prometar.py", "report", "nothing", cwd=tmp_path)
    says = f"error: no such folder: nothing; {tmp_path} has no folders\n"
    assert (result.returncode, result.stderr) == (1, says), result.stderr
    result = run_forked(["prometar.py", "check", "--root", tmp_path / "none"], tmp_path)
    assert result.returncode == 1 and "is missing; check --root" in result.stderr


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ([], 2, "no command: choose from train, predict"),
        (["trian"], 2, "unknown command trian: did you mean train?"),
        (["train", "--trainr", "x"], 2, "did you mean --trainer? (prometar train --help"),
        (["run", "x.yaml", "--sedes", "1"], 2, "did you mean --seeds? (prometar run --help"),
    ],
)
def test_a_mistake_is_one_line(words, status, says):
    result = called(sys.executable, "prometar.py", *words)
    assert result.returncode == status and says in result.stderr and result.stderr.count("\n") == 1


def test_the_help_names_every_command():
    text = prometar.help_text()
    assert all(re.search(rf"^  {name} +\w", text, re.MULTILINE) for name in prometar.COMMANDS)


def test_a_missing_package_is_one_line(monkeypatch):
    def lacks(name, arguments):
        raise ModuleNotFoundError("No module named 'absent_package'", name="absent_package.part")

    monkeypatch.setattr(prometar, "run", lacks)
    monkeypatch.setattr(sys, "argv", ["prometar", "train"])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit, match=r"absent_package.part is missing: pip install -e '.\[clip\]'"):
        prometar.main()


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_only_an_editable_install_has_the_command(kind, tmp_path):
    """The wheel, which other repositories install in place of Dassl, is `dassl` alone."""
    for name in ("pyproject.toml", "setup.py", "prometar.py", "LICENSE", "NOTICE"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copytree(ROOT / "dassl", tmp_path / "dassl", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "train.py").touch()  # further files of a clone
    (tmp_path / "clip").mkdir()
    (tmp_path / "clip" / "__init__.py").touch()
    build = f"from setuptools import build_meta; build_meta.build_{kind}('built')"
    (tmp_path / "built").mkdir()
    result = called(sys.executable, "-c", build, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (file,) = (tmp_path / "built").iterdir()
    with zipfile.ZipFile(file) as wheel:
        names = wheel.namelist()
        entry_points = [wheel.read(name).decode() for name in names if name.endswith("/entry_points.txt")]
        tops = {name.partition("/")[0] for name in names}
    if kind == "wheel":
        assert entry_points == [] and tops == {"dassl", "dassl-1.0.0.dist-info"}
    else:
        assert [text.split() for text in entry_points] == [["[console_scripts]", "prometar", "=", "prometar:main"]]
