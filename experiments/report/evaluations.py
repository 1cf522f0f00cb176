"""What evaluations predicted, in the few bytes per image that comparisons and calibration curves need."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dassl.utils import MissingFileError, UserError
from experiments.figures.predictions import read_predictions


@dataclass(frozen=True)
class Evaluation:
    """Predictions on some images, in the order of the images' names.

    Args:
        subject: digest of images, labels and class names; evaluations with one subject can be compared image by image.
        labels: [N] the true classes.
        predicted: [N] the most probable classes.
        confidence: [N] their probabilities.
    """

    subject: str
    labels: NDArray[np.int32]
    predicted: NDArray[np.int32]
    confidence: NDArray[np.float32]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """[N] whether the most probable class is the true one."""
        return self.predicted == self.labels


class Evaluations:
    """The predictions of runs, each read once. A file that cannot be used is a problem and counts as missing."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._read: dict[Path, Evaluation | None] = {}

    def of(self, folder: Path) -> Evaluation | None:
        """The predictions in a run's folder; None if there are none, or none that can be used."""
        if folder not in self._read:
            try:
                self._read[folder] = _read(folder)
            except MissingFileError:
                self._read[folder] = None
            except UserError as error:
                self._read[folder] = None
                self.problems.append(str(error))
        return self._read[folder]


def _read(folder: Path) -> Evaluation:
    found = read_predictions(folder)
    order = np.argsort(found.images, kind="stable")
    subject = hashlib.sha256()
    for part in ("\0".join(found.images[order]), "\0".join(found.classnames)):
        subject.update(f"{part}\0\0".encode("utf-8", "surrogatepass"))
    labels = found.labels[order].astype(np.int32)
    subject.update(labels.tobytes())
    return Evaluation(
        subject.hexdigest(),
        labels,
        found.predicted[order].astype(np.int32),
        found.confidence[order].astype(np.float32),
    )
