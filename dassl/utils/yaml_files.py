"""The one reader of YAML files."""

from __future__ import annotations

from typing import Any

import yaml
from yaml import MappingNode, Node, SafeLoader, ScalarNode

from .errors import UnreadableFileError, one_line
from .files import StrPath, read_text

MAX_VALUES = 100_000
"""Maximum number of values in a file after its aliases are resolved."""
MAX_DEPTH = 50
"""Maximum number of nested mappings and lists."""

_ERRORS = (ValueError, LookupError, AttributeError, TypeError, ArithmeticError)
"""Errors of PyYAML's constructors for a value that does not have the type of its tag."""


def read_yaml(path: StrPath) -> Any:
    """The content of a YAML file, of plain values only.

    Raises:
        MissingFileError: no such file.
        UnreadableFileError: it cannot be read or is not valid YAML, a key occurs twice in one mapping, a value
            contains itself, a number is not read as it looks, or the aliases resolve to more than `MAX_VALUES` values;
            the file and the line are named.
    """
    text = read_text(path)
    try:
        return parse_yaml(text)
    except (*_ERRORS, RecursionError, yaml.YAMLError) as error:
        raise UnreadableFileError(f"cannot read {path}: {one_line(error, 500)}") from error


def parse_yaml(text: str) -> Any:
    """As `read_yaml`, for a text.

    Raises:
        Exception: one of `_ERRORS`, RecursionError or yaml.YAMLError, for a text that is not valid.
    """
    loader = SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None:
            return None
        _Check(loader).measure(root, ())
        return loader.construct_document(root)
    finally:
        loader.dispose()


class _Check:
    """Checks the nodes of a document before they are converted."""

    def __init__(self, loader: SafeLoader) -> None:
        self._loader = loader
        self._measured: dict[Node, tuple[int, int]] = {}

    def measure(self, node: Node, parents: tuple[Node, ...]) -> tuple[int, int]:
        """Number and depth of the values of a node with its aliases resolved. Each node is measured once.

        Raises:
            ValueError: the node contains itself or is too large.
        """
        if node in parents:
            raise ValueError(f"{_place(node)}: a value contains itself")
        if len(parents) > MAX_DEPTH:
            raise ValueError(f"{_place(node)}: nested more than {MAX_DEPTH} times")
        if node not in self._measured:
            measures = [self.measure(child, (*parents, node)) for child in self._children(node)]
            size = 1 + sum(size for size, _ in measures)
            depth = 1 + max((depth for _, depth in measures), default=0)
            if size > MAX_VALUES or depth > MAX_DEPTH:
                limits = f"{MAX_VALUES:,} values (aliases resolved) or is nested more than {MAX_DEPTH} times"
                raise ValueError(f"{_place(node)}: has more than {limits}")
            self._measured[node] = size, depth
        return self._measured[node]

    def _children(self, node: Node) -> list[Node]:
        if isinstance(node, ScalarNode):
            _check_number(node)
            return []
        if not isinstance(node, MappingNode):
            return node.value
        self._check_keys(node)
        return [part for pair in node.value for part in pair]

    def _check_keys(self, node: MappingNode) -> None:
        """Check that no key occurs twice; YAML forbids it, but PyYAML uses the last value.

        Raises:
            ValueError: one does.
        """
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, ScalarNode):
                raise ValueError(f"{_place(key)}: a key must be a single value")
            value = key.value if key.tag == "tag:yaml.org,2002:merge" else self._loader.construct_object(key)
            name = (type(value), value)
            if name in seen:
                raise ValueError(f"{_place(key)}: the key {key.value[:80]!r} occurs twice")
            seen.add(name)


def _check_number(node: ScalarNode) -> None:
    """Check that YAML 1.1 reads a number as it looks: 010 is 8, and 1:30 is 90.

    Raises:
        ValueError: it does not.
    """
    if node.tag not in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
        return
    digits = node.value.lstrip("+-").replace("_", "")
    in_base_8 = digits.isdecimal() and digits.startswith("0") and int(digits) != int(digits, 8)
    if in_base_8 or ":" in digits:
        raise ValueError(
            f"{_place(node)}: YAML reads {node.value[:80]} as a number in base 8 or 60; write it in base 10"
        )


def _place(node: Node) -> str:
    return f"line {node.start_mark.line + 1}"
