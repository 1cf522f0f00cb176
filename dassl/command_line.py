"""Shared by the command lines of all programs: a mistake, an error or Ctrl-C is one line.

This module imports nothing slow, so that a program can read its command line before its other imports.
"""

from __future__ import annotations

import argparse
import itertools
import os
import select
import signal
import sys
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, NoReturn

from dassl.interruption import Interrupted, exit_status
from dassl.seeds import MAX_SEED
from dassl.spelling import nearest_name

INTERRUPTED = exit_status(signal.SIGINT)
"""Exit status after Ctrl-C."""
READER_LEFT = exit_status(signal.SIGPIPE)
"""Exit status when the reader of the output has ended, as with `| head`."""
STANDARD_STREAMS = (1, 2)
"""File descriptors of stdout and stderr."""


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """For the outermost level of a program: errors and Ctrl-C end it with one line on stderr.

    A UserError gives `error: <message>` and status 1, Ctrl-C `interrupted` and status 130. Interrupted says more, and
    has its own status. When the reader of the output has ended (`| head`), the program ends without a word and with
    status 141.
    """
    try:
        with _all_is_printed():
            yield
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(error.status)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        left = _streams_without_reader()
        if not left:  # another pipe, such as that of a worker process
            raise
        _discard_output(left)
        sys.exit(READER_LEFT)
    except Exception as error:
        from dassl.utils.errors import UserError  # loads PyTorch, like everything that raises it

        if not isinstance(error, UserError):
            raise
        sys.exit(f"error: {error}")


@contextmanager
def _all_is_printed() -> Iterator[None]:
    """Write what stdout still holds before the block ends, so that an error of writing it is raised here."""
    try:
        yield
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _streams_without_reader() -> list[int]:
    """Those of stdout and stderr that are pipes or sockets without a reader."""
    poll = select.poll()
    for stream in STANDARD_STREAMS:
        poll.register(stream, 0)  # errors are reported without being asked for
    return [stream for stream, events in poll.poll(0) if events & select.POLLERR]


def _discard_output(streams: Iterable[int]) -> None:
    """Whatever is still written to these streams is lost; otherwise Python complains about it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream)
    os.close(nowhere)


def end_imports_in_one_line() -> None:
    """From now on, Ctrl-C outside of `errors_in_one_line` (during imports) also ends the program with one line."""
    sys.excepthook = _end_in_one_line


def tell_of_imports() -> None:
    """Tell somebody at a terminal that the program has begun: the imports that follow take seconds."""
    if sys.stderr.isatty():
        print("loading PyTorch", file=sys.stderr, flush=True)


def end_imports_of_package_in_one_line() -> None:
    """As `end_imports_in_one_line`, for a package whose modules are programs; no effect when it is imported.

    It also tells of the imports.

    `python -m package.module` imports the package before the module; until then, `sys.argv[0]` is `-m`.
    """
    if sys.argv[:1] == ["-m"]:
        end_imports_in_one_line()
        if not only_help_is_asked_for():
            tell_of_imports()


def only_help_is_asked_for() -> bool:
    """Whether a package is being imported for the help of one of its modules that are programs.

    `python -m package.module --help` needs none of the imports that take seconds.
    """
    return sys.argv[:1] == ["-m"] and not {"-h", "--help"}.isdisjoint(sys.argv)


def _end_in_one_line(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:  # the signature of `sys.excepthook`
    if not issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    print("interrupted", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(INTERRUPTED)


OLD_SPELLINGS: dict[str, tuple[str, ...]] = {
    "--model-dir": ("--checkpoint",),
    "--root": ("--data",),
    "--output-dir": ("--output", "--to"),
}
"""A flag has the same name in all programs. Its earlier names are accepted, but not shown."""

_shown_as: dict[str, str] = {}


def show_program_as(program: str, words: str) -> None:
    """Set how help and errors of a parser show its program, such as `prometar train` for `train.py`."""
    _shown_as[program] = words


def shown_program(program: str) -> str:
    """The words by which the user calls a program, such as `python train.py` for `train.py`."""
    if program in _shown_as:
        return _shown_as[program]
    return f"python {program}" if program.endswith(".py") else program


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Fits paragraphs into the terminal, and adds the default to the help of each flag that has one.

    Lines that begin with blanks, such as commands, are kept as they are.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for is_prose, group in itertools.groupby(text.splitlines(), key=lambda line: bool(line) and line[0] != " "):
            block = list(group)
            lines += textwrap.wrap(" ".join(block), width, break_on_hyphens=False) if is_prose else block
        return "\n".join(indent + line for line in lines)

    def _get_help_string(self, action: argparse.Action) -> str | None:
        text = action.help or ""
        has_default = action.default not in (None, "", (), [], argparse.SUPPRESS)
        if "(default" in text or "%(default)" in text or action.nargs == 0 or action.required or not has_default:
            return text
        value = action.default
        shown = " ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)
        return f"{text} (default: {shown.replace('%', '%%')})"


class ArgumentParser(argparse.ArgumentParser):
    """Argparse's parser with stricter rules, and one line for each mistake (exit status 2).

    Flags are written in full. For an unknown flag the nearest one is suggested. A flag given twice is refused, because
    the first value would be lost, and so is an empty value, the result of an unset shell variable.

    Args:
        examples: arguments of complete commands, which are shown at the end of the help.
    """

    def __init__(self, *args: Any, examples: Sequence[str] = (), **kwargs: Any) -> None:
        kwargs.setdefault("formatter_class", HelpFormatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self.command = shown_program(self.prog)
        """The program in the words that the user types."""
        self.prog = _shown_as.get(self.prog, self.prog)
        if examples:
            lines = "".join(f"\n  {self.command} {example}" for example in examples)
            self.epilog = f"{'examples' if len(examples) > 1 else 'example'}:{lines}"

    def add_argument(self, *args: Any, old_spellings: Sequence[str] = (), **kwargs: Any) -> argparse.Action:
        """Add an argument.

        Args:
            args: names, as for argparse.
            old_spellings: flags that mean the same, are accepted and are not shown.
            kwargs: as for argparse.
        """
        action = super().add_argument(*args, **kwargs)
        for name in (*old_spellings, *(old for new in action.option_strings for old in OLD_SPELLINGS.get(new, ()))):
            self._option_string_actions.setdefault(name, action)
        return action

    # typeshed declares this method by overloads
    def parse_known_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> Any:
        words = list(sys.argv[1:] if args is None else args)
        self._check_flags(words)
        return super().parse_known_args(words, namespace)

    def _flags_end_at_first_word(self) -> bool:
        return any(action.nargs in (argparse.REMAINDER, argparse.PARSER) for action in self._actions)

    def _check_flags(self, words: Sequence[str]) -> None:
        given: dict[argparse.Action, str] = {}
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
                takes_values = self._option_string_actions[name].nargs in ("+", "*")
            elif self._flags_end_at_first_word():
                return

    def _check_flag(self, name: str, given: dict[argparse.Action, str]) -> bool:
        """Refuse a flag that is unknown or given twice; returns whether it takes values."""
        action = self._option_string_actions.get(name)
        if action is None:
            nearest = self._option_string_actions.get(nearest_name(name, self._option_string_actions))
            self.error(f"unknown flag {name}" + (f"; did you mean {nearest.option_strings[-1]}?" if nearest else ""))
        if action in given and action.nargs != 0 and not isinstance(action, argparse._AppendAction):
            same = "" if given[action] == name else f" as {given[action]} and {name}"
            self.error(f"{action.option_strings[-1]} is given twice{same}: give it once")
        given[action] = name
        return action.nargs != 0

    def _refuse_empty_value(self, name: str) -> NoReturn:
        self.error(f"{name} has an empty value: is a shell variable unset? Give a value, or leave {name} out")

    # typeshed calls the status optional
    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        with errors_in_one_line():  # the reader of the help may have ended
            super().exit(status, message)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())} ({self.command} --help explains the flags)\n")


def seed_number(text: str) -> int:
    """A seed on the command line, for argparse's `type`."""
    if not text.isdecimal() or len(text) > len(str(MAX_SEED)) or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"a seed is a number from 0 to {MAX_SEED}, not {text!r}")
    return int(text)


MAX_THREADS = 1024
"""Of PyTorch: with many more, the process ends without an error message."""


def number_from(smallest: int, largest: int = 2**63 - 1) -> Any:
    """For argparse's `type`: whole numbers from `smallest` to `largest`, in decimal digits."""

    def number(text: str) -> int:
        digits = text.removeprefix("-")
        if not digits.isdecimal():
            raise argparse.ArgumentTypeError(f"should be a whole number, not {text[:40]!r}")
        value = int(text) if len(digits) < 40 else largest + 1 if digits == text else smallest - 1
        if value < smallest:
            raise argparse.ArgumentTypeError(f"should be at least {smallest}, not {text[:40]}")
        if value > largest:
            raise argparse.ArgumentTypeError(f"should be at most {largest}, not {text[:40]}")
        return value

    return number
