"""Programs of the repository in a fork of the test's process, which has imported PyTorch: milliseconds, not seconds.

What depends on the start of Python or on the imports themselves needs `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from subprocess import CompletedProcess
from typing import TextIO

REPOSITORY = Path(__file__).resolve().parents[2]


def run_forked(
    words: Sequence[object],
    cwd: Path = REPOSITORY,
    environment: Mapping[str, str] | None = None,
    timeout: float = 120,
    prepare: Callable[[], None] = lambda: None,
) -> CompletedProcess[str]:
    """The result of `python WORDS` for a program file of the repository and its arguments.

    Args:
        environment: All variables; by default those of the test's process.
        prepare: Called in the new process before the program.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = fork_program(words, out, err, cwd, environment, prepare)
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{words[0]} is still at work after {timeout} s")
        for file in (out, err):
            file.seek(0)
        return CompletedProcess([*map(str, words)], process.exitcode, out.read(), err.read())


def fork_program(
    words: Sequence[object],
    out: TextIO,
    err: TextIO,
    cwd: Path = REPOSITORY,
    environment: Mapping[str, str] | None = None,
    prepare: Callable[[], None] = lambda: None,
) -> BaseProcess:
    """As `run_forked`, without waiting for the end; the program prints to `out` and `err`."""
    program, *arguments = map(str, words)
    before = dict(os.environ)

    def run() -> None:
        _print_to(out, err)
        os.chdir(cwd)
        os.environ.clear()
        os.environ.update(before if environment is None else environment)
        path = program if cwd == REPOSITORY else str(REPOSITORY / program)
        sys.argv, sys.excepthook = [path, *arguments], sys.__excepthook__
        prepare()
        runpy.run_path(path, run_name="__main__")

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def _print_to(out: TextIO, err: TextIO) -> None:
    """Redirect this process's standard streams."""
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
