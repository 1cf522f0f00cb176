"""Writes docs/reference.md: every config key, file and flag, as the code states them.

    python -m tools.reference            # write the page
    python -m tools.reference --check    # exit status 1 if the page differs from the code

A key is described by the comment behind its default, a file by the docstring below the constant that names it, a flag
by its help.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any

from dassl.command_line import ArgumentParser, errors_in_one_line

UNSET = ("DATA", "OUTPUT", "SHOTS", "SOURCE", "COLUMNS")
"""Environment variables that defaults are taken from: the page has the defaults without them."""

HEAD = """\
# Reference

Every config key, every file and every flag. This page is made from the code: `python -m tools.reference` writes it,
and a test compares it. What the keys of a method do is explained on [its page](trainers.md).

Keys are set, each overriding the one before, by the data set's YAML file, by the method's YAML file, by flags, and by
`KEY VALUE` pairs at the end of a command: `python train.py ... OPTIM.MAX_EPOCH 5 DATASET.NUM_SHOTS 4`. Strings with
blanks and tuples need quotation marks: `INPUT.SIZE "(64, 64)"`.
"""


def page() -> str:
    """The whole page.

    Raises:
        UserError: something has no description.
    """
    from tools.reference.files import file_groups
    from tools.reference.flags import programs
    from tools.reference.keys import key_groups

    lines = [HEAD, "## Config keys", ""]
    for group in key_groups():
        lines += [f"### {_title(group.title)}", "", *([group.note, ""] if group.note else [])]
        if group.keys:
            rows = [(f"`{key.name}`", _code(key.default), key.meaning) for key in group.keys]
            lines += [*_table(("key", "default", "meaning"), rows), ""]
    lines += ["## Files", ""]
    for place, files in file_groups().items():
        lines += [f"### {place}", "", *_table(("file", "content"), [(_file(f.name), f.meaning) for f in files]), ""]
    lines += [
        "## Flags",
        "",
        "`--help` prints the same, also of the programs in `tools/`, which are not listed here.",
        "",
    ]
    for program in programs():
        lines += [f"### `{program.command}`", "", *([_text(program.about), ""] if program.about else [])]
        if program.flags:
            lines += [*_table(("flag", "meaning"), [(f"`{f.name}`", f.meaning) for f in program.flags]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _title(name: str) -> str:
    return f"`{name}`" if name.isupper() or "." in name else name


def _file(name: str) -> str:
    return f"`{name.replace('{', '<').replace('}', '>')}`"


def _code(value: Any) -> str:
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return f"`{text}`"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    cells = [head, ["---"] * len(head), *([_text(cell) for cell in row] for row in rows)]
    return [f"| {' | '.join(row)} |" for row in cells]


def _text(text: str) -> str:
    """Text in which Markdown sees no column, tag or link; code between backticks is left alone."""
    parts = text.replace("|", "&#124;").split("`")
    for number in range(0, len(parts), 2):
        for character in "<>*[":
            parts[number] = parts[number].replace(character, f"\\{character}")
    return "`".join(parts)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status.

    Raises:
        UserError: an error that the user can fix, on one line.
    """
    parser = ArgumentParser(
        prog="python -m tools.reference", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if the page is old")
    args = parser.parse_args(arguments)
    for name in UNSET:
        os.environ.pop(name, None)
    from dassl.utils.files import write_text_atomically
    from runner.provenance import ROOT

    path, text = ROOT / "docs" / "reference.md", page()
    if not args.check:
        write_text_atomically(path, text)
        return 0
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return 0
    print("error: docs/reference.md is not what the code says: run python -m tools.reference", file=sys.stderr)
    return 1


if __name__ == "__main__":
    with errors_in_one_line():
        sys.exit(main())
