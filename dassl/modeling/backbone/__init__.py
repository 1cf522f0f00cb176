"""Backbones by name."""

from . import resnet  # registers its backbones
from .backbone import Backbone
from .build import BACKBONE_REGISTRY, build_backbone
