"""The command lines of `python -m experiments`. Imports nothing slow, so that mistakes are reported at once."""

from __future__ import annotations

import argparse
import ast
import os
import textwrap
from pathlib import Path

from dassl.command_line import ArgumentParser, seed_number

PROGRAM = "python -m experiments"
LAUNCHERS = ("local", "slurm")
SETTINGS = ("base2new", "few_shot", "cross_dataset", "domain_generalization", "other")
"""As in `runner.result.PARTS`."""
KINDS = ("train_base", "test_new", "test_all", "source", "target", "all")
"""Parts of the settings, for `one`."""

_RUN = """Plans the declared runs, leaves out those that have finished, and does the rest.

A run has finished when its folder has a result of the planned configuration. After Ctrl-C or `kill` the same command
continues. The exit status is 0 when every run has finished."""
_ONE = """A single run in the foreground: what scripts/<method>/*.sh call.

  one train_base METHOD DATASET SEED [CFG [KEY VALUE ...]]      base2new_train.sh
  one test_new METHOD DATASET SEED [CFG [KEY VALUE ...]]        base2new_test.sh
  one test_all METHOD DATASET SEED [CFG [KEY VALUE ...]]        base2new_test.sh
  one source METHOD [DATASET] SEED [CFG [KEY VALUE ...]]        xd_train.sh
  one target METHOD DATASET SEED [CFG [KEY VALUE ...]]          xd_test.sh
  one all METHOD DATASET SHOTS SEED [CFG [KEY VALUE ...]]       few_shot.sh

DATA (default: data) is the folder of the data sets, OUTPUT (default: output) the folder of the results; SHOTS (default:
16) and SOURCE (of `target`; default: imagenet, or shapes for generated data) come from the environment as well. A
finished run is not run again; an interrupted one continues from its last checkpoint."""
_REPORT = "Tables of an output folder on the terminal and as files; what cannot be used is named on stderr."


def make_parser() -> ArgumentParser:
    """The parser of `python -m experiments`."""
    parser = ArgumentParser(
        prog=PROGRAM,
        description="Experiments from declaration to report.",
        examples=("run embedded_base2new.yaml", "report output", "one train_base prometar shapes 1"),
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_report(commands)
    _add_one(commands)
    _add_figures(commands)
    return parser


def _add_run(commands: argparse._SubParsersAction[ArgumentParser]) -> None:
    parser = commands.add_parser(
        "run",
        help="do the runs that files declare",
        description=_RUN,
        examples=(
            "configs/experiments/embedded_base2new.yaml --workers 2",
            "configs/experiments/paper_base2new.yaml --per-gpu 4",
            "configs/experiments/paper_base2new.yaml --dry-run",
            "configs/experiments/paper_base2new.yaml --launcher slurm \\\n"
            "      --slurm slurm_partition=gpu timeout_min=600 gpus_per_node=1 cpus_per_task=8",
        ),
    )
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE.yaml", help="declared experiments")
    add("--root", default=os.environ.get("DATA") or "data", help="folder of the data sets (default: $DATA or data)")
    add("--output-dir", default=os.environ.get("OUTPUT") or "output", help="results (default: $OUTPUT or output)")
    add("--workers", type=int, help="runs at a time (default: see --per-gpu; without a GPU one per CPU core)")
    add("--per-gpu", type=int, metavar="N", help="runs at a time on each GPU (default: by memory and CPU cores)")
    add("--dry-run", action="store_true", help="print the commands; each works alone")
    add(
        "--trainers",
        nargs="+",
        default=(),
        metavar="METHOD",
        help="only these methods, by the names of the folders in scripts/ (default: all that are declared)",
    )
    add(
        "--settings",
        nargs="+",
        default=(),
        metavar="SETTING",
        help=f"only these of {', '.join(SETTINGS[:-1])} (default: all that are declared)",
    )
    add("--datasets", nargs="+", default=(), metavar="DATASET", help="only these data sets (default: all)")
    add("--seeds", nargs="+", default=(), type=seed_number, metavar="SEED", help="only these seeds (default: all)")
    add("--launcher", choices=LAUNCHERS, default="local", help="on this machine or through Slurm (default: local)")
    add("--slurm", nargs="+", default=(), metavar="KEY=VALUE", help="submitit's parameters of the jobs (default: none)")
    add("--no-wait", action="store_true", help="with --launcher slurm: submit and return")


def _add_report(commands: argparse._SubParsersAction[ArgumentParser]) -> None:
    parser = commands.add_parser(
        "report",
        help="tables and figures of all finished runs",
        description=_REPORT,
        examples=("output", "output --settings base2new --datasets eurosat dtd", "output --baseline IVLP"),
    )
    add = parser.add_argument
    add("output", nargs="?", type=Path, default=Path("output"), help="folder of the runs")
    add("--output-dir", type=Path, help="folder of the report's files (default: report in the folder of the runs)")
    add(
        "--settings",
        nargs="+",
        choices=SETTINGS,
        action="extend",
        metavar="SETTING",
        help=f"only these of {', '.join(SETTINGS)} (default: all)",
    )
    add(
        "--datasets",
        nargs="+",
        action="extend",
        metavar="DATASET",
        help="only these data sets, by the names of their config files (default: all)",
    )
    for old, new in (("--setting", "settings"), ("--dataset", "datasets")):  # earlier flags, each with a single value
        choices = SETTINGS if new == "settings" else None
        add(old, dest=new, choices=choices, action="append", help=argparse.SUPPRESS)
    add("--baseline", help="method that the others are compared with, such as IVLP (default: none)")
    add("--no-figures", action="store_true", help="write no PDF and PNG files of the figures")
    add("--terminal-only", action="store_true", help="write no files")


def _add_one(commands: argparse._SubParsersAction[ArgumentParser]) -> None:
    parser = commands.add_parser(
        "one",
        help="a single run; scripts/<method>/*.sh call it",
        description=_ONE,
        examples=("train_base prometar shapes 1", "test_new prometar shapes 1", "test_all prometar shapes 1"),
    )
    parser.add_argument("kind", choices=KINDS, help="part of a setting")
    parser.add_argument("method", metavar="METHOD", help="name of a folder in scripts/, such as prometar")
    parser.add_argument(
        "words",
        nargs=argparse.REMAINDER,
        metavar="DATASET SEED [CFG [KEY VALUE ...]]",
        help="config file name of the data set, seed, config of the method (default: the setting's), config overrides",
    )


def _add_figures(commands: argparse._SubParsersAction[ArgumentParser]) -> None:
    parser = commands.add_parser(
        "figures",
        help="figures of a run, as papers show them",
        description=_figures(),
        examples=("output/try --kind confusion", "output/try --kind attention --images photos"),
    )
    add = parser.add_argument
    add("runs", nargs="+", type=Path, metavar="RUN", help="output folder of a run")
    add("--kind", required=True, choices=kind_names(), help="what to draw")
    add("--images", type=Path, metavar="FOLDER", help="images to use (default: the run's test images)")
    add("--root", default="", metavar="DATA", help="folder of the data sets (default: the run's)")
    add("--output-dir", type=Path, metavar="FOLDER", help="where to write (default: figures in the run's folder)")


def kind_names() -> list[str]:
    """The kinds of figures: those that have a file."""
    return [path.stem for path in _kinds()]


def _kinds() -> list[Path]:
    """The file of each kind of figure; importing them takes seconds."""
    folder = Path(__file__).parent / "figures" / "kinds"
    return sorted(path for path in folder.glob("*.py") if path.stem != "__init__")


def _figures() -> str:
    """Description of the figures, with the first line about each kind."""
    lines = ["Each figure is drawn from a run's folder and written as PNG and PDF.", ""]
    for path in _kinds():
        about = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        line = f"{path.stem}: {about.splitlines()[0]}"
        lines.append(textwrap.fill(line, 96, initial_indent="  ", subsequent_indent="    "))
    return "\n".join(lines)
