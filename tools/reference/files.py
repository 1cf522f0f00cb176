"""The files that a run, a launcher and an export write, from the constants that name them.

Such a constant is called SOMETHING_NAME, and the docstring below it describes the file:

    RESULT_NAME = "result.json"
    \"\"\"Results of a finished run.\"\"\"
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from runner.provenance import ROOT
from tools.reference.undocumented import refuse_undocumented

ENDING = "_NAME"
PLACES = {
    "The folder of a run": ("dassl", "runner", "trainers"),
    "What the launcher adds": ("experiments",),
    "The folder of an export": ("deploy",),
}
"""Packages whose constants name the files of each kind of folder."""


class File(NamedTuple):
    """A file; `{epoch}` and the like in its name stand for what differs."""

    name: str
    meaning: str


def file_groups() -> dict[str, list[File]]:
    """All files, by the kind of their folder.

    Raises:
        UserError: one has no description.
    """
    groups = {place: [file for package in packages for file in _files(package)] for place, packages in PLACES.items()}
    silent = [file.name for files in groups.values() for file in files if not file.meaning]
    refuse_undocumented("files", silent, f"write a docstring below the constant ...{ENDING} that names it")
    return groups


def _files(package: str) -> Iterator[File]:
    for path in sorted((ROOT / package).rglob("*.py")):
        yield from _constants(path)


def _constants(path: Path) -> Iterator[File]:
    """The public constants of a module that name a file, with their docstrings."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    for number, node in enumerate(body):
        if not isinstance(node, ast.Assign):
            continue
        following = body[number + 1] if number + 1 < len(body) else None
        meaning = _text(following.value) if isinstance(following, ast.Expr) else ""
        together = isinstance(node.value, ast.Tuple)  # one docstring cannot describe several files
        for name, text in _named(node.targets[0], node.value):
            if name.endswith(ENDING) and not name.startswith("_") and text:
                yield File(text, "" if together else meaning)


def _named(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, str]]:
    """Names of variables with the strings that they get; the string is empty for everything else."""
    if isinstance(target, ast.Name):
        yield target.id, _text(value)
    elif isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        for each, part in zip(target.elts, value.elts, strict=True):
            yield from _named(each, part)


def _text(node: ast.expr) -> str:
    """A string that stands in the code, on one line; empty for everything else."""
    return " ".join(node.value.split()) if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
