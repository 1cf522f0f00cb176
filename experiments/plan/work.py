"""How much a run has to do, from its configuration and the published size of its data set."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dassl.utils.errors import UserError
from datasets.acquire.names import expected_counts
from datasets.layout.draws import MAX_VAL_SHOTS
from experiments.plan.runs import PlannedRun


@dataclass(frozen=True)
class Work:
    """Batches of one run, and what a batch consists of."""

    classes: int
    steps: int
    test_batches: int
    batch_size: int
    test_batch_size: int


def work_of(run: PlannedRun) -> Work:
    """Steps and test batches of a run; class subsets are taken to have their share of the images.

    Raises:
        UserError: the size of the data set is not known.
    """
    config = run.config()
    name = config["DATASET"]["NAME"]
    counts = expected_counts(name)
    if counts is None:
        raise UserError(f"the number of images in {name} is not known: choose others by --datasets")
    base = math.ceil(counts.classes / 2)
    classes = {"all": counts.classes, "base": base, "new": counts.classes - base}[run.classes]
    batch_size = config["DATALOADER"]["TRAIN_X"]["BATCH_SIZE"]
    test_batch_size = config["DATALOADER"]["TEST"]["BATCH_SIZE"]
    share = classes / counts.classes
    tested = round(counts.test * share)
    test_batches = 0 if config["TEST"]["NO_TEST"] else math.ceil(tested / test_batch_size)
    if not run.trains:
        return Work(classes, 0, test_batches, batch_size, test_batch_size)
    if counts.train is None:
        raise UserError(f"{name} has no training images")
    available = round(counts.train * share)
    images = min(run.shots * classes, available) if run.shots > 0 else available
    epochs = config["OPTIM"]["MAX_EPOCH"]
    if config["TEST"]["FINAL_MODEL"] == "best_val" and not config["TEST"]["NO_TEST"]:
        validation = min(run.shots, MAX_VAL_SHOTS) * classes if counts.val else tested
        test_batches += epochs * math.ceil(validation / test_batch_size)
    return Work(classes, epochs * max(1, images // batch_size), test_batches, batch_size, test_batch_size)
