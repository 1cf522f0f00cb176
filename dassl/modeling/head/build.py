"""Heads by name."""

from dassl.utils.registry import Registry

HEAD_REGISTRY = Registry("HEAD")
build_head = HEAD_REGISTRY.build
