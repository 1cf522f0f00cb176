"""Networks by name: whole models that a trainer builds beside its own, such as generators."""

from .build import NETWORK_REGISTRY, build_network
