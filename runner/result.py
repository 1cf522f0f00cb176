"""result.json: the results and the settings of a run. If the file exists, the run has finished."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path, PurePath
from typing import Any

from dassl.utils.errors import UnreadableFileError
from dassl.utils.files import read_json, write_json

RESULT_NAME = "result.json"
"""Results, training curve, configuration, versions and digests of a finished run; written last."""
PLAN_NAME = "plan.json"
"""In the output folder: folders of all runs that a launcher planned, so that a report names the missing ones."""
RESULT_SCHEMA = 2
READABLE_SCHEMAS = (1, 2)
"""Schema 1 has no measures but accuracy, error rate and macro F1, and no predictions."""
PARTS = {
    "base2new": ("train_base", "test_new", "test_all"),
    "cross_dataset": ("source", "target"),
    "domain_generalization": ("source", "target"),
    "few_shot": ("all",),
    "other": ("all",),
}
"""The parts of each setting."""
JOINT = ("base2new", "test_all")
"""The model of the base classes, evaluated on base and new classes in one label space."""

WORKERS = "DATALOADER.NUM_WORKERS"
SAME_RECIPE = frozenset({WORKERS, "TRAINER.TEXT_CHUNK", "USE_CUDA"})
"""Config keys that change the numbers of a seed, but not the recipe.

Each worker draws its own augmentations, so the number of workers changes the augmentation stream (only in training).
Text in chunks is rounded differently; a CPU rounds differently from a GPU and uses fp32 instead of fp16.
"""


def write_result(folder: Path, content: dict[str, Any]) -> None:
    """Write `folder/result.json` atomically; schema, date and the key `finished` are added.

    Raises:
        UnwritableFileError: the file cannot be written.
    """
    date = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    write_json({"schema": RESULT_SCHEMA, "finished": True, "date": date} | content, folder / RESULT_NAME)


def read_result(folder: Path) -> dict[str, Any] | None:
    """The result of the run in `folder`; None if the run has not finished.

    Raises:
        UnreadableFileError: the file is damaged or has another schema.
    """
    path = folder / RESULT_NAME
    if not path.exists():
        return None
    result = read_json(path)
    if not isinstance(result, dict) or result.get("finished") is not True:
        raise UnreadableFileError(f"{path} is not a result of a finished run: delete it to run again")
    if not is_readable(result.get("schema")):
        known = " and ".join(map(str, READABLE_SCHEMAS))
        raise UnreadableFileError(f"{path} has schema {result.get('schema')!r}, but this version reads {known}")
    problem = _problem(result)
    if problem is not None:
        raise UnreadableFileError(f"{path} is damaged: {problem}; delete it to run again")
    return result


def is_readable(schema: Any) -> bool:
    """Whether this version reads results of that schema."""
    return type(schema) is int and schema in READABLE_SCHEMAS


def _problem(result: dict[str, Any]) -> str | None:
    """The first problem with the entries that a launch needs; None if all are valid."""
    for key, kind in (("date", str), ("full_config", dict), ("results", dict)):
        if not isinstance(result.get(key), kind):
            return f"{key} is {result.get(key)!r}" if key in result else f"{key} is missing"
    model = result.get("model")
    if model is not None and not (isinstance(model, dict) and isinstance(model.get("folder"), str)):
        return f"model is {str(model)[:80]!r}"
    if not isinstance(result.get("files_sha256", {}), dict):
        return f"files_sha256 is {result['files_sha256']!r}"
    if not isinstance(result.get("config", ""), str):
        return f"config is {result['config']!r}"
    try:
        datetime.fromisoformat(result["date"])
    except ValueError:
        return f"date is {result['date']!r}"
    accuracy = result["results"].get("accuracy", 0.0)
    return None if is_percentage(accuracy) else f"accuracy is {accuracy!r}, not a percentage"


def is_percentage(value: Any) -> bool:
    """Whether `value` is a number from 0 to 100; NaN is not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= 100


def read_plan(output: Path) -> list[str]:
    """Folders below `output` of all runs that were ever planned for it.

    Raises:
        UnreadableFileError: the file is damaged.
    """
    path, remedy = output / PLAN_NAME, "delete it; the next launch writes it again"
    if not path.exists():
        return []
    content = read_json(path)
    folders = content.get("folders") if isinstance(content, dict) else None
    if not isinstance(folders, list):
        raise UnreadableFileError(f"{path} is not a plan of runs: {remedy}")
    for folder in folders:
        if not is_below(folder):
            raise UnreadableFileError(f"{path} names {folder!r}, which is not a folder below {output}: {remedy}")
    return folders


def is_below(folder: Any) -> bool:
    """Whether `folder` is a valid relative path without `..`."""
    if not isinstance(folder, str) or "\0" in folder:
        return False
    try:
        os.fsencode(folder)
    except UnicodeEncodeError:
        return False
    path = PurePath(folder)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts
