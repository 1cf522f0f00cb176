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
    program, *arguments = map(str, words)
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:

        def run() -> None:
            _print_to(out, err)
            os.chdir(cwd)
            os.environ.clear()
            os.environ.update(before if environment is None else environment)
            sys.argv, sys.excepthook = [str(REPOSITORY / program), *arguments], sys.__excepthook__
            prepare()
            runpy.run_path(sys.argv[0], run_name="__main__")

        before = dict(os.environ)
        process = multiprocessing.get_context("fork").Process(target=run)
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            raise TimeoutError(f"{program} is still at work after {timeout} s")
        for file in (out, err):
            file.seek(0)
        return CompletedProcess([program, *arguments], process.exitcode, out.read(), err.read())


def _print_to(out: TextIO, err: TextIO) -> None:
    """Redirect this process's standard streams."""
    os.dup2(out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w", buffering=1)
