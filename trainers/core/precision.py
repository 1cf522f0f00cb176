"""PREC: the precision of the frozen towers and of autocast. Learned tensors are float32 in every mode."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor

from clip.model import CLIP, convert_weights
from dassl.utils import UserError
from trainers.core.gradients import Gradients, multiply

CHOICES = ("fp32", "fp16", "bf16", "amp")


@dataclass(frozen=True)
class Precision:
    """How a trainer computes on one device."""

    name: str
    device: torch.device

    @classmethod
    def choose(cls, prec: str, device: torch.device) -> Precision:
        """Precision for a config's PREC. On a CPU float16 falls back to float32, with a line that says so.

        Raises:
            UserError: unknown PREC.
        """
        if prec not in CHOICES:
            raise UserError(f"unknown PREC {prec!r}: choose one of {', '.join(CHOICES)}")
        if prec == "fp16" and device.type == "cpu":
            print("PREC fp16 is not available on a CPU: using fp32")
            prec = "fp32"
        return cls(prec, device)

    def convert(self, clip: CLIP) -> CLIP:
        """The model with its towers in this precision (amp: float32)."""
        if self.name in ("fp16", "bf16"):
            convert_weights(clip, torch.float16 if self.name == "fp16" else torch.bfloat16)
        return clip

    def autocast(self) -> AbstractContextManager:
        """Context of a forward pass; does nothing unless amp. Half precision is bfloat16 on a CPU."""
        half = torch.bfloat16 if self.device.type == "cpu" else torch.float16
        return torch.autocast(self.device.type, dtype=half, enabled=self.name == "amp")

    @property
    def lift(self) -> float:
        """Power of two that lifts the small cotangents of a second derivative out of float16's underflow."""
        half = self.name == "fp16" or (self.name == "amp" and self.device.type == "cuda")
        return 256.0 if half else 1.0

    def lowered(self, gradients: Mapping[str, Tensor], factor: float) -> Gradients:
        """Gradients of a loss that was lifted, times a factor, with the lift taken out.

        The factor belongs here, after everything else: a small one would undo the lift.
        """
        return multiply(gradients, factor / self.lift)

    def grad_scaler(self) -> torch.amp.GradScaler:
        """Loss scaler for float16 autocast; passes everything through in the other modes."""
        return torch.amp.GradScaler(self.device.type, enabled=self.name == "amp" and self.device.type == "cuda")
