"""RandAugment and its variants under Dassl's names; the operations are torchvision's."""

from __future__ import annotations

from torchvision import transforms

__all__ = ["RandAugment", "RandAugment2", "RandAugmentFixMatch"]


class RandAugment(transforms.RandAugment):
    """`n` random operations of strength `m` (0 to 30) on a PIL image (Cubuk et al., 2020)."""

    def __init__(self, n: int = 2, m: int = 10) -> None:
        super().__init__(n, m)


class RandAugment2(transforms.RandomApply):
    """With probability `p`: `n` random operations, each of random strength."""

    def __init__(self, n: int = 2, p: float = 0.6) -> None:
        super().__init__([transforms.TrivialAugmentWide() for _ in range(n)], p)


class RandAugmentFixMatch(RandAugment2):
    """`n` random operations, each of random strength (Sohn et al., "FixMatch", 2020)."""

    def __init__(self, n: int = 2) -> None:
        super().__init__(n, p=1.0)
