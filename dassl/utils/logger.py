"""Everything printed also goes to ``log.txt``."""

from __future__ import annotations

import os
import sys
import time
from typing import IO, Any

from .errors import UnwritableFileError
from .files import mkdir_if_missing

LOG_NAME = "log.txt"


class Logger:
    """A text stream that writes to a console and to a file.

    Progress bars redraw themselves with a carriage return; such text goes to the console alone.
    Everything else a stream can do (``isatty``, ``fileno``, ``encoding``) is the console's.
    """

    def __init__(self, console: IO[str], file: IO[str] | None = None) -> None:
        self.console = console
        self.file = file

    def write(self, msg: str) -> int:
        self.console.write(msg)
        if self.file is not None and "\r" not in msg:
            self.file.write(msg)
            self.file.flush()
        return len(msg)

    def flush(self) -> None:
        self.console.flush()
        if self.file is not None:
            self.file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["console"], name)


def setup_logger(output: str | None = None) -> None:
    """Copy stdout and stderr from now on to a log file.

    Args:
        output: a folder, which gets ``log.txt``, or a file name ending in ``.txt`` or ``.log``. When the file exists,
            the new one is called ``<name>-<year>-<month>-<day>-<hour>-<minute>-<second>``, so nothing is overwritten.
            None or empty: nothing happens.

    Raises UnwritableFileError when the file cannot be made.
    """
    if not output:
        return
    path = output if output.endswith((".txt", ".log")) else os.path.join(output, LOG_NAME)
    mkdir_if_missing(os.path.dirname(os.path.abspath(path)))
    file = _open_new(path)
    sys.stdout = Logger(console_of(sys.stdout), file)
    sys.stderr = Logger(console_of(sys.stderr), file)


def console_of(stream: IO[str] | Logger) -> IO[str]:
    """The stream behind a Logger, or the stream itself."""
    return stream.console if isinstance(stream, Logger) else stream


def _open_new(path: str) -> IO[str]:
    stamp = time.strftime("-%Y-%m-%d-%H-%M-%S")
    candidates = [path, path + stamp, *(f"{path}{stamp}-{k}" for k in range(2, 100))]
    for candidate in candidates:
        try:
            return open(candidate, "x", encoding="utf-8")  # noqa: SIM115 - stays open as long as the process
        except FileExistsError:
            continue
        except OSError as error:
            raise UnwritableFileError(f"cannot write {candidate}: {error.strerror or error}") from error
    raise UnwritableFileError(f"cannot find a free name for the log {path}")
