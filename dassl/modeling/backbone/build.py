"""Backbones by name."""

from __future__ import annotations

from typing import Any

from dassl.utils.registry import Registry

BACKBONE_REGISTRY = Registry("BACKBONE")


def build_backbone(name: str, verbose: bool = True, **kwargs: Any) -> Any:
    """The backbone called `name`; `kwargs` are passed to it.

    Raises:
        UnknownNameError: there is no such name; the available ones are listed.
    """
    return BACKBONE_REGISTRY.build(name, verbose, **kwargs)
