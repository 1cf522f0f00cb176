"""Heads by name."""

from . import mlp  # registers its head
from .build import HEAD_REGISTRY, build_head
