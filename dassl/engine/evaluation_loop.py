"""The evaluation of a trainer's model on the images of its data set."""

from __future__ import annotations

import time
from typing import Any

import torch
from yacs.config import CfgNode

from dassl.utils.progress import progress_bar

from .anomalies import check_logits, image_paths
from .trainer_base import TrainerBase


class EvaluationLoop(TrainerBase):
    """Tests the model with the evaluator."""

    cfg: CfgNode
    device: torch.device
    model: Any
    evaluator: Any
    val_loader: Any
    test_loader: Any

    def __init__(self) -> None:
        super().__init__()
        self.test_seconds: float | None = None  # of the last evaluation
        self.tested_images: list[str] = []  # paths, in the order of the last evaluation

    @torch.no_grad()
    def test(self, split: str | None = None, is_final: bool = False) -> float:
        """Evaluate on `test` or `val` (default: TEST.SPLIT); returns the evaluator's first result.

        Without validation images the test images are used, as the printed line says.

        Args:
            is_final: whether training is over. Some versions of Dassl have it for trainers that override this method;
                here the evaluation is the same.
        """
        self.set_model_mode("eval")
        self.evaluator.reset()
        split, loader = split or self.cfg.TEST.SPLIT, self.val_loader
        if split != "val" or loader is None:
            split, loader = "test", self.test_loader
        print(f"Evaluate on the *{split}* set")
        started, self.tested_images = time.time(), []
        for batch in progress_bar(loader, desc=f"test on {split}", unit="batch"):
            input, label = self.parse_batch_test(batch)
            logits = self.inferred_logits(input)
            check_logits(logits, image_paths([batch]), self.checked_models())
            self.evaluator.process(logits, label)
            self.tested_images += image_paths([batch])
        results = self.evaluator.evaluate()
        self.test_seconds = time.time() - started
        for name, value in results.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        return next(iter(results.values()))

    def model_inference(self, input: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of images."""
        return self.model(input)

    def inferred_logits(self, input: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] from `model_inference`, which may return a tuple of which the first is the logits."""
        output = self.model_inference(input)
        return output[0] if isinstance(output, tuple | list) else output

    def parse_batch_test(self, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        """Images and labels on the trainer's device."""
        return self._on_device(batch["img"], batch["label"])

    def _on_device(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Copies on the trainer's device; the host does not wait for copies from pinned memory."""
        return tuple(tensor.to(self.device, non_blocking=True) for tensor in tensors)
