"""ResNets of torchvision as backbones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.error import URLError

import torch
from torch import nn

from dassl.utils.errors import UserError

from .backbone import Backbone
from .build import BACKBONE_REGISTRY

_NAMES = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


class ResNet(Backbone):
    """A ResNet without its classifier; `pretrained` downloads torchvision's first ImageNet weights."""

    def __init__(self, name: str, pretrained: bool) -> None:
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
        net.fc = nn.Identity()  # pyright: ignore[reportAttributeAccessIssue] - declared as the Linear it was made with
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def _register(name: str) -> None:
    def build(pretrained: bool = True, **kwargs: Any) -> ResNet:
        return ResNet(name, pretrained)

    named: Callable[..., ResNet] = build
    named.__name__ = name
    BACKBONE_REGISTRY.register(named)


for _name in _NAMES:
    _register(_name)
