"""Accuracy, F1, calibration, confusion, and results per class of a whole data set."""

from __future__ import annotations

import os.path as osp
from collections import Counter, OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from yacs.config import CfgNode

from dassl.metrics import adaptive_calibration_error, expected_calibration_error
from dassl.utils.errors import BadValueError
from dassl.utils.safe_text import printable
from dassl.utils.torchtools import save_atomically

from .build import EVALUATOR_REGISTRY
from .confusion import Confusion
from .growing import GrowingTensors
from .joint import JointSpace
from .outcomes import Outcomes, are_probabilities, log_probabilities

PAIRS_KEPT, PAIRS_PRINTED = 20, 3
"""Number of the most frequent confusions that results contain, and that are printed."""


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
    """Accuracy, error rate and macro F1 as Dassl prints them; then calibration, likelihood and confusion.

    Args:
        cfg: `TEST.PER_CLASS_RESULT` prints a line per class, `TEST.COMPUTE_CMAT` saves the confusion matrix.
        lab2cname: class name of each label; needed for results per class.
    """

    def __init__(self, cfg: CfgNode, lab2cname: dict[int, str] | None = None, **kwargs: Any) -> None:
        super().__init__(cfg)
        if cfg.TEST.PER_CLASS_RESULT and lab2cname is None:
            raise ValueError("TEST.PER_CLASS_RESULT needs the class names (lab2cname)")
        self._lab2cname = lab2cname or {}
        self._space: JointSpace | None = None
        self.reset()

    def evaluate_jointly(self, base_labels: Iterable[int]) -> None:
        """Measure `joint` as well, where the labels other than `base_labels` are those of new classes."""
        self._space = JointSpace(base_labels)

    def reset(self) -> None:
        """Forget what was processed, and its results."""
        self._kept = GrowingTensors()
        self._are_probabilities: bool | None = None
        if self._space is not None:
            self._space.reset()
        self.results: OrderedDict[str, float] | None = None  # what `evaluate` returned last
        self.per_class: dict[str, float] | None = None  # accuracy by class name
        self.confusion_pairs: list[dict[str, Any]] | None = None  # true, predicted, count; the most frequent first
        self.joint: dict[str, float] | None = None  # see `evaluate_jointly`
        self.outcomes: Outcomes | None = None  # of each image

    def process(self, mo: torch.Tensor, gt: torch.Tensor) -> None:
        """Add a batch: scores [batch, classes] and labels [batch].

        Scores are logits. If all rows of the first batch are distributions over the classes, they are probabilities.

        Raises:
            BadValueError: a score is NaN or infinite, or a label is not one of the classes.
        """
        if not torch.isfinite(mo).all():
            raise BadValueError("cannot evaluate scores that are NaN or infinite: check the model's weights")
        if self._are_probabilities is None:
            self._are_probabilities = are_probabilities(mo)
        logarithms = log_probabilities(mo, self._are_probabilities)  # [batch, classes]
        self._kept.append(*Outcomes.of_batch(mo, logarithms, gt))
        if self._space is not None:
            self._space.add(mo, logarithms, gt)

    def evaluate(self) -> OrderedDict[str, float]:
        """Print and return the results.

        `accuracy`, `error_rate`, `macro_f1` (and `perclass_accuracy` with TEST.PER_CLASS_RESULT), `macro_accuracy`,
        `ece` and `adaptive_ece` are in percent. `nll` is the mean negative log-likelihood in nats; `brier`, from 0 to
        2, the mean over the images of the sum over the classes of (probability - 1 for the label, 0 for others)^2.

        Raises:
            ValueError: no batch was processed.
        """
        if not len(self._kept):
            raise ValueError("nothing to evaluate: no batch was processed")
        outcomes = Outcomes(*self._kept.columns())
        confusion = Confusion.of(outcomes.labels, outcomes.predicted)
        results = self._upstream_results(outcomes, confusion)
        further = self._further_results(outcomes, confusion)
        self.results, self.outcomes = OrderedDict(results | further), outcomes
        return self.results

    def _upstream_results(self, outcomes: Outcomes, confusion: Confusion) -> dict[str, float]:
        """Print and return what Dassl does; its lines are read by other programs."""
        total, correct = len(outcomes.labels), int(outcomes.correct.sum())
        accuracy = 100.0 * correct / total
        results = dict(accuracy=accuracy, error_rate=100.0 - accuracy, macro_f1=100.0 * confusion.macro_f1())
        print(
            "=> result\n"
            f"* total: {total:,}\n"
            f"* correct: {correct:,}\n"
            f"* accuracy: {results['accuracy']:.1f}%\n"
            f"* error: {results['error_rate']:.1f}%\n"
            f"* macro_f1: {results['macro_f1']:.1f}%"
        )
        if self.cfg.TEST.PER_CLASS_RESULT:
            results["perclass_accuracy"] = self._print_classes(confusion)
        if self.cfg.TEST.COMPUTE_CMAT:
            self._save_confusion_matrix(confusion)
        return results

    def _further_results(self, outcomes: Outcomes, confusion: Confusion) -> dict[str, float]:
        """Print what Dassl does not measure, one line each."""
        results = dict(
            macro_accuracy=confusion.macro_accuracy(),
            nll=-outcomes.log_likelihood.mean().item(),
            ece=100.0 * expected_calibration_error(outcomes.confidence, outcomes.correct),
            adaptive_ece=100.0 * adaptive_calibration_error(outcomes.confidence, outcomes.correct),
            brier=outcomes.brier.mean().item(),
        )
        print(
            f"* macro_accuracy: {results['macro_accuracy']:.1f}%\n"
            f"* nll: {results['nll']:.4f}\n"
            f"* ece: {results['ece']:.2f}%\n"
            f"* adaptive_ece: {results['adaptive_ece']:.2f}%\n"
            f"* brier: {results['brier']:.4f}"
        )
        if self._are_probabilities:
            print("Note: the model returns probabilities instead of logits; nll, ece and brier use them as they are")
        if self._lab2cname:
            names = self._distinct_names()
            self.per_class = {names[label]: accuracy for label, accuracy in confusion.accuracies().items()}
            self.confusion_pairs = [
                {"true": names[label], "predicted": names[predicted], "count": count}
                for label, predicted, count in confusion.most_confused(PAIRS_KEPT)
            ]
            shown = [
                f"{printable(pair['true'])} as {printable(pair['predicted'])} ({pair['count']})"
                for pair in self.confusion_pairs[:PAIRS_PRINTED]
            ]
            if shown:
                print(f"* most confused: {', '.join(shown)}")
        if self._space is not None:
            self.joint = self._space.results(outcomes.correct)
            print("\n".join(f"* {name}: {value:.1f}%" for name, value in self.joint.items()))
        return results

    def _print_classes(self, confusion: Confusion) -> float:
        """Print a line per class; returns the mean accuracy of the classes."""
        print("=> per-class result")
        hits, labelled, mean = confusion.hits, confusion.labelled, confusion.macro_accuracy()
        for label, accuracy in confusion.accuracies().items():
            print(
                f"* class: {label} ({printable(self._lab2cname[label])})\ttotal: {int(labelled[label]):,}\t"
                f"correct: {int(hits[label]):,}\tacc: {accuracy:.1f}%"
            )
        print(f"* average: {mean:.1f}%")
        return mean

    def _distinct_names(self) -> dict[int, str]:
        """Class names by label; those that several classes share, with their label."""
        count = Counter(self._lab2cname.values())
        return {
            label: f"{name} (label {label})" if count[name] > 1 else name for label, name in self._lab2cname.items()
        }

    def _save_confusion_matrix(self, confusion: Confusion) -> None:
        path = osp.join(self.cfg.OUTPUT_DIR, "cmat.pt")
        save_atomically(confusion.matrix(), path)
        print(f"Confusion matrix is saved to {path}")
