"""A train.py process at work on a run. The run's folder is locked as long as that process lives.

The lock belongs to the process, not to the launcher: after `kill -9` of a launcher its runs go on, and the next
launcher waits for them instead of starting them a second time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress

from dassl.utils.errors import UserError
from dassl.utils.locks import INHERITED_LOCK, BusyError, lock
from experiments.plan.runs import ROOT, PlannedRun
from experiments.plan.status import is_finished

CONSOLE_NAME = "console.txt"
SECONDS_TO_END = 10

__all__ = ["CONSOLE_NAME", "BusyError", "TrainProcess"]


class TrainProcess:
    """train.py on one run.

    Args:
        environment: variables that are changed for the process.

    Its output goes to console.txt in the run's folder, and Ctrl-C does not reach it directly.

    Raises:
        BusyError: another process is at work on the run.
        UserError: the folder cannot be written.
    """

    def __init__(self, run: PlannedRun, environment: Mapping[str, str]) -> None:
        self.run = run
        descriptor = lock(run.folder)
        self.console = run.folder / CONSOLE_NAME
        try:
            self._start(dict(os.environ) | dict(environment), descriptor)
        finally:
            os.close(descriptor)  # the process has its own

    def _start(self, environment: dict[str, str], descriptor: int) -> None:
        command = [sys.executable, str(ROOT / "train.py"), *self.run.arguments]
        with open(self.console, "wb") as console:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment | {INHERITED_LOCK: str(descriptor)},
                pass_fds=(descriptor,),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """Exit status, None while at work."""
        return self._process.poll()

    def wait(self) -> int:
        return self._process.wait()

    def end(self) -> None:
        """Stop the process and what it started; its last checkpoint stays."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(SECONDS_TO_END)
                return

    def failure(self) -> str | None:
        """Why the ended process did not finish its run, in one line; None when it did."""
        status = self._process.returncode
        if status:
            how = f"killed by signal {-status}" if status < 0 else f"exit status {status}"
            return f"{how}: {self._last_words()}"
        try:
            return None if is_finished(self.run) else "it ended without a result"
        except UserError as error:
            return str(error)

    def _last_words(self) -> str:
        """The error line of its output, or the last one."""
        lines = [line.strip() for line in self.console.read_text(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or ["no output"])[-1]
