"""Copies everything that is printed to `log.txt`."""

from __future__ import annotations

import os
import sys
import time
from typing import IO, Any

from .errors import UnwritableFileError
from .files import mkdir_if_missing
from .safe_text import printable_lines

LOG_NAME = "log.txt"
"""What the run printed. A later command in the same folder writes `log.txt-<date and time>`."""


class Logger:
    """A text stream that writes to a console and to a file: `sys.stdout = Logger("log.txt")`.

    Progress bars redraw themselves with a carriage return; such text goes to the console alone. Other hidden characters
    are shown by their number in both.
    All other methods of a stream (`isatty`, `fileno`, `encoding`) are the console's.

    Args:
        fpath: name of the file, which `setup_logger` would give it; None or empty: the console alone.
        console: default: stdout.
        file: an open file, instead of `fpath`.

    Raises:
        UnwritableFileError: the file cannot be written.
    """

    def __init__(
        self, fpath: str | None = None, *, console: IO[str] | None = None, file: _LogFile | None = None
    ) -> None:
        self.console = console_of(sys.stdout) if console is None else console
        self.file = file
        if fpath:
            self.file = _open_new(fpath)

    def write(self, msg: str) -> int:
        shown = printable_lines(msg)
        self.console.write(_printable(shown, self.console))
        if self.file is not None and "\r" not in msg:
            self.file.write(shown)
        return len(msg)

    def flush(self) -> None:
        self.console.flush()

    def close(self) -> None:
        """Close the file; the console stays open."""
        if self.file is not None:
            self.file.close()
            self.file = None

    def __enter__(self) -> Logger:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["console"], name)


class _LogFile:
    """An unbuffered text file: each text is in the file when `write` returns.

    When the disk is full, the first failure is raised as UnwritableFileError and the log ends, so that the error's
    message still reaches the console.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.file: Any = open(path, "xb", buffering=0)  # noqa: SIM115 - stays open as long as the process

    def close(self) -> None:
        if self.file is not None:
            self.file.close()
            self.file = None

    def write(self, msg: str) -> None:
        data = memoryview(msg.encode("utf-8", errors="backslashreplace"))
        try:
            while data and self.file is not None:
                data = data[self.file.write(data) :]
        except OSError as error:
            self.file = None
            raise UnwritableFileError(f"cannot write {self.path}: {error.strerror or error}") from error


def _printable(msg: str, console: IO[str]) -> str:
    """`msg` with characters that the console's encoding does not support shown by their number."""
    encoding = getattr(console, "encoding", None) or "utf-8"
    return msg.encode(encoding, errors="backslashreplace").decode(encoding)


def setup_logger(output: str | None = None) -> None:
    """Copy stdout and stderr to a log file from now on.

    Args:
        output: a folder, which gets `log.txt`, or a file name ending in `.txt` or `.log`. When the file exists,
            the new one is called `<name>-<year>-<month>-<day>-<hour>-<minute>-<second>`, so nothing is overwritten.
            None or empty: nothing happens.

    Raises:
        UnwritableFileError: the file cannot be written.
    """
    if not output:
        return
    path = output if output.endswith((".txt", ".log")) else os.path.join(output, LOG_NAME)
    file = _open_new(path)
    sys.stdout = Logger(console=console_of(sys.stdout), file=file)
    sys.stderr = Logger(console=console_of(sys.stderr), file=file)


def console_of(stream: IO[str] | Logger) -> IO[str]:
    """The stream behind a Logger, or the stream itself."""
    return stream.console if isinstance(stream, Logger) else stream


def _open_new(path: str) -> _LogFile:
    mkdir_if_missing(os.path.dirname(os.path.abspath(path)))
    stamp = time.strftime("-%Y-%m-%d-%H-%M-%S")
    candidates = [path, path + stamp, *(f"{path}{stamp}-{k}" for k in range(2, 100))]
    for candidate in candidates:
        try:
            return _LogFile(candidate)
        except FileExistsError:
            continue
        except OSError as error:
            raise UnwritableFileError(f"cannot write {candidate}: {error.strerror or error}") from error
    raise UnwritableFileError(f"cannot find a free name for the log {path}")
