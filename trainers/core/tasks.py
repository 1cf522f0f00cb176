"""The tasks of a meta step: one class of a batch is the query, the others are the support.

Shapes: B images of a batch, q of the query, s of the support, e joint embedding.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Batch(NamedTuple):
    """Images [B, 3, H, W], labels [B] and the teacher's features f0 [B, e]."""

    images: Tensor
    labels: Tensor
    teacher: Tensor

    def at(self, index: Tensor) -> Batch:
        """The images at `index`."""
        index = index.to(self.images.device, non_blocking=True)
        return Batch(self.images[index], self.labels[index], self.teacher[index])


class Task(NamedTuple):
    """A query class against the rest of the batch. Indices into the batch, except `mix`."""

    query: Tensor  # [q] images of the query class
    support: Tensor  # [s] all others
    lam: Tensor  # [q] weight of each query image in its mixture
    mix: Tensor  # [q] index into `support` of each query image's partner

    def to(self, device: torch.device) -> Task:
        """The same task on `device`."""
        return Task(*(tensor.to(device, non_blocking=True) for tensor in self))

    def images(self) -> Tensor:
        """[2 q] the query images, then their partners"""
        return torch.cat([self.query, self.support[self.mix]])


def sample_task(labels: Tensor, alpha: float, beta: float) -> Task | None:
    """Draw a task from a batch's labels [B] (on the CPU), or None when they are all the same.

    The draws come from the global generator in this order: query class, lambda ~ Beta(alpha, beta), partners.
    """
    classes = labels.unique()
    if len(classes) < 2:
        return None
    is_query = labels == classes[torch.randperm(len(classes))[0]]
    query, support = is_query.nonzero().squeeze(1), (~is_query).nonzero().squeeze(1)
    lam = torch.distributions.Beta(alpha, beta).sample((len(query),))
    mix = torch.randint(len(support), (len(query),))
    return Task(query, support, lam, mix)
