"""Running averages of the values that training reports."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from numbers import Number

import torch


class AverageMeter:
    """Last value and average (or exponential moving average) of a series.

    Args:
        ema: exponential moving average with weight 0.9 on the past, instead of the mean.
    """

    def __init__(self, ema: bool = False) -> None:
        self.ema = ema
        self.reset()

    def reset(self) -> None:
        self.val = 0.0
        self.avg = 0.0
        self.sum = 0.0
        self.count = 0

    def update(self, val: float | torch.Tensor, n: int = 1) -> None:
        """Add `val`, counted `n` times."""
        if isinstance(val, torch.Tensor):
            val = val.item()
        self.val = val
        self.sum += val * n
        self.count += n
        self.avg = self.avg * 0.9 + self.val * 0.1 if self.ema else self.sum / self.count


class MetricMeter:
    """One AverageMeter per metric: `update({"loss": 1.2, "acc": 50.0})`, then `str(meter)`."""

    def __init__(self, delimiter: str = " ") -> None:
        self.meters: dict[str, AverageMeter] = defaultdict(AverageMeter)
        self.delimiter = delimiter

    def update(self, input_dict: Mapping[str, float | torch.Tensor] | None) -> None:
        """Add one value per metric; None is ignored.

        Raises:
            TypeError: a value is not a number.
        """
        if input_dict is None:
            return
        if not isinstance(input_dict, Mapping):
            raise TypeError(f"MetricMeter.update() needs a dictionary of numbers, not {type(input_dict).__name__}")
        for name, value in input_dict.items():
            if not isinstance(value, (Number, torch.Tensor)):
                raise TypeError(f'metric "{name}" is not a number but {type(value).__name__}')
            self.meters[name].update(value)

    def __str__(self) -> str:
        return self.delimiter.join(f"{name} {meter.val:.4f} ({meter.avg:.4f})" for name, meter in self.meters.items())
