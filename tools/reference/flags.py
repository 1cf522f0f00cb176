"""The flags of all programs, from their parsers."""

from __future__ import annotations

import argparse
import ast
import contextlib
import io
import runpy
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from dassl.utils.errors import UserError
from runner.provenance import ROOT
from tools.reference.undocumented import refuse_undocumented

LEFT_OUT = ("tests", "docs", "build", "tools")
"""Folders whose programs are not listed; those in tools are for work on the project itself."""


class Flag(NamedTuple):
    """A flag or argument.

    Args:
        name: all spellings, or the argument's name.
        meaning: its help, with its choices and, where the help does not say it, its default.
    """

    name: str
    meaning: str


class Program(NamedTuple):
    """A command and its flags."""

    command: str
    about: str
    flags: list[Flag]


class _Found(BaseException):
    """Ends a program when it has made its parser; not an Exception, so that no program handles it."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        super().__init__()
        self.parser = parser


def programs() -> list[Program]:
    """All programs of the repository and their subcommands.

    Raises:
        UserError: a flag has no help.
    """
    found = [program for words in _commands() for program in _programs_of(words)]
    silent = [f"{program.command} {flag.name}" for program in found for flag in program.flags if not flag.meaning]
    refuse_undocumented("flags", silent, "give each a help text")
    return found


def _commands() -> Iterator[list[str]]:
    """What starts each program: a file in the repository's root, or `-m` and a module."""
    paths = [path for pattern in ("*.py", "[a-z]*/*.py", "[a-z]*/*/*.py") for path in sorted(ROOT.glob(pattern))]
    for path in paths:
        relative = path.relative_to(ROOT)
        if relative.parts[0] in LEFT_OUT or not _is_program(path):
            continue
        if len(relative.parts) == 1:
            yield [relative.name]
        elif ROOT / relative.parts[0] / "__init__.py" in paths:
            yield ["-m", ".".join(relative.with_suffix("").parts).removesuffix(".__main__")]


def _is_program(path: Path) -> bool:
    """Whether a file ends with what it does as a program.

    A file that imports nothing of the repository is for elsewhere, as the script that an export gets.
    """
    body = ast.parse(path.read_text(encoding="utf-8")).body
    if not body or not isinstance(body[-1], ast.If) or "__main__" not in ast.unparse(body[-1].test):
        return False
    imported = [node.module or "" for node in ast.walk(ast.Module(body, [])) if isinstance(node, ast.ImportFrom)]
    return any((ROOT / name.partition(".")[0]).is_dir() for name in imported if name)


def _programs_of(words: Sequence[str]) -> Iterator[Program]:
    """The program, or each of its subcommands."""
    parser = _parser_of([*words, "--help"])
    command = f"python {' '.join(words)}"
    if parser is None:
        yield Program(command, _summary(words), [])
        return
    choices = _subcommands(parser)
    for name, subparser in choices.items():
        yield _program(f"{command} {name}", subparser)
    if not choices:
        yield _program(command, parser)


def _parser_of(words: Sequence[str]) -> argparse.ArgumentParser | None:
    """The parser of a command line, with which the program ends; None for one that explains itself without a parser.

    Raises:
        UserError: the program fails.
    """

    def found(parser: argparse.ArgumentParser, *_: Any, **__: Any) -> Any:
        raise _Found(parser)

    is_module = words[0] == "-m"
    silenced = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
    patched = patch.object(argparse.ArgumentParser, "parse_known_args", found)
    arguments, hook = patch.object(sys, "argv", list(words[is_module:])), patch.object(sys, "excepthook")
    try:
        with silenced[0], silenced[1], patched, arguments, hook:
            if is_module:
                runpy.run_module(words[1], run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(str(ROOT / words[0]), run_name="__main__")
    except _Found as end:
        return end.parser
    except SystemExit as end:
        if end.code:
            raise UserError(f"python {' '.join(words)} ended with {end.code!r} before it had a parser") from end
    return None


def _summary(words: Sequence[str]) -> str:
    """The first paragraph of a program's docstring."""
    name = words[-1].replace(".", "/") + ".py" if words[0] == "-m" else words[0]
    docstring = ast.get_docstring(ast.parse((ROOT / name).read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split())


def _subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def _program(command: str, parser: argparse.ArgumentParser) -> Program:
    about = (parser.description or "").strip().partition("\n\n")[0]
    return Program(command, " ".join(about.split()), [_flag(action, parser) for action in _visible(parser)])


def _visible(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        is_shown = action.help != argparse.SUPPRESS
        if is_shown and not isinstance(action, argparse._HelpAction | argparse._SubParsersAction):
            yield action


def _flag(action: argparse.Action, parser: argparse.ArgumentParser) -> Flag:
    name = ", ".join(action.option_strings) or str(action.metavar or action.dest)
    if not action.help:
        return Flag(name, "")
    meaning = " ".join((action.help % {**vars(action), "prog": parser.prog}).split())
    details = []
    if action.choices and not all(str(choice) in meaning for choice in action.choices):
        details.append(f"one of {', '.join(map(str, action.choices))}")
    if action.option_strings and action.default not in (None, "", False, (), []) and "default" not in meaning:
        details.append(f"default: {_plain(action.default)}")
    return Flag(name, f"{meaning} ({'; '.join(details)})" if details else meaning)


def _plain(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text.replace(f"{ROOT}/", "")
