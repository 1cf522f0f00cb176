"""Requests to stop a program: Ctrl-C (SIGINT) and SIGTERM, which clusters send before they end a job.

This module imports nothing slow, so that a program can read its command line before its other imports.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME_REQUEST_S = 0.5
"""A signal that follows within this time belongs to the same request: `timeout`, for example, sends two."""


def exit_status(number: int) -> int:
    """Exit status of a program that a signal has ended, as shells report it."""
    return 128 + number


class Interrupted(KeyboardInterrupt):
    """The program was asked to stop.

    Args:
        number: the signal.
        state: what is left of the work and how to continue it.
    """

    def __init__(self, number: int, state: str = "") -> None:
        super().__init__(number, state)
        self.number, self.state = number, state

    @property
    def status(self) -> int:
        """The program's exit status."""
        return exit_status(self.number)

    def __str__(self) -> str:
        said = "interrupted" if self.number == signal.SIGINT else f"interrupted ({signal.Signals(self.number).name})"
        return f"{said}: {self.state}" if self.state else said


class StopRequest:
    """The state of this process's request to stop.

    Without `deferred`, the first signal raises Interrupted where the program is. In a `deferred` block it only sets
    `number`; the block looks at it where it can stop. The second signal ends the process at once.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        """The signal that asked the process to stop; None: none has."""
        self._asked_at = 0.0
        self._is_deferred = False
        self._process = 0

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Receive signals in the block. An ignored signal stays ignored; in other threads than the main one, all do."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        self.number, self._is_deferred, self._process = None, False, os.getpid()
        before = {number: signal.getsignal(number) for number in SIGNALS}
        received = [number for number in SIGNALS if before[number] is not signal.SIG_IGN]
        try:
            for number in received:
                signal.signal(number, self._receive)
            yield
        except Exception as error:  # signals to the whole process group also end processes that this one needs
            if self.number is None:
                raise
            raise Interrupted(self.number) from error
        finally:
            for number in received:
                signal.signal(number, before[number] or signal.SIG_DFL)
            self.number = None

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Do not raise Interrupted in the block."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False

    def _receive(self, number: int, _: FrameType | None) -> None:
        if os.getpid() != self._process:  # a process forked from this one ends as usual
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self.number is None:
            self.number, self._asked_at = number, time.monotonic()
            if not self._is_deferred:
                raise Interrupted(number)
            _say("stopping after this step; Ctrl-C again stops at once")
        elif time.monotonic() - self._asked_at >= SAME_REQUEST_S:
            _say("stopped at once")
            os._exit(exit_status(number))


def _say(message: str) -> None:
    """Write a line to stderr, below Python's streams: they may be in use when a signal comes."""
    os.write(2, f"\n{message}\n".encode())


STOP = StopRequest()
