"""How far a classifier's confidence lies from its accuracy.

Confidence is the largest probability of an image. Images are put into bins by their confidence; with B_m the images of
bin m and N the number of all images,

    error = sum over m of |B_m| / N * |accuracy(B_m) - mean confidence(B_m)|
"""

from __future__ import annotations

from torch import Tensor

BINS = 15
"""Number of bins that the papers use."""


def expected_calibration_error(confidence: Tensor, correct: Tensor, bins: int = BINS) -> float:
    """ECE with bins of equal width, each without its lower and with its upper end.

    Guo, Pleiss, Sun, Weinberger, "On Calibration of Modern Neural Networks", ICML 2017, eq. 3.

    Args:
        confidence: largest probability of each image [N], above 0 and at most 1.
        correct: whether the prediction is right [N].

    Returns:
        From 0 to 1.
    """
    # takes most of a second
    from torchmetrics.functional.classification import binary_calibration_error

    # torchmetrics' bins have their lower end and not their upper one, and a confidence of 1 has its own bin. Those
    # of the probability of being wrong are the paper's bins, and the distance between the two means is the same.
    return binary_calibration_error(1 - confidence.double(), (~correct.bool()).long(), n_bins=bins, norm="l1").item()


def adaptive_calibration_error(confidence: Tensor, correct: Tensor, bins: int = BINS) -> float:
    """Adaptive ECE: as `expected_calibration_error`, but each bin has the same number of images.

    Mukhoti et al., "Calibrating Deep Neural Networks using Focal Loss", NeurIPS 2020. Images are sorted by
    confidence; if their number is not a multiple of `bins`, the first bins have one image more.

    Returns:
        From 0 to 1.
    """
    confidence, correct = confidence.double(), correct.double()
    # of equal confidences the wrong predictions come first, so that the order of the images makes no difference
    by_correct = correct.argsort(stable=True)
    order = by_correct[confidence[by_correct].argsort(stable=True)]
    surplus = (correct - confidence)[order]  # [N]
    return sum(part.sum().abs().item() for part in surplus.tensor_split(bins)) / len(surplus)
