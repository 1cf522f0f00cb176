"""ResNets as backbones: torchvision's layers under Dassl's names, with or without MixStyle between them."""

from __future__ import annotations

from collections.abc import Collection
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
        ms_p: its probability.
        ms_a: its alpha.
    """

    def __init__(
        self, name: str, pretrained: bool, ms_layers: Collection[str] = (), ms_p: float = 0.5, ms_a: float = 0.1
    ) -> None:
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
        self.mixstyle = MixStyle(ms_p, ms_a) if ms_layers else None
        self.ms_layers = tuple(ms_layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in ("conv1", "bn1", "relu", "maxpool"):
            x = self.get_submodule(name)(x)
        for name in _STAGES:
            x = self.get_submodule(name)(x)
            if self.mixstyle is not None and name in self.ms_layers:
                x = self.mixstyle(x)
        return self.get_submodule("avgpool")(x).flatten(1)  # [B, C, 1, 1] -> [B, C]


@BACKBONE_REGISTRY.register()
def resnet18(pretrained: bool = True, **kwargs: Any) -> ResNet:
    return ResNet("resnet18", pretrained)


@BACKBONE_REGISTRY.register()
def resnet34(pretrained: bool = True, **kwargs: Any) -> ResNet:
    return ResNet("resnet34", pretrained)


@BACKBONE_REGISTRY.register()
def resnet50(pretrained: bool = True, **kwargs: Any) -> ResNet:
    return ResNet("resnet50", pretrained)


@BACKBONE_REGISTRY.register()
def resnet101(pretrained: bool = True, **kwargs: Any) -> ResNet:
    return ResNet("resnet101", pretrained)


@BACKBONE_REGISTRY.register()
def resnet152(pretrained: bool = True, **kwargs: Any) -> ResNet:
    return ResNet("resnet152", pretrained)


# With MixStyle after stage 1, after 1 and 2, after 1, 2 and 3


@BACKBONE_REGISTRY.register()
def resnet18_ms_l1(pretrained: bool = True, **kwargs: Any) -> ResNet:
    return ResNet("resnet18", pretrained, _STAGES[:1])


@BACKBONE_REGISTRY.register()
def resnet18_ms_l12(pretrained: bool = True, **kwargs: Any) -> ResNet:
    return ResNet("resnet18", pretrained, _STAGES[:2])


@BACKBONE_REGISTRY.register()
def resnet18_ms_l123(pretrained: bool = True, **kwargs: Any) -> ResNet:
    return ResNet("resnet18", pretrained, _STAGES[:3])


@BACKBONE_REGISTRY.register()
def resnet50_ms_l1(pretrained: bool = True, **kwargs: Any) -> ResNet:
    return ResNet("resnet50", pretrained, _STAGES[:1])


@BACKBONE_REGISTRY.register()
def resnet50_ms_l12(pretrained: bool = True, **kwargs: Any) -> ResNet:
    return ResNet("resnet50", pretrained, _STAGES[:2])


@BACKBONE_REGISTRY.register()
def resnet50_ms_l123(pretrained: bool = True, **kwargs: Any) -> ResNet:
    return ResNet("resnet50", pretrained, _STAGES[:3])


@BACKBONE_REGISTRY.register()
def resnet101_ms_l1(pretrained: bool = True, **kwargs: Any) -> ResNet:
    return ResNet("resnet101", pretrained, _STAGES[:1])


@BACKBONE_REGISTRY.register()
def resnet101_ms_l12(pretrained: bool = True, **kwargs: Any) -> ResNet:
    return ResNet("resnet101", pretrained, _STAGES[:2])


@BACKBONE_REGISTRY.register()
def resnet101_ms_l123(pretrained: bool = True, **kwargs: Any) -> ResNet:
    return ResNet("resnet101", pretrained, _STAGES[:3])
