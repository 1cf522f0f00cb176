"""Accuracy, error rate, F1 and confusion matrix of a whole data set."""

from __future__ import annotations

import io
import os.path as osp
from collections import Counter, OrderedDict
from typing import Any

import torch
from yacs.config import CfgNode

from dassl.utils.errors import BadValueError
from dassl.utils.files import write_bytes_atomically
from dassl.utils.safe_text import printable

from .build import EVALUATOR_REGISTRY


class EvaluatorBase:
    """Collects outputs batch by batch (`process`) and reports at the end (`evaluate`); subclasses define how."""

    def __init__(self, cfg: CfgNode) -> None:
        self.cfg = cfg

    def reset(self) -> None:
        raise NotImplementedError

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        raise NotImplementedError

    def evaluate(self) -> OrderedDict[str, float]:
        raise NotImplementedError


@EVALUATOR_REGISTRY.register()
class Classification(EvaluatorBase):
    """Accuracy, error rate and macro F1, all in percent.

    Args:
        cfg: `TEST.PER_CLASS_RESULT` prints a line per class, `TEST.COMPUTE_CMAT` saves the confusion matrix.
        lab2cname: class name of each label; needed for results per class.
    """

    def __init__(self, cfg: CfgNode, lab2cname: dict[int, str] | None = None, **kwargs: Any) -> None:
        super().__init__(cfg)
        if cfg.TEST.PER_CLASS_RESULT and lab2cname is None:
            raise ValueError("TEST.PER_CLASS_RESULT needs the class names (lab2cname)")
        self._lab2cname = lab2cname or {}
        self.results: OrderedDict[str, float] | None = None  # what `evaluate` returned last
        self.per_class: dict[str, float] | None = None  # accuracy by class name, with TEST.PER_CLASS_RESULT
        self.reset()

    def reset(self) -> None:
        """Forget what was processed."""
        self._correct = 0
        self._total = 0
        self._y_true: list[int] = []
        self._y_pred: list[int] = []

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Add a batch: scores [batch, classes] and labels [batch].

        Raises:
            BadValueError: a score is NaN or infinite.
        """
        if not torch.isfinite(mo).all():
            raise BadValueError("cannot evaluate scores that are NaN or infinite: check the model's weights")
        predicted = mo.argmax(dim=1).tolist()
        actual = gt.tolist()
        self._correct += sum(guess == label for guess, label in zip(predicted, actual, strict=True))
        self._total += len(actual)
        self._y_true.extend(actual)
        self._y_pred.extend(predicted)

    def evaluate(self) -> OrderedDict[str, float]:
        """Print and return `accuracy`, `error_rate`, `macro_f1` (and `perclass_accuracy`), in percent.

        Raises:
            ValueError: no batch was processed.
        """
        if not self._total:
            raise ValueError("nothing to evaluate: no batch was processed")
        counts = self._confusion_counts()
        accuracy = 100.0 * self._correct / self._total
        results = OrderedDict(accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=100.0 * _macro_f1(counts))
        print(
            "=> result\n"
            f"* total: {self._total:,}\n"
            f"* correct: {self._correct:,}\n"
            f"* accuracy: {results['accuracy']:.1f}%\n"
            f"* error: {results['error_rate']:.1f}%\n"
            f"* macro_f1: {results['macro_f1']:.1f}%"
        )
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._report_classes(counts)
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save_confusion_matrix(counts)
        self.results = results
        return results

    def _confusion_counts(self) -> torch.Tensor:
        """How often each label (row) was predicted as each class (column), [classes, classes] float64."""
        actual, predicted = torch.tensor(self._y_true), torch.tensor(self._y_pred)
        size = int(max(actual.max(), predicted.max())) + 1
        counts = torch.bincount(actual * size + predicted, minlength=size * size)
        return counts.view(size, size).double()  # [classes, classes]

    def _report_classes(self, counts: torch.Tensor) -> float:
        print("=> per-class result")
        accuracies = []
        for label in sorted(set(self._y_true)):
            total, correct = int(counts[label].sum()), int(counts[label, label])
            accuracies.append(100.0 * correct / total)
            print(
                f"* class: {label} ({printable(self._lab2cname[label])})\ttotal: {total:,}\tcorrect: {correct:,}\t"
                f"acc: {accuracies[-1]:.1f}%"
            )
        self.per_class = dict(zip(self._distinct_names(sorted(set(self._y_true))), accuracies, strict=True))
        mean = sum(accuracies) / len(accuracies)
        print(f"* average: {mean:.1f}%")
        return mean

    def _distinct_names(self, labels: list[int]) -> list[str]:
        """Class names; those that several classes share, with their label."""
        count = Counter(self._lab2cname.values())
        names = [self._lab2cname[label] for label in labels]
        return [f"{n} (label {label})" if count[n] > 1 else n for n, label in zip(names, labels, strict=True)]

    def _save_confusion_matrix(self, counts: torch.Tensor) -> None:
        """Rows divided by their sums, over the classes that occur as label or prediction."""
        seen = torch.tensor(sorted({*self._y_true, *self._y_pred}))
        matrix = counts[seen][:, seen]  # [seen classes, seen classes]
        matrix = matrix / matrix.sum(dim=1, keepdim=True).clamp(min=1)
        path = osp.join(self.cfg.OUTPUT_DIR, "cmat.pt")
        buffer = io.BytesIO()
        torch.save(matrix, buffer)
        write_bytes_atomically(path, buffer.getbuffer())
        print(f"Confusion matrix is saved to {path}")


def _macro_f1(counts: torch.Tensor) -> float:
    """Mean of the F1 scores of the classes that occur as labels."""
    hits, labelled, predicted = counts.diagonal(), counts.sum(dim=1), counts.sum(dim=0)
    f1 = 2 * hits / (labelled + predicted).clamp(min=1)
    return f1[labelled > 0].mean().item()
