"""Networks by name."""

from __future__ import annotations

from typing import Any

from dassl.utils.registry import Registry

NETWORK_REGISTRY = Registry("NETWORK")
"""Filled by trainer files: `@NETWORK_REGISTRY.register()`."""


def build_network(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    """The network called `name`; `kwargs` are passed to it.

    Raises:
        UnknownNameError: there is no such name; the available ones are listed.
    """
    return NETWORK_REGISTRY.build(name, verbose, **kwargs)
