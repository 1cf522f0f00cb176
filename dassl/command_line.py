"""Shared by the command lines of all programs: a mistake, an error or Ctrl-C is one line.

This module imports nothing slow, so that a program can read its command line before its other imports.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn

from dassl.interruption import Interrupted, exit_status
from dassl.seeds import MAX_SEED
from dassl.spelling import nearest_name

INTERRUPTED = exit_status(signal.SIGINT)
"""Exit status after Ctrl-C."""


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """For the outermost level of a program: errors and Ctrl-C end it with one line on stderr.

    A UserError gives `error: <message>` and status 1, Ctrl-C `interrupted` and status 130. Interrupted says more, and
    has its own status.
    """
    try:
        yield
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        from dassl.utils.errors import UserError  # loads PyTorch, like everything that raises it

        if not isinstance(error, UserError):
            raise
        sys.exit(f"error: {error}")


def end_imports_in_one_line() -> None:
    """From now on, Ctrl-C outside of `errors_in_one_line` (during imports) also ends the program with one line."""
    sys.excepthook = _end_in_one_line


def end_imports_of_package_in_one_line() -> None:
    """As `end_imports_in_one_line`, for a package whose modules are programs; no effect when it is imported.

    `python -m package.module` imports the package before the module; until then, `sys.argv[0]` is `-m`.
    """
    if sys.argv[:1] == ["-m"]:
        end_imports_in_one_line()


def _end_in_one_line(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:  # the signature of `sys.excepthook`
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    print("interrupted", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(INTERRUPTED)


class ArgumentParser(argparse.ArgumentParser):
    """Argparse's parser with stricter rules, and one line for each mistake (exit status 2).

    Flags are written in full. For an unknown flag the nearest one is suggested. A flag given twice is refused, because
    the first value would be lost, and so is an empty value, the result of an unset shell variable.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._flags: dict[str, argparse.Action] = {}
        self._repeatable: set[str] = set()
        self._flags_end_at_first_word = False
        super().__init__(*args, allow_abbrev=False, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        action = super().add_argument(*args, **kwargs)
        self._flags |= dict.fromkeys(action.option_strings, action)
        if kwargs.get("action") == "append":
            self._repeatable.update(action.option_strings)
        self._flags_end_at_first_word |= action.nargs == argparse.REMAINDER
        return action

    def add_subparsers(self, **kwargs: Any) -> Any:
        self._flags_end_at_first_word = True
        return super().add_subparsers(**kwargs)

    # typeshed declares this method by overloads
    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        self._check_flags(words)
        return super().parse_known_args(words, namespace)

    def _check_flags(self, words: Sequence[str]) -> None:
        given: set[str] = set()
        takes_values = False  # whether a word without dashes still belongs to the flag before it
        name = ""
        for word in words:
            if word == "--":
                return
            if word.startswith("--"):
                name, equals, value = word.partition("=")
                takes_values = self._check_flag(name, given)
                if equals and not value:
                    self._refuse_empty_value(name)
                takes_values = takes_values and not equals
            elif takes_values:
                if not word:
                    self._refuse_empty_value(name)
                takes_values = self._flags[name].nargs in ("+", "*")
            elif self._flags_end_at_first_word:
                return

    def _check_flag(self, name: str, given: set[str]) -> bool:
        """Refuse a flag that is unknown or given twice; returns whether it takes values."""
        action = self._flags.get(name)
        if action is None:
            nearest = nearest_name(name, self._flags)
            self.error(f"unknown flag {name}" + (f"; did you mean {nearest}?" if nearest else ""))
        if name in given and action.nargs != 0 and name not in self._repeatable:
            self.error(f"{name} is given twice: give it once")
        given.add(name)
        return action.nargs != 0

    def _refuse_empty_value(self, name: str) -> NoReturn:
        self.error(f"{name} has an empty value: is a shell variable unset? Give a value, or leave {name} out")

    def error(self, message: str) -> NoReturn:
        program = self.prog if self.prog.startswith("python") else f"python {self.prog}"
        self.exit(2, f"error: {' '.join(message.split())} ({program} --help explains the flags)\n")


def seed_number(text: str) -> int:
    """A seed on the command line, for argparse's `type`."""
    if not text.isdecimal() or len(text) > len(str(MAX_SEED)) or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"a seed is a number from 0 to {MAX_SEED}, not {text!r}")
    return int(text)


def number_from(smallest: int) -> Any:
    """For argparse's `type`: whole numbers of at least `smallest`."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"should be a whole number, not {text!r}") from None
        if value < smallest:
            raise argparse.ArgumentTypeError(f"should be at least {smallest}, not {value}")
        return value

    return number
