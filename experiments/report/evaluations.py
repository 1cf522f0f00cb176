"""The predictions of evaluations, read once for comparisons and calibration curves."""

from __future__ import annotations

from pathlib import Path

from dassl.utils import MissingFileError, UserError
from experiments.figures.predictions import Predictions, read_predictions


class Evaluations:
    """The predictions of runs, each read once. A file that cannot be used is a problem and counts as missing."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self._read: dict[Path, Predictions | None] = {}

    def of(self, folder: Path) -> Predictions | None:
        """The predictions in a run's folder; None if there are none, or none that can be used."""
        if folder not in self._read:
            self._read[folder] = None
            try:
                self._read[folder] = read_predictions(folder)
            except MissingFileError:
                pass
            except UserError as error:
                self.problems.append(str(error))
        return self._read[folder]
