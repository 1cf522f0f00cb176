"""Comments beside the config keys in a Python file.

A key is described by the comment at the end of its line, or by the full-line comment above it:

    cfg.TRAINER.COOP = CfgNode(
        dict(
            N_CTX=16,  # number of context tokens
        )
    )
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOTS = ("cfg", "_TREE")
"""Names of the variables that hold the configuration tree where keys are added to it."""
ANY = "*"
"""Stands for a part of a key that is computed when the program runs."""


@cache
def comments_of_keys(path: Path) -> Mapping[str, str]:
    """The comment of each config key that a file sets, by the dotted key."""
    source = path.read_text(encoding="utf-8")
    tree, beside = ast.parse(source), _comments(source)
    named = {target.id: value for target, value in _assignments(tree) if isinstance(target, ast.Name)}
    found: dict[str, str] = {}
    for target, value in _assignments(tree):
        prefix = _dotted(target)
        if prefix is not None:
            for key, node in _keys(prefix, value, named):
                comment = _comment_at(node, beside)
                if comment:
                    found[key] = comment
    return found


def _comments(source: str) -> tuple[dict[int, str], dict[int, str]]:
    """Comments at the ends of lines, and those that have their own line; both by line number."""
    at_end: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            is_alone = not token.line[: token.start[1]].strip()
            (alone if is_alone else at_end)[token.start[0]] = token.string.lstrip("# ")
    return at_end, alone


def _comment_at(node: ast.AST, beside: tuple[dict[int, str], dict[int, str]]) -> str:
    """The comment behind an entry, or else the lines of comment above it."""
    at_end, alone = beside
    first = getattr(node, "lineno", 0)
    is_group = isinstance(node, ast.Dict | ast.Call)  # what is behind its last line belongs to its last entry
    behind = at_end.get(first if is_group else getattr(node, "end_lineno", first)) or at_end.get(first)
    if behind:
        return behind
    lines: list[str] = []
    while (first := first - 1) in alone:
        lines.insert(0, alone[first])
    return " ".join(lines)


def _assignments(tree: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign):
            yield node.targets[0], node.value
        elif isinstance(node, ast.AnnAssign) and node.value is not None:
            yield node.target, node.value


def _dotted(target: ast.expr) -> str | None:
    """`TRAINER.COOP` for the target `cfg.TRAINER.COOP`; None for a target outside of the configuration."""
    path = re.sub(r"\['(\w+)'\]", r".\1", ast.unparse(target))
    path = re.sub(r"\[.*?\]", f".{ANY}", path)
    root, _, key = path.partition(".")
    return key if root in ROOTS else None


def _keys(prefix: str, value: ast.expr, named: Mapping[str, ast.expr]) -> Iterator[tuple[str, ast.AST]]:
    """The key itself and all keys below it, each with the node whose line has its comment."""
    if prefix:
        yield prefix, value
    for name, entry in _entries(value, named):
        yield from _keys(f"{prefix}.{name}".lstrip("."), entry, named)


def _entries(value: ast.expr, named: Mapping[str, ast.expr]) -> Iterator[tuple[str, ast.expr]]:
    """Names and values of a dictionary, written in any of the usual ways."""
    if isinstance(value, ast.Name) and value.id in named:
        yield from _entries(named[value.id], named)
    elif isinstance(value, ast.Dict):
        for key, entry in zip(value.keys, value.values, strict=True):
            if key is None:  # **others
                yield from _entries(entry, named)
            elif isinstance(key, ast.Constant):
                yield str(key.value), entry
    elif isinstance(value, ast.Call):
        for argument in value.args:
            yield from _entries(argument, named)
        for keyword in value.keywords:
            if keyword.arg is None:
                yield from _entries(keyword.value, named)
            else:
                yield keyword.arg, keyword.value
