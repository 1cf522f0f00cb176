"""Docstrings have one style: what is raised stands in its own section, code in single backticks."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from import_graph import ROOT, modules

FILES = modules(ROOT) | {path.stem: path for path in (ROOT / "docs" / "examples").glob("*.py")}
SECTION = re.compile(r"\n+Raises:\n((?: {4}.+\n?)+)\s*$")
"""It is the last one. Each error has a line, and further ones that are indented more."""
ERROR = re.compile(r"\w[\w., ]*: \S")


def documented() -> Iterator[tuple[str, str]]:
    """Where each docstring of the product stands, and its text."""
    for module, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (text := ast.get_docstring(node)):
                yield f"{module}.{getattr(node, 'name', '')}", text


def test_what_is_raised_has_a_section():
    wrong = []
    for place, text in documented():
        section = SECTION.search(text)
        before = text[: section.start()] if section else text
        lines = section[1].splitlines() if section else []
        if re.search(r"\bRaises?\b", before) or not all(line[4] == " " or ERROR.match(line.strip()) for line in lines):
            wrong.append(place)
    assert not wrong


def test_code_is_in_single_backticks():
    assert not [place for place, text in documented() if "``" in text]
