"""Reads `predictions.npz`, in which an evaluation keeps what it predicted for each image."""

from __future__ import annotations

import hashlib
import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dassl.evaluation import PREDICTIONS_NAME
from dassl.utils import MissingFileError, UnreadableFileError, UserError, file_sha256, one_line
from dassl.utils.files import read_bytes
from runner.result import RESULT_NAME, read_result

MAX_BYTES = 2 << 30
"""Largest size of all arrays together: that of two million images with paths of 250 characters."""
MAX_SUM = 1.01
"""Of the probabilities of an image, which are rounded to 16 bits."""
_KINDS = {"images": "U", "labels": "iu", "top5": "iu", "scores": "f", "classnames": "U"}
"""NumPy's letters for the types of the arrays that are used here."""


@dataclass(frozen=True)
class Predictions:
    """What an evaluation predicted, in the order of the images' names; a few bytes for each image.

    Args:
        subject: digest of images, labels and class names; evaluations with one subject can be compared image by image.
        labels: [N] the true classes.
        predicted: [N] the most probable classes.
        confidence: [N] their probabilities.
        classnames: [C] names.
    """

    subject: str
    labels: NDArray[np.int32]
    predicted: NDArray[np.int32]
    confidence: NDArray[np.float32]
    classnames: list[str]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """[N] whether the most probable class is the true one."""
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
    result = read_result(path.parent) or {}
    _check_digest(path, result)
    arrays = _arrays(path)
    problem = _problem(arrays)
    if problem is not None:
        raise UnreadableFileError(f"{path} is damaged: {problem}; evaluate the model again")
    found = _predictions(arrays)
    _check_accuracy(path, found, result)
    return found


def _predictions(arrays: Mapping[str, NDArray]) -> Predictions:
    order, classnames = np.argsort(arrays["images"], kind="stable"), arrays["classnames"].tolist()
    labels = arrays["labels"][order].astype(np.int32)
    subject = hashlib.sha256()
    for part in ("\0".join(arrays["images"][order]), "\0".join(classnames)):
        subject.update(f"{part}\0\0".encode("utf-8", "surrogatepass"))
    subject.update(labels.tobytes())
    predicted, confidence = arrays["top5"][order, 0].astype(np.int32), arrays["scores"][order, 0].astype(np.float32)
    return Predictions(subject.hexdigest(), labels, predicted, confidence, classnames)


def _check_accuracy(path: Path, found: Predictions, result: Mapping[str, Any]) -> None:
    """Check that the result beside it has the same accuracy.

    Raises:
        UnreadableFileError: it has another one, so it is of another evaluation.
    """
    recorded, accuracy = result.get("results", {}).get("accuracy"), 100 * float(found.correct.mean())
    if recorded is not None and not math.isclose(recorded, accuracy, abs_tol=1e-4):
        raise UnreadableFileError(
            f"{path} has an accuracy of {accuracy:.2f} %, but {RESULT_NAME} {recorded:.2f} %: evaluate the model again"
        )


def _check_digest(path: Path, result: Mapping[str, Any]) -> None:
    """Check the SHA-256 that the result beside it records.

    Raises:
        UnreadableFileError: it is another one.
    """
    recorded = result.get("predictions")
    if isinstance(recorded, dict) and recorded.get("sha256") not in (None, file_sha256(path)):
        raise UnreadableFileError(
            f"{path} is not the file that {RESULT_NAME} describes (its SHA-256 differs): evaluate the model again"
        )


def _arrays(path: Path) -> dict[str, NDArray]:
    """The arrays of an npz file. Pickled objects are refused, and what takes more memory than predictions do."""
    try:
        _check_members(path)
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as file:
            arrays: dict[str, NDArray] = {name: file[name] for name in _KINDS}
        for name in ("images", "classnames"):
            arrays[name].tolist()
        return arrays
    except KeyError as error:
        raise UnreadableFileError(f"{path} is damaged: {one_line(error)}; evaluate the model again") from error
    except (
        *(ValueError, TypeError, AttributeError, OSError, EOFError, MemoryError, RuntimeError, NotImplementedError),
        SystemError,  # NumPy's for characters that do not exist
        *(zipfile.BadZipFile, zlib.error),
    ) as error:
        raise UnreadableFileError(f"cannot read {path}: {one_line(error)}; evaluate the model again") from error


def _check_members(path: Path) -> None:
    """Check the members of the zip file.

    Raises:
        ValueError: it unpacks to more than `MAX_BYTES`, or has an array twice.
    """
    with zipfile.ZipFile(path) as file:
        members = file.infolist()
    if sum(member.file_size for member in members) > MAX_BYTES:
        raise ValueError(f"its arrays have more than {MAX_BYTES:,} bytes")
    if len({member.filename for member in members}) < len(members):
        raise ValueError("it has an array twice")


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
    if (np.diff(scores.astype(np.float64)) > 0).any() or scores.sum(axis=1, dtype=np.float64).max() > MAX_SUM:
        return "scores are not the largest probabilities of a class each"
    return None


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
