"""What the meta-regularisation does, once an epoch in the log and in TensorBoard.

* gamma's mean and spread per prompt tensor: whether the modulator distinguishes entries;
* norms of g, r and of the outer gradient: which of them drives the update;
* cosine between the inner update g + gamma * r and the outer gradient: whether adapting to the support also helps the
  query (the paper's gradient-alignment argument).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from trainers.core.gradients import Theta

STATE = "monitor"
"""Key of a trainer's training state within an epoch."""


class MetaMonitor:
    """Collects one batch in `every` (0: none), keeps sums on the device, and reads them once an epoch."""

    def __init__(self, every: int) -> None:
        self.every = every
        self._sums: dict[str, Tensor] = defaultdict(lambda: torch.zeros(()))
        self._count = 0

    def state(self) -> dict[str, Any]:
        """What has been collected in this epoch, for a trainer's training state; empty between epochs."""
        return {STATE: {"sums": dict(self._sums), "count": self._count}} if self._count else {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue with what `state` returned."""
        collected = state.get(STATE)
        if self.every and collected:
            self._sums.update(collected["sums"])
            self._count = int(collected["count"])

    def due(self, batch_idx: int) -> bool:
        """Whether this batch is one to be recorded."""
        return self.every > 0 and batch_idx % self.every == 0

    @torch.no_grad()
    def record(self, g: Theta, r: Theta, gamma: Theta, update: Theta, outer: Theta) -> None:
        """Add one meta step: gradients, modulation, inner update and outer gradient of every prompt tensor."""
        flat = {"g": _flat(g), "r": _flat(r), "outer": _flat(outer)}
        values = {f"norm_{name}": vector.norm() for name, vector in flat.items()}
        values["cosine_inner_outer"] = torch.cosine_similarity(_flat(update), flat["outer"], dim=0)
        for name, weights in gamma.items():
            values[f"gamma_mean/{name}"] = weights.mean()
            values[f"gamma_std/{name}"] = weights.std(correction=0)
        for name, value in values.items():
            self._sums[name] = self._sums[name].to(value.device) + value
        self._count += 1

    def report(self, epoch: int, write_scalar: Callable[[str, float, int], None]) -> dict[str, float]:
        """Print and write the epoch's means, and start again.

        Args:
            epoch: index of the epoch.
            write_scalar: takes a name, a value and the epoch.

        Returns:
            The means by name.
        """
        if not self._count:
            return {}
        means = {name: (total / self._count).item() for name, total in self._sums.items()}
        for name, value in means.items():
            write_scalar(f"meta/{name}", value, epoch)
        print(
            f"meta: |g| {means['norm_g']:.3e} |r| {means['norm_r']:.3e} |outer| {means['norm_outer']:.3e} "
            f"cos(inner, outer) {means['cosine_inner_outer']:+.4f} ({self._count} batches)"
        )
        for name in (key.removeprefix("gamma_mean/") for key in means if key.startswith("gamma_mean/")):
            print(f"meta: gamma {means[f'gamma_mean/{name}']:.6f} +- {means[f'gamma_std/{name}']:.1e} {name}")
        self._sums.clear()
        self._count = 0
        return means


def _flat(gradients: Theta) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in gradients.values()])
