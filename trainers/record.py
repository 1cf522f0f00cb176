"""What a run folder says about itself, so that a checkpoint in it can be used without the data it was trained on.

`config.yaml` is the whole configuration, `classnames.json` the class names in the order of their labels.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from yacs.config import CfgNode

from dassl.config import plain
from dassl.utils import (
    BadTypeError,
    MissingFileError,
    UnknownKeyError,
    UnreadableFileError,
    read_json,
    write_text_atomically,
)
from dassl.utils.yaml_files import read_yaml

CONFIG_NAME, CLASSNAMES_NAME = "config.yaml", "classnames.json"


class Record(NamedTuple):
    """A run's configuration and class names."""

    cfg: CfgNode
    classnames: list[str]


def write_record(folder: str | os.PathLike[str], cfg: CfgNode, classnames: Sequence[str]) -> None:
    """Put both files into `folder`, unless they hold just this already."""
    texts = {
        CONFIG_NAME: yaml.safe_dump(plain(cfg), sort_keys=False, allow_unicode=True),
        CLASSNAMES_NAME: json.dumps(list(classnames), indent=1),
    }
    for name, text in texts.items():
        path = Path(folder, name)
        if not path.is_file() or path.read_bytes() != text.encode():
            write_text_atomically(path, text)


def read_record(folder: str | os.PathLike[str], defaults: CfgNode) -> Record:
    """What `write_record` wrote, merged into `defaults` (which stays as it is).

    Raises:
        UserError: a file is missing or does not hold what it should.
    """
    config, names = Path(folder, CONFIG_NAME), Path(folder, CLASSNAMES_NAME)
    for path in (config, names):
        if not path.is_file():
            raise MissingFileError(f"{folder} is no folder of a trained model: it holds no {path.name}")
    tree = read_yaml(config)
    if not isinstance(tree, dict):
        raise UnreadableFileError(f"{config} does not hold a configuration")
    cfg = defaults.clone()
    _restore(cfg, tree, config)
    classnames = read_json(names)
    if not isinstance(classnames, list) or not classnames or not all(isinstance(name, str) for name in classnames):
        raise UnreadableFileError(f"{names} does not hold a list of class names")
    return Record(cfg, classnames)


def _restore(node: CfgNode, tree: dict[str, Any], path: Path, prefix: str = "") -> None:
    """Put recorded values into `node` as they are; yacs' own merging would take the string "1" for a number."""
    for key, value in tree.items():
        name = f"{prefix}{key}"
        if key not in node and not node.is_new_allowed():
            raise UnknownKeyError(f"{path}: unknown config key {name}")
        default = node.get(key)
        if isinstance(default, CfgNode) != isinstance(value, dict):
            raise BadTypeError(f"{path}: config key {name} cannot be {value!r}")
        if isinstance(default, CfgNode):
            _restore(default, value, path, f"{name}.")
        else:
            node[key] = _of_type(default, value, f"{path}: config key {name}")


def _of_type(default: Any, value: Any, what: str) -> Any:
    """The value as a configuration holds it: YAML knows no tuples, and writes some floats like integers."""
    if isinstance(default, tuple) and isinstance(value, list):
        return tuple(value)
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if default is not None and value is not None and type(value) is not type(default):
        raise BadTypeError(f"{what} wants a {type(default).__name__}, but got {value!r}")
    return value
