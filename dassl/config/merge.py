"""Merging YAML files and `KEY VALUE` pairs into the configuration, with errors that name the remedy."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from typing import Any

from yacs.config import CfgNode

from dassl.utils.errors import BadTypeError, BadValueError, UnknownKeyError, UnreadableFileError
from dassl.utils.names import get_most_similar_str_to_a_from_b
from dassl.utils.yaml_files import read_yaml

from .differences import leaves
from .node import find, nested

_FLAG = re.compile(r"--[A-Za-z]")
_NAMED = 3  # keys that an error message suggests


def merge_file(cfg: CfgNode, path: str) -> None:
    """Merge a YAML file into `cfg`.

    `cfg` is unchanged when an error is raised. Each message names the file.

    Raises:
        MissingFileError: there is no such file.
        UnreadableFileError: it cannot be read, is not a YAML mapping, or has a key twice.
        UnknownKeyError: it has an unknown key; the most similar one is suggested.
        BadTypeError: a value has the wrong type.
    """
    content = read_yaml(path)
    if content is None:
        return
    if not isinstance(content, dict):
        raise UnreadableFileError(
            f"the config file {path} should contain keys with values, not a {type(content).__name__}"
        )
    pairs = list(leaves(content))
    repeated = [key for key, count in Counter(str(key) for key, _ in pairs).items() if count > 1]
    if repeated:  # as OPTIM.LR and as LR in OPTIM
        raise UnreadableFileError(f'the config file {path} has the key "{repeated[0]}" twice')
    _merge(cfg, pairs, f" in {path}")


def merge_opts(cfg: CfgNode, opts: list[Any]) -> None:
    """Merge `["KEY.A", value, "KEY.B", value, ...]` into `cfg`; strings are read as Python literals if they can be.

    `cfg` is unchanged when an error is raised.

    Raises:
        UnknownKeyError: there is no such key; the most similar one is suggested.
        BadTypeError: a value has the wrong type.
        BadValueError: the words are not KEY VALUE pairs.
    """
    _check_pairs(opts, dict(leaves(cfg)))
    _merge(cfg, list(zip(opts[0::2], opts[1::2], strict=True)), "")


def clean_cfg(cfg: CfgNode, trainer: str) -> None:
    """Remove the settings of other trainers, for a shorter printout."""
    for key in list(cfg.TRAINER.keys()):
        if key not in ("NAME", trainer.upper()):
            cfg.TRAINER.pop(key, None)


def _check_pairs(words: list[Any], known: dict[str, Any]) -> None:
    """Check that words are KEY VALUE pairs.

    Raises:
        BadValueError: they are not; the wrong word is named.
    """
    for word in map(str, words):
        if _FLAG.match(word):
            raise BadValueError(f"{word} comes after the pair of {words[0]}: flags go before the KEY VALUE pairs")
    for key in map(str, words[::2]):
        name, equals, value = key.partition("=")
        if equals:
            raise BadValueError(
                f"write the config option as KEY VALUE, without an equals sign: {name} {value}, not {key}"
            )
    if len(words) % 2:
        raise BadValueError(f"config options come in pairs KEY VALUE, but {_odd_word(words, known)}")


def _odd_word(words: list[Any], known: dict[str, Any]) -> str:
    """What is wrong with an odd number of words."""
    for key, value in zip(words[::2], [*words[1::2], None], strict=True):
        if key not in known:
            return f'"{key}" is not a key (a value with spaces needs quotation marks)'
        if value is None or value in known:
            return f"{key} has no value"
    raise AssertionError("an odd number of words ends with a key without value")


def _merge(cfg: CfgNode, pairs: list[tuple[str, Any]], where: str) -> None:
    was_frozen = cfg.is_frozen()
    for tree in (cfg.clone(), cfg):  # a copy first, so that an error leaves `cfg` as it was
        tree.defrost()
        for key, value in pairs:
            _set(tree, str(key), value, where)
    if was_frozen:
        cfg.freeze()


def _set(cfg: CfgNode, key: str, value: Any, where: str) -> None:
    known = dict(leaves(cfg))
    if any(name.startswith(f"{key}.") for name in known):
        raise BadTypeError(f'config key "{key}"{where} is a group of keys and cannot have a value')
    if key not in known and not _is_new_key_allowed(cfg, key):
        raise UnknownKeyError(f'unknown config key "{key}"{where}; did you mean {_nearest(key, known)}?')
    try:
        value = CfgNode._decode_cfg_value(value)
        if value is None and known.get(key) is not None:
            raise TypeError("yacs would accept None for any type")
        _check_is_usable(value)
        cfg.merge_from_other_cfg(CfgNode(nested([(key, value)])))
    except (
        ValueError, AssertionError, KeyError, SyntaxError, TypeError, RecursionError, MemoryError, OverflowError
    ) as error:  # fmt: skip
        expected = type_words(known.get(key))
        raise BadTypeError(f"config key {key}{where} should be {expected}, not {repr(value)[:200]}") from error


def type_words(value: Any) -> str:
    """The type of a configured value in words."""
    words = {bool: "True or False", int: "a whole number", float: "a number", str: "text"}
    return words.get(type(value), "a list such as (1, 2)" if isinstance(value, (list, tuple)) else "another value")


def _nearest(key: str, known: dict[str, Any]) -> str:
    """The keys that end in `key` (TRAINER.COOP.N_CTX for COOP.N_CTX), or the one that is spelled most like it."""
    ends = [f'"{name}"' for name in known if name.casefold().endswith(f".{key.casefold()}")]
    if ends:
        return " or ".join(ends[:_NAMED]) + (f" (or one of {len(ends) - _NAMED} more)" if len(ends) > _NAMED else "")
    return f'"{get_most_similar_str_to_a_from_b(key, known)}"'


def _check_is_usable(value: Any) -> None:
    """Check that a value can be computed with, or be a file name.

    Raises:
        ValueError: a whole number beyond 64 bits, NaN, infinity, or text that cannot be a file name.
    """
    for part in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(part, int) and not -(2**63) <= part < 2**63:
            raise ValueError("the number is too large")
        if isinstance(part, float) and not math.isfinite(part):
            raise ValueError("not a finite number")
        if isinstance(part, str):
            os.fsencode(part)
            if "\0" in part:
                raise ValueError("it contains a null character")


def _is_new_key_allowed(cfg: CfgNode, key: str) -> bool:
    above, dot, _ = key.rpartition(".")
    node = find(cfg, above) if dot else cfg
    return isinstance(node, CfgNode) and node.is_new_allowed()
