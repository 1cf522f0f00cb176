"""Reads `predictions.npz`, in which an evaluation keeps what it predicted for each image."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dassl.evaluation import PREDICTIONS_NAME
from dassl.utils import MissingFileError, UnreadableFileError, file_sha256, one_line
from dassl.utils.files import read_bytes
from runner.result import RESULT_NAME, read_result

_KINDS = {"images": "U", "labels": "iu", "top5": "iu", "scores": "f", "classnames": "U"}
"""NumPy's letters for the types of the arrays that are used here."""


@dataclass(frozen=True)
class Predictions:
    """What an evaluation predicted.

    Args:
        images: [N] paths.
        labels: [N] the true classes.
        top: [N, k] the most probable classes, best first.
        scores: [N, k] their probabilities.
        classnames: [C] names.
    """

    images: NDArray[np.str_]
    labels: NDArray[np.int64]
    top: NDArray[np.int64]
    scores: NDArray[np.float64]
    classnames: list[str]

    @property
    def predicted(self) -> NDArray[np.int64]:
        """[N] the most probable class."""
        return self.top[:, 0]

    @property
    def confidence(self) -> NDArray[np.float64]:
        """[N] its probability."""
        return self.scores[:, 0]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """[N] whether it is the true one."""
        return self.predicted == self.labels


def read_predictions(run: Path) -> Predictions:
    """The predictions in a run's folder.

    Raises:
        MissingFileError: there is no such file.
        UnreadableFileError: it is damaged, or another evaluation's than the run's result.
    """
    path = run / PREDICTIONS_NAME
    if not path.is_file():
        raise MissingFileError(
            f"{run} has no {PREDICTIONS_NAME}: evaluate the model again with TEST.SAVE_PREDICTIONS True"
        )
    _check_digest(path)
    arrays = _arrays(path)
    problem = _problem(arrays)
    if problem is not None:
        raise UnreadableFileError(f"{path} is damaged: {problem}; evaluate the model again")
    return Predictions(
        images=arrays["images"],
        labels=arrays["labels"].astype(np.int64),
        top=arrays["top5"].astype(np.int64),
        scores=arrays["scores"].astype(np.float64),
        classnames=arrays["classnames"].tolist(),
    )


def _check_digest(path: Path) -> None:
    """Raise UnreadableFileError if the result beside it records another SHA-256."""
    result = read_result(path.parent) or {}
    recorded = result.get("predictions")
    if isinstance(recorded, dict) and recorded.get("sha256") not in (None, file_sha256(path)):
        raise UnreadableFileError(
            f"{path} is not the file that {RESULT_NAME} describes (its SHA-256 differs): evaluate the model again"
        )


def _arrays(path: Path) -> dict[str, NDArray]:
    """The arrays of an npz file. Pickled objects are refused."""
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as file:
            return {name: file[name] for name in _KINDS}
    except KeyError as error:
        raise UnreadableFileError(f"{path} is damaged: {one_line(error)}; evaluate the model again") from error
    except (
        *(ValueError, TypeError, AttributeError, OSError, EOFError, MemoryError, RuntimeError, NotImplementedError),
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise UnreadableFileError(f"cannot read {path}: {one_line(error)}; evaluate the model again") from error


def _problem(arrays: Mapping[str, NDArray]) -> str | None:
    """The first thing that is wrong with the arrays; None if nothing is."""
    for name, kinds in _KINDS.items():
        if arrays[name].dtype.kind not in kinds:
            return f"{name} is of type {arrays[name].dtype}"
    n, classes = len(arrays["labels"]) if arrays["labels"].ndim == 1 else 0, arrays["classnames"].size
    if not n or not classes or arrays["classnames"].ndim != 1:
        return "it has no images or no classes"
    top = arrays["top5"]
    if arrays["images"].shape != (n,) or top.ndim != 2 or not top.size or arrays["scores"].shape != top.shape:
        return "its arrays differ in length"
    if len(top) != n:
        return "its arrays differ in length"
    for name in ("labels", "top5"):
        if arrays[name].min() < 0 or arrays[name].max() >= classes:
            return f"{name} names a class that does not exist"
    scores = arrays["scores"]
    if not np.isfinite(scores).all() or scores.min() < 0 or scores.max() > 1:
        return "scores are not probabilities"
    return None
