"""Modules that hold given tensors under given names, whatever these are."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class TensorHolder(nn.Module):
    """The tensors of a state dict as parameters (buffers, where they are integers), with a trivial forward."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in state.items():
            *path, leaf = name.split(".")
            module = self
            for part in path:
                if part not in module._modules:
                    module.add_module(part, nn.Module())
                module = module._modules[part]
            if tensor.is_floating_point():
                module.register_parameter(leaf, nn.Parameter(tensor.clone()))
            else:
                module.register_buffer(leaf, tensor.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.logit_scale.exp()


def trace(state: Mapping[str, Tensor]) -> torch.jit.ScriptModule:
    """A TorchScript module with these tensors, `logit_scale` among them."""
    return torch.jit.trace(TensorHolder(state), torch.ones(1))
