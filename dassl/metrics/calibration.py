"""How far a classifier's confidence lies from its accuracy.

Confidence is the largest probability of an image. Images are put into bins by their confidence; with B_m the images of
bin m and N the number of all images,

    error = sum over m of |B_m| / N * |accuracy(B_m) - mean confidence(B_m)|
"""

from __future__ import annotations

import torch
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
    # written out, as importing torchmetrics takes two seconds of every process that evaluates
    confidence, correct = confidence.double(), correct.double()
    inner_ends = torch.linspace(0, 1, bins + 1, dtype=torch.float64, device=confidence.device)[1:-1]
    bin_of_image = torch.bucketize(confidence.contiguous(), inner_ends)  # an end belongs to the lower bin
    surplus = confidence.new_zeros(bins).index_add_(0, bin_of_image, correct - confidence)
    return surplus.abs().sum().item() / len(confidence)


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
