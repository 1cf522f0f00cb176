"""All commands of the project under one name, such as prometar train, prometar predict and prometar report.

`pip install -e .` in a clone installs this file as the command `prometar`. Each command runs the program that it stands
for, exactly as `python train.py` and `python -m experiments report` do, in the clone that was installed.
"""

from __future__ import annotations

import importlib.util
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
NAME = "prometar"
UNKNOWN_COMMAND = 2
"""Exit status, as of argparse."""


class Command(NamedTuple):
    """What a command stands for."""

    program: str
    """A file of the repository, or a module for `python -m`."""
    summary: str
    words: tuple[str, ...] = ()
    """Arguments that come before those of the user."""


COMMANDS = {
    "train": Command("train.py", "train or evaluate one method on one data set"),
    "predict": Command("predict.py", "classify images with a trained model"),
    "export": Command("export.py", "take a trained classifier out of the project"),
    "hub": Command("deploy.hub", "prompts to and from the Hugging Face Hub"),
    "web": Command("deploy.web", "try a trained classifier on pictures in the browser"),
    "check": Command("datasets.check", "verify data sets on disk, or your own images"),
    "prepare": Command("datasets.prepare", "download and arrange data sets"),
    "run": Command("experiments", "do the runs that files declare", ("run",)),
    "report": Command("experiments", "tables and figures of all finished runs", ("report",)),
    "figures": Command("experiments", "figures of single runs", ("figures",)),
    "benchmark": Command("tools.benchmark", "time and memory of a training step; hours of a plan"),
}


def main() -> None:
    """Run the command that the command line names."""
    sys.path.insert(
        0, str(ROOT)
    )  # as for `python train.py`; a package such as Hugging Face's `datasets` comes after it
    from dassl.command_line import end_imports_in_one_line, errors_in_one_line
    from dassl.spelling import nearest_name

    name, *arguments = sys.argv[1:] or [""]
    if name in ("-h", "--help"):
        with errors_in_one_line():
            print(help_text())
        return
    if name not in COMMANDS:
        nearest = nearest_name(name, COMMANDS)
        hint = f"did you mean {nearest}?" if nearest else f"choose from {', '.join(COMMANDS)}"
        print(f"error: {f'unknown command {name}' if name else 'no command'}: {hint} ({NAME} --help)", file=sys.stderr)
        sys.exit(UNKNOWN_COMMAND)
    end_imports_in_one_line()
    try:
        run(name, arguments)
    except ModuleNotFoundError as error:
        if error.name is None or importlib.util.find_spec(error.name.partition(".")[0]) is not None:
            raise
        sys.exit(
            f"error: the package {error.name} is missing: pip install -e '.[clip]' in {ROOT} installs all packages"
        )


def run(name: str, arguments: Sequence[str]) -> None:
    """Run a command's program in this process, in place of this one."""
    from dassl.command_line import show_program_as

    command = COMMANDS[name]
    if command.program.endswith(".py"):
        show_program_as(command.program, f"{NAME} {name}")
        sys.argv = [str(ROOT / command.program), *arguments]
        runpy.run_path(sys.argv[0], run_name="__main__")
        return
    own = f"python -m {command.program}"
    show_program_as(own, NAME if command.words else f"{NAME} {name}")
    sys.argv = ["-m", *command.words, *arguments]  # what a package sees while `python -m` imports it
    runpy.run_module(command.program, run_name="__main__", alter_sys=True)


def help_text() -> str:
    """The commands, one per line."""
    lines = [f"  {name:10}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            f"usage: {NAME} COMMAND ...",
            "",
            "Prompt learning for CLIP: training, evaluation, experiments, and use of what was trained.",
            "",
            "commands:",
            *lines,
            "",
            f"{NAME} COMMAND --help explains the flags of a command.",
            "",
            "example:",
            f"  {NAME} run embedded_base2new.yaml && {NAME} report output",
        ]
    )


if __name__ == "__main__":
    main()
