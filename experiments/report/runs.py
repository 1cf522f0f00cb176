"""Reading the result.json files of finished runs, strictly: a file that is not what it should be is named."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from dassl.utils import UnreadableFileError, UserError, printable, read_json
from runner.result import PARTS, RESULT_NAME, SCHEMA, is_percentage, read_plan

NUMBER = (int, float)
DEEPEST = 40  # levels of nested objects and lists; a run's own have six
NONE = type(None)
# Key of result.json -> types that it may have.
FIELDS: dict[str, tuple[type, ...]] = {
    "setting": (str,),
    "part": (str,),
    "trainer": (str,),
    "config": (str,),
    "dataset": (str,),
    "dataset_config": (str,),
    "subsample_classes": (str,),
    "shots": (int,),
    "seed": (int,),
    "backbone": (str,),
    "results": (dict,),
    "per_class": (dict, NONE),
    "history": (list,),
    "train_seconds": (*NUMBER, NONE),
    "test_seconds": (*NUMBER, NONE),
    "peak_memory_bytes": (int, NONE),
    "device": (str,),
    "few_shot_sha256": (str, NONE),
    "weights_sha256": (str, NONE),
    "init_weights_sha256": (str, NONE),
    "full_config": (dict,),
    "versions": (dict,),
    "git_commit": (str, NONE),
    "git_dirty": (bool, NONE),
    "date": (str,),
}


OPTIONAL = ("init_weights_sha256",)
"""Keys that results of earlier versions lack."""
NOT_NEGATIVE = ("train_seconds", "test_seconds", "peak_memory_bytes")


@dataclass(frozen=True, eq=False)  # two runs are never the same, whatever their numbers
class Run:
    """One finished run. Accuracies in percent, times in seconds, memory in bytes."""

    path: Path
    setting: str
    part: str
    trainer: str
    config: str
    dataset: str
    dataset_config: str
    subsample_classes: str
    shots: int
    seed: int
    backbone: str
    accuracy: float
    per_class: Mapping[str, float]
    history: tuple[Mapping[str, float], ...]
    train_seconds: float | None
    test_seconds: float | None
    peak_memory_bytes: int | None
    device: str
    few_shot_sha256: str | None
    weights_sha256: str | None
    init_weights_sha256: str | None
    full_config: Mapping[str, Any] = field(repr=False)
    versions: Mapping[str, Any]
    git_commit: str | None
    git_dirty: bool | None
    date: str

    @property
    def zero_shot(self) -> bool:
        """Nothing is trained, so seed and shots make no difference."""
        return self.trainer.startswith("ZeroshotCLIP")

    @property
    def trained(self) -> bool:
        """Training happened in this run; an evaluation of another run's model has no history."""
        return bool(self.history)


def read_run(path: Path) -> Run | None:
    """The run that a result.json tells of; None when it says that the run has not finished.

    Raises:
        UserError: not readable, not JSON, of another schema, or a key missing or of a wrong type; names the file.
    """
    content = read_json(path)
    try:
        return _run(path, content)
    except (KeyError, TypeError, ValueError) as error:
        reason = f"it lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UnreadableFileError(f"{path} is not a result of this project: {reason}") from error


def _run(path: Path, content: Any) -> Run | None:
    if not isinstance(content, dict):
        raise TypeError("an object was expected")
    if content["schema"] != SCHEMA:
        raise ValueError(f"schema {content['schema']!r}, this report reads {SCHEMA}")
    if content["finished"] is not True:
        return None
    content = _printable(content)
    content = dict.fromkeys(OPTIONAL) | content
    values = {key: _checked(key, content[key], types) for key, types in FIELDS.items()}
    if values["part"] not in PARTS.get(values["setting"], ()):
        raise ValueError(f"unknown setting and part {values['setting']!r}, {values['part']!r}")
    datetime.fromisoformat(values["date"])
    accuracy = _percent("results.accuracy", values.pop("results")["accuracy"])
    per_class = {name: _percent(f"per_class of {name!r}", v) for name, v in (values.pop("per_class") or {}).items()}
    history = tuple(_epoch(entry) for entry in values.pop("history"))
    return Run(path=path, accuracy=accuracy, per_class=per_class, history=history, **values)


def _printable(content: Any, depth: int = 0) -> Any:
    """JSON content whose texts and keys have no hidden characters."""
    if depth > DEEPEST:
        raise ValueError(f"nested more than {DEEPEST} levels deep")
    if isinstance(content, list):
        return [_printable(each, depth + 1) for each in content]
    if not isinstance(content, dict):
        return printable(content) if isinstance(content, str) else content
    shown = {printable(key): _printable(value, depth + 1) for key, value in content.items()}
    if len(shown) < len(content):
        raise ValueError("names that differ in hidden characters only")
    return shown


def _checked(key: str, value: Any, types: tuple[type, ...]) -> Any:
    # bool is an int in Python, but not a number of shots
    if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
        raise TypeError(f"{key} is {value!r}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ValueError(f"{key} is a number of {len(str(value))} digits")
    if key in NOT_NEGATIVE and value is not None and not 0 <= value < math.inf:  # false for nan as well
        raise ValueError(f"{key} is {value!r}")
    return value


def _percent(key: str, value: Any) -> float:
    _checked(key, value, NUMBER)
    if not is_percentage(value):
        raise ValueError(f"{key} is {value!r}, not a percentage")
    return float(value)


def _epoch(entry: Any) -> dict[str, float]:
    """Numbers of one epoch; what diverged (nan, infinite) is left out, so that a curve has a gap there."""
    if not isinstance(entry, dict) or "epoch" not in entry:
        raise TypeError(f"history contains {entry!r}")
    _checked("epoch of the history", entry["epoch"], (int,))
    numbers = {key: _checked(f"{key} in the history", value, NUMBER) for key, value in entry.items()}
    return {key: float(value) for key, value in numbers.items() if math.isfinite(value)}


@dataclass(frozen=True)
class Found:
    """What lies below an output folder."""

    runs: list[Run]
    unfinished: list[Path]
    """Run folders with a log but without a finished result.json."""
    not_begun: list[Path]
    """Folders of planned runs that have neither."""
    problems: list[str]
    """A line about each file and folder that cannot be used."""


def find_runs(output: Path) -> Found:
    """All runs below `output`, in the order of their folders; what cannot be used is among the problems.

    Raises:
        UserError: no such folder.
    """
    if not output.is_dir():
        raise UserError(f"no such folder: {output}")
    runs, unfinished, unusable, problems = [], [], [], []

    def say(error: OSError) -> None:
        problems.append(f"cannot read the folder {error.filename}: {error.strerror}")

    for folder, subfolders, files in os.walk(output, onerror=say):
        subfolders.sort()
        try:
            run = read_run(Path(folder, RESULT_NAME)) if RESULT_NAME in (*files, *subfolders) else None
        except UserError as error:
            problems.append(str(error))
            unusable.append(Path(folder))
            continue
        if run is not None:
            runs.append(run)
        elif RESULT_NAME in files or "log.txt" in files:
            unfinished.append(Path(folder))
    known = {run.path.parent for run in runs} | set(unfinished) | set(unusable)
    try:
        planned = [output / folder for folder in read_plan(output)]
    except UserError as error:
        planned = []
        problems.append(str(error))
    return Found(runs, unfinished, [folder for folder in planned if folder not in known], problems)
