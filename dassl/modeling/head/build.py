"""Heads by name."""

from __future__ import annotations

from typing import Any

from dassl.utils.registry import Registry

HEAD_REGISTRY = Registry("HEAD")


def build_head(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    """The head called `name`; `kwargs` are passed to it.

    Raises:
        UnknownNameError: there is no such name; the available ones are listed.
    """
    return HEAD_REGISTRY.build(name, verbose, **kwargs)
