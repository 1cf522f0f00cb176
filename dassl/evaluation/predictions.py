"""predictions.npz: the predictions of an evaluation, so that later questions need no second one.

with numpy.load("predictions.npz") as file:     # plain arrays, no pickle
    images, labels, top5, scores = (file[name] for name in ("images", "labels", "top5", "scores"))
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence

import numpy as np

from dassl.utils.files import StrPath, write_bytes_atomically

from .outcomes import Outcomes

PREDICTIONS_NAME = "predictions.npz"
"""Images, labels, the five most probable classes and their probabilities (see `write_predictions`)."""


def write_predictions(
    path: StrPath, outcomes: Outcomes, images: Sequence[str], classnames: Sequence[str], part: str
) -> str:
    """Write the arrays below, compressed and atomically; equal predictions give equal bytes.

    * `images` [N]: path of each image.
    * `labels` [N] int32.
    * `top5` [N, K] int32: classes of the K = min(5, C) largest scores in descending order; the first is the prediction.
    * `scores` [N, K] float16: their probabilities.
    * `label_scores` [N] float16: probability of the label.
    * `classnames` [C]: name of each label.
    * `part`: what was evaluated.

    Returns:
        SHA-256 of the file.

    Raises:
        ValueError: the number of images is not that of the outcomes.
        UnwritableFileError: the file cannot be written.
    """
    if len(images) != len(outcomes.labels):
        raise ValueError(f"{len(images)} paths of {len(outcomes.labels)} evaluated images")
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        images=np.array(images, dtype=np.str_),
        labels=outcomes.labels.numpy().astype(np.int32),
        top5=outcomes.top.numpy().astype(np.int32),
        scores=outcomes.scores.numpy().astype(np.float16),
        label_scores=outcomes.label_scores.numpy().astype(np.float16),
        classnames=np.array(classnames, dtype=np.str_),
        part=np.array(part, dtype=np.str_),
    )
    content = buffer.getvalue()
    write_bytes_atomically(path, content)
    return hashlib.sha256(content).hexdigest()
