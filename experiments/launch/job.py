"""What a job does: it runs a command to its end.

submitit starts a fresh interpreter for each job. This module imports the standard library alone, so that interpreter
begins in a fraction of a second and takes 40 MB of memory. With PyTorch it would take 650 MB.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

SECONDS_TO_END = 10
FAILURE = "the command failed: "
"""Begins the line of a job's log that says why; submitit writes its own lines there."""


def run_command(command: Sequence[str], folder: Path, console: Path, environment: Mapping[str, str]) -> str | None:
    """Run a command to its end. SIGTERM ends the command and what it started.

    Args:
        command: program and arguments.
        folder: working directory of the command.
        console: file to which its output is added.
        environment: variables that are changed for it.

    Returns:
        Why it failed, in one line, which is also printed for `failure_in`. None for status 0.
    """
    with open(console, "ab") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(os.environ) | dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        status = process.wait()
    except BaseException:
        end(process)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if not status:
        return None
    how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
    why = f"{how}: {last_words(console.read_text(errors='replace'))}"
    print(f"{FAILURE}{why}", flush=True)
    return why


def failure_in(log: str) -> str | None:
    """Why the command failed, as a job's log says; None when it does not."""
    return next((line.removeprefix(FAILURE) for line in log.splitlines() if line.startswith(FAILURE)), None)


def _interrupt(number: int, _: FrameType | None) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough: the next one would interrupt `end`
    raise KeyboardInterrupt


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a process and what it started; the last checkpoint of a run stays."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(SECONDS_TO_END)
            return


def last_words(text: str) -> str:
    """The last error line of a program's output, or else its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return (errors or lines or ["no output"])[-1]
