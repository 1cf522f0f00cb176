"""MixStyle (Zhou et al., "Domain Generalization with MixStyle", ICLR 2021): mixes feature statistics of images."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dassl.utils.errors import BadValueError

_WAYS = ("random", "crossdomain")


class MixStyle(nn.Module):
    """Replaces each image's channel statistics by a mixture with those of another image; only in training.

    For features x with mean mu and deviation sigma over the positions of each channel, and a partner image (mu',
    sigma'): lam ~ Beta(alpha, alpha), one per image, and
    (x - mu) / sigma * (lam sigma + (1 - lam) sigma') + lam mu + (1 - lam) mu'. The statistics are constants for the
    gradient.

    Args:
        p: probability that a batch is mixed (drawn with Python's `random`, as in Dassl).
        alpha: of the Beta distribution.
        eps: added to the variances.
        mix: "random": any partner; "crossdomain": the batch is half of one domain and half of another, and partners
            are of the other half.
    """

    def __init__(self, p: float = 0.5, alpha: float = 0.1, eps: float = 1e-6, mix: str = "random") -> None:
        super().__init__()
        self.p = p
        self.beta = torch.distributions.Beta(alpha, alpha)
        self.eps = eps
        self.alpha = alpha
        self.update_mix_method(mix)
        self._activated = True

    def __repr__(self) -> str:
        return f"MixStyle(p={self.p}, alpha={self.alpha}, eps={self.eps}, mix={self.mix})"

    def set_activation_status(self, status: bool = True) -> None:
        self._activated = status

    def update_mix_method(self, mix: str = "random") -> None:
        """Choose how partners are drawn.

        Raises:
            BadValueError: there is no such way.
        """
        if mix not in _WAYS:
            raise BadValueError(f'unknown mix "{mix}" of MixStyle; available: {", ".join(_WAYS)}')
        self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] -> [B, C, H, W]"""
        if not self.training or not self._activated or random.random() > self.p:
            return x
        mean = x.mean(dim=[2, 3], keepdim=True).detach()  # [B, C, 1, 1]
        std = (x.var(dim=[2, 3], keepdim=True) + self.eps).sqrt().detach()
        lam = self.beta.sample([len(x), 1, 1, 1]).to(x)
        partner = self._partners(len(x)).to(x.device)
        mixed_mean = lam * mean + (1 - lam) * mean[partner]
        mixed_std = lam * std + (1 - lam) * std[partner]
        return (x - mean) / std * mixed_std + mixed_mean

    def _partners(self, count: int) -> Tensor:
        """The index of each image's partner, [B]."""
        if self.mix == "random":
            return torch.randperm(count)
        # the halves change places, each in a random order; of an odd batch, the second half is the smaller one
        second, first = torch.arange(count - 1, -1, -1).chunk(2)
        return torch.cat([second[torch.randperm(len(second))], first[torch.randperm(len(first))]])


def _to_mixstyle(change: Callable[[MixStyle], None]) -> Callable[[nn.Module], None]:
    """For `model.apply`: change a MixStyle; other modules stay as they are."""

    def apply(module: nn.Module) -> None:
        if isinstance(module, MixStyle):
            change(module)

    return apply


activate_mixstyle = _to_mixstyle(lambda mixstyle: mixstyle.set_activation_status(True))
deactivate_mixstyle = _to_mixstyle(lambda mixstyle: mixstyle.set_activation_status(False))
random_mixstyle = _to_mixstyle(lambda mixstyle: mixstyle.update_mix_method("random"))
crossdomain_mixstyle = _to_mixstyle(lambda mixstyle: mixstyle.update_mix_method("crossdomain"))


@contextmanager
def run_without_mixstyle(model: nn.Module) -> Iterator[None]:
    """Switch every MixStyle of a model off, and on again at the end."""
    model.apply(deactivate_mixstyle)
    try:
        yield
    finally:
        model.apply(activate_mixstyle)


@contextmanager
def run_with_mixstyle(model: nn.Module, mix: str | None = None) -> Iterator[None]:
    """Switch every MixStyle of a model on, and off at the end.

    Args:
        mix: "random" or "crossdomain"; None: as it is set.
    """
    if mix is not None:
        model.apply(_to_mixstyle(lambda mixstyle: mixstyle.update_mix_method(mix)))
    model.apply(activate_mixstyle)
    try:
        yield
    finally:
        model.apply(deactivate_mixstyle)
