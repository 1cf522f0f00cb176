"""Accuracies, calibration, telling groups of images apart, and distances."""

from .accuracy import compute_accuracy
from .calibration import adaptive_calibration_error, expected_calibration_error
from .distance import compute_distance_matrix
from .open_world import auroc, harmonic_mean, openworld_auc
