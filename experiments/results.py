"""result.json: what a finished run found out and how, beside its log. Its being there means that the run finished."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from dassl.utils.errors import UnreadableFileError
from dassl.utils.files import read_json, write_json

RESULT_NAME, PLAN_NAME = "result.json", "plan.json"
SCHEMA = 1
PARTS = {
    "base2new": ("train_base", "test_new"),
    "cross_dataset": ("source", "target"),
    "domain_generalization": ("source", "target"),
    "few_shot": ("all",),
    "other": ("all",),
}
"""The parts of each setting."""

CHANGES_NO_NUMBER = frozenset(
    {
        "OUTPUT_DIR",
        "RESUME",
        "VERBOSE",
        "DATASET.ROOT",
        "TRAIN.PRINT_FREQ",
        "TRAIN.CHECKPOINT_FREQ",
        "TEST.PER_CLASS_RESULT",
        "TEST.COMPUTE_CMAT",
        "TRAINER.CUDA_GRAPH",
        "TRAINER.PROMETAR.KEEP_MODULATOR",
        "TRAINER.PROMETAR.MONITOR",
    }
)
"""Config keys that say where a run works and what it tells: with or without them every bit it learns is the same."""

WORKERS = "DATALOADER.NUM_WORKERS"
SAME_RECIPE = frozenset({WORKERS, "TRAINER.TEXT_CHUNK", "USE_CUDA"})
"""Config keys that change the numbers of one seed, but not the recipe.

Each worker draws its own augmentations, so the number of workers changes the augmentation stream (of training alone).
Text in chunks is rounded differently; a CPU rounds differently from a GPU and replaces fp16 by fp32.
"""


def write_result(folder: Path, content: dict[str, Any]) -> None:
    """Write ``folder/result.json`` in one step; schema, date and the mark of completeness are added.

    Raises UnwritableFileError.
    """
    date = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    write_json({"schema": SCHEMA, "finished": True, "date": date} | content, folder / RESULT_NAME)


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of the run in `folder`; None when it has not finished. Raises UnreadableFileError, naming the file."""
    path = folder / RESULT_NAME
    if not path.exists():
        return None
    result = read_json(path)
    if not isinstance(result, dict) or result.get("finished") is not True:
        raise UnreadableFileError(f"{path} is no result of a finished run: delete it to run again")
    if result.get("schema") != SCHEMA:
        raise UnreadableFileError(f"{path} has schema {result.get('schema')}, this version reads {SCHEMA}")
    return result


def read_plan(output: Path) -> list[str]:
    """Folders below `output` of all runs that were ever planned for it; none where nothing was planned.

    Raises UnreadableFileError.
    """
    path = output / PLAN_NAME
    if not path.exists():
        return []
    content = read_json(path)
    folders = content.get("folders") if isinstance(content, dict) else None
    if not isinstance(folders, list) or not all(isinstance(folder, str) for folder in folders):
        raise UnreadableFileError(f"{path} is no plan of runs: delete it, the next launch writes it anew")
    return folders


def leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of a nested dictionary."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def config_differences(
    found: dict[str, Any], planned: dict[str, Any], defaults: dict[str, Any], trains: bool = True
) -> list[str]:
    """Where a run's recorded config computes something else than the planned one, as "KEY is 1 there, planned: 2".

    A key that the record lacks (it is newer than the run) had its default.

    Args:
        trains: False for a run that only evaluates, which gives the same numbers with any number of workers.
    """
    unimportant = CHANGES_NO_NUMBER if trains else CHANGES_NO_NUMBER | {WORKERS}
    recorded, default = dict(leaves(found)), dict(leaves(defaults))
    different = []
    for key, value in leaves(planned):
        was = recorded.get(key, default.get(key))
        if key not in unimportant and was != value:
            different.append(f"{key} is {was!r} there, planned: {value!r}")
    return different
