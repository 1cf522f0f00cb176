"""Heads by name."""

from . import mlp  # noqa: F401 - registers its head
from .build import HEAD_REGISTRY, build_head

__all__ = ["HEAD_REGISTRY", "build_head"]
