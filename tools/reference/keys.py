"""All config keys with their defaults and what the code says about them."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import trainers
from dassl.config import defaults, leaves
from dassl.engine import TRAINER_REGISTRY
from runner.config import default_cfg
from tools.reference.comments import ANY, comments_of_keys
from tools.reference.undocumented import refuse_undocumented

OPTIMISER = "OPTIM"


class Key(NamedTuple):
    """A config key."""

    name: str
    default: Any
    meaning: str


class Group(NamedTuple):
    """Keys of one node.

    Args:
        title: the node's name.
        note: what to say about the whole node; may be empty.
        keys: in the order of the code; empty for a node whose settings belong to a trainer that is not here.
    """

    title: str
    note: str
    keys: list[Key]


def key_groups() -> list[Group]:
    """All keys, by node.

    Raises:
        UserError: no comment describes one.
    """
    meanings, users = _meanings(), _trainers_by_node()
    groups = {"": Group("At the top", "", [])}
    absent: dict[str, list[str]] = {}
    for name, default in leaves(default_cfg()):
        node = _group_of(name)
        if node.startswith("TRAINER.") and node.partition(".")[2] not in users:
            absent.setdefault(node, []).append(name.removeprefix(f"{node}."))
            continue
        group = groups.setdefault(node, Group(node, _note(node, users), []))
        group.keys.append(Key(name, default, _meaning(name, meanings)))
    silent = [key.name for group in groups.values() for key in group.keys if not key.meaning]
    refuse_undocumented("config keys", silent, "write a comment behind each, where its default is")
    return [*groups.values(), Group("Nodes of trainers that are not here", _note_on_absent(absent), [])]


def _group_of(name: str) -> str:
    """The node under which a key is listed: TRAINER has one a method, all others are listed as a whole."""
    parts = name.split(".")
    depth = 2 if parts[0] == "TRAINER" and len(parts) > 2 else 1
    return ".".join(parts[:depth]) if len(parts) > 1 else ""


def _trainers_by_node() -> dict[str, list[str]]:
    """Names of the trainers of this project that have a config node."""
    found: dict[str, list[str]] = {}
    for kind in _kinds():
        node = getattr(kind, "config_node", "")
        if node:
            found.setdefault(node, []).append(kind.__name__)
    return found


def _kinds() -> Iterator[type]:
    """The trainers that are here; not those that others registered."""
    for name in TRAINER_REGISTRY.registered_names():
        kind = TRAINER_REGISTRY.get(name)
        if kind.__module__.startswith(f"{trainers.__name__}."):
            yield kind


def _note(node: str, users: Mapping[str, Iterable[str]]) -> str:
    if node == f"{OPTIMISER}_VNET":
        return "The optimiser of ProMetaR's gradient modulator."
    names = users.get(node.partition(".")[2], ())
    return f"Of the trainer `{'`, `'.join(names)}`." if node.startswith("TRAINER.") else ""


def _note_on_absent(absent: Mapping[str, Iterable[str]]) -> str:
    nodes = ", ".join(f"`{node}` ({', '.join(keys)})" for node, keys in absent.items())
    return f"They let YAML files that were written for Dassl merge, and have no effect: {nodes}."


def _meanings() -> dict[str, str]:
    """Comments of all keys."""
    found: dict[str, str] = {}
    for module in (defaults, datasets, trainers):
        found |= comments_of_keys(Path(inspect.getfile(module)))
    for kind in _kinds():
        comments = comments_of_keys(Path(inspect.getfile(kind)))
        node = getattr(kind, "config_node", "")
        found |= {key.replace(f"TRAINER.{ANY}", f"TRAINER.{node}"): text for key, text in comments.items()}
    return found


def _meaning(name: str, meanings: Mapping[str, str]) -> str:
    """What is said about a key; the keys of a second optimiser mean what those of OPTIM do."""
    node, _, rest = name.partition(".")
    if name not in meanings and node.startswith(f"{OPTIMISER}_"):
        return f"as `{OPTIMISER}.{rest}`" if f"{OPTIMISER}.{rest}" in meanings else ""
    return meanings.get(name, "")
