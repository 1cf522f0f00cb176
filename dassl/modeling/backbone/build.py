"""Backbones by name."""

from dassl.utils.registry import Registry

BACKBONE_REGISTRY = Registry("BACKBONE")
build_backbone = BACKBONE_REGISTRY.build
