"""The root of the configuration tree: a yacs node that accepts whole numbers for floats; and the tree as data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from yacs.config import CfgNode


class ConfigRoot(CfgNode):
    """As yacs' node, except that `OPTIM.LR 1` sets 1.0; yacs refuses an int for a float.

    The nodes below it are plain `CfgNode`s, since yacs merges nodes of equal types only.

    Args:
        tree: nested dictionary of all keys.
    """

    def __init__(self, tree: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.update(CfgNode(tree or {}))

    @classmethod
    def _decode_cfg_value(cls, value: Any) -> Any:
        return CfgNode._decode_cfg_value(value)  # a dictionary becomes a plain node

    def merge_from_other_cfg(self, cfg_other: CfgNode) -> None:
        super().merge_from_other_cfg(_with_floats(cfg_other, self))

    def merge_from_list(self, cfg_list: list[Any]) -> None:
        values = list(cfg_list)
        for place in range(0, len(values) - 1, 2):
            values[place + 1] = _as_float(values[place + 1], find(self, str(values[place])))
        super().merge_from_list(values)


def _with_floats(tree: dict[str, Any], known: Any) -> CfgNode:
    """A copy of `tree` in which whole numbers are floats where `known` has a float."""
    copy = CfgNode()
    for key, value in tree.items():
        default = known.get(key) if isinstance(known, CfgNode) else None
        copy[key] = _with_floats(value, default) if isinstance(value, CfgNode) else _as_float(value, default)
    return copy


def _as_float(value: Any, default: Any) -> Any:
    """A whole number, or a string that spells one, as a float if the default is a float."""
    if not isinstance(default, float):
        return value
    number = CfgNode._decode_cfg_value(value)
    return float(number) if type(number) is int else value


def find(cfg: CfgNode, key: str) -> Any:
    """The value of a dotted key; None if there is no such key."""
    node: Any = cfg
    for part in key.split("."):
        node = node.get(part) if isinstance(node, CfgNode) else None
    return node


def nested(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """The tree with these dotted keys and values."""
    tree: dict[str, Any] = {}
    for key, value in pairs:
        *nodes, leaf = key.split(".")
        node = tree
        for name in nodes:
            node = node.setdefault(name, {})
        node[leaf] = value
    return tree


def plain(config: Any) -> Any:
    """A config tree as JSON and YAML's safe form know it: nested dictionaries, lists, numbers and strings."""
    if isinstance(config, dict):
        return {str(key): plain(value) for key, value in config.items()}
    if isinstance(config, (list, tuple)):
        return [plain(value) for value in config]
    return config if isinstance(config, (str, int, float, bool, type(None))) else str(config)
