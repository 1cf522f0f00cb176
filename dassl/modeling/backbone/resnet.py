"""ResNets as backbones: torchvision's layers under Dassl's names, with or without MixStyle between them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any
from urllib.error import URLError

import torch

from dassl.modeling.ops.mixstyle import MixStyle
from dassl.utils.errors import UserError

from .backbone import Backbone
from .build import BACKBONE_REGISTRY

_STAGES = ("layer1", "layer2", "layer3", "layer4")


class ResNet(Backbone):
    """A ResNet without its classifier: images [B, 3, H, W] -> features [B, out_features].

    Args:
        name: torchvision's name.
        pretrained: load torchvision's first ImageNet weights, downloaded when needed.
        ms_layers: stages after which the features go through MixStyle.
    """

    def __init__(self, name: str, pretrained: bool, ms_layers: Collection[str] = ()) -> None:
        import torchvision  # slow to import, and only these backbones need it

        super().__init__()
        try:
            net = torchvision.models.get_model(name, weights="IMAGENET1K_V1" if pretrained else None)
        except (URLError, OSError) as error:
            raise UserError(
                f"cannot download weights of {name} ({error}); set MODEL.BACKBONE.PRETRAINED False"
            ) from error
        assert isinstance(net, torchvision.models.ResNet)
        self._out_features = net.fc.in_features
        for child_name, child in net.named_children():
            if child_name != "fc":
                self.add_module(child_name, child)
        self.mixstyle = MixStyle(p=0.5, alpha=0.1) if ms_layers else None
        self.ms_layers = tuple(ms_layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in ("conv1", "bn1", "relu", "maxpool"):
            x = self.get_submodule(name)(x)
        for name in _STAGES:
            x = self.get_submodule(name)(x)
            if self.mixstyle is not None and name in self.ms_layers:
                x = self.mixstyle(x)
        return self.get_submodule("avgpool")(x).flatten(1)  # [B, C, 1, 1] -> [B, C]


def _registered(name: str, mixed_stages: int = 0) -> Callable[..., ResNet]:
    """Register a backbone `resnet<depth>...` with MixStyle after its first stages."""

    def build(pretrained: bool = True, **kwargs: Any) -> ResNet:
        return ResNet(name.partition("_")[0], pretrained, _STAGES[:mixed_stages])

    build.__name__ = name
    return BACKBONE_REGISTRY.register(build)


resnet18 = _registered("resnet18")
resnet34 = _registered("resnet34")
resnet50 = _registered("resnet50")
resnet101 = _registered("resnet101")
resnet152 = _registered("resnet152")
resnet18_ms_l1 = _registered("resnet18_ms_l1", 1)
resnet18_ms_l12 = _registered("resnet18_ms_l12", 2)
resnet18_ms_l123 = _registered("resnet18_ms_l123", 3)
resnet50_ms_l1 = _registered("resnet50_ms_l1", 1)
resnet50_ms_l12 = _registered("resnet50_ms_l12", 2)
resnet50_ms_l123 = _registered("resnet50_ms_l123", 3)
resnet101_ms_l1 = _registered("resnet101_ms_l1", 1)
resnet101_ms_l12 = _registered("resnet101_ms_l12", 2)
resnet101_ms_l123 = _registered("resnet101_ms_l123", 3)
