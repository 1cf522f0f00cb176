"""Backbones, heads and networks by name. `dassl.modeling.ops` has operations on batches, labels and models."""

from .backbone import BACKBONE_REGISTRY, Backbone, build_backbone
from .head import HEAD_REGISTRY, build_head
from .network import NETWORK_REGISTRY, build_network
