"""Networks by name."""

from dassl.utils.registry import Registry

NETWORK_REGISTRY = Registry("NETWORK")
"""Filled by trainer files: `@NETWORK_REGISTRY.register()`."""
build_network = NETWORK_REGISTRY.build
