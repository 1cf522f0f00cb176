"""Reads the result.json files of finished runs, strictly: a file that is not what it should be is named."""

from __future__ import annotations

import json
import math
import os
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, ValidationError, validators
from jsonschema.exceptions import best_match

from dassl.engine.found_models import folders_beside
from dassl.utils import UnreadableFileError, UserError, printable, read_json
from runner.result import PARTS, READABLE_SCHEMAS, RESULT_NAME, is_readable, read_plan
from trainers.core.facts import learns

MAX_DEPTH = 40
"""Levels of nested objects and lists; a run's own result has six."""


def _is_integer(_: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_number(_: object, value: object) -> bool:
    return isinstance(value, float) or _is_integer(_, value)


# Strict types: 16.0 is not a number of shots, and numbers of hundreds of digits do not become floats.
_TYPES = Draft202012Validator.TYPE_CHECKER.redefine_many({"integer": _is_integer, "number": _is_number})
_VALIDATOR = validators.extend(Draft202012Validator, type_checker=_TYPES)(
    json.loads(Path(__file__).with_name("result.schema.json").read_text(encoding="utf-8"))
)


@dataclass(frozen=True, eq=False)  # two runs are never the same, whatever their numbers
class FinishedRun:
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
    measures: Mapping[str, float] = field(default_factory=dict)
    """What the evaluation measured beside accuracy, by its key in `results`; results of earlier versions lack it."""
    joint: Mapping[str, float] = field(default_factory=dict)
    """Measures over base and new classes together, in percent."""
    classes: int | None = None
    """Number of classes of the evaluation; None if it is not recorded."""
    learned_values: int | None = None
    step_flops: int | None = None
    files_sha256: Mapping[str, str] = field(default_factory=dict)
    """Of further files that the configuration names, by key."""
    earlier_commits: tuple[str, ...] = ()
    """Of the processes that began the training, as `commit`, if the code has changed since."""

    @property
    def zero_shot(self) -> bool:
        """Nothing is trained, so seed and shots make no difference."""
        return not learns(self.trainer)

    @property
    def trained(self) -> bool:
        """Training happened in this run; an evaluation of another run's model has no history."""
        return bool(self.history)

    @property
    def commit(self) -> str:
        """The commit that ran, with a + when there were changes that were not committed."""
        return "unknown" if self.git_commit is None else _short(self.git_commit + "+" * bool(self.git_dirty))


def _short(commit: str) -> str:
    return commit[:9] + "+" * commit.endswith("+")


def read_run(path: Path) -> FinishedRun | None:
    """The run that a result.json records; None if it says that the run has not finished.

    Raises:
        UserError: not readable, not JSON, of another schema, or a key missing or of a wrong type; names the file.
    """
    content = read_json(path)
    try:
        if isinstance(content, dict) and "schema" in content and not is_readable(content["schema"]):
            known = " and ".join(map(str, READABLE_SCHEMAS))
            raise ValueError(f"schema {content['schema']!r}, this report reads {known}")
        if isinstance(content, dict) and content.get("finished", True) is not True:
            return None
        return _run(path, _printable(content))
    except ValueError as error:
        raise UnreadableFileError(f"{path} is not a result of this project: {error}") from error


def _run(path: Path, content: Any) -> FinishedRun:
    problem = best_match(_VALIDATOR.iter_errors(content))
    if problem is not None:
        raise ValueError(_in_words(problem))
    if content["part"] not in PARTS.get(content["setting"], ()):
        raise ValueError(f"unknown setting and part {content['setting']!r}, {content['part']!r}")
    datetime.fromisoformat(content["date"])
    values: dict[str, Any] = {key: content.get(key) for key in FinishedRun.__dataclass_fields__}
    # What diverged is left out, so that a curve has a gap there.
    history = ({key: value for key, value in epoch.items() if math.isfinite(value)} for epoch in content["history"])
    results = content["results"]
    values |= {"path": path, "accuracy": float(results["accuracy"]), "history": tuple(history)}
    values |= {"per_class": content["per_class"] or {}, "joint": content.get("joint") or {}}
    values["files_sha256"] = content.get("files_sha256") or {}
    values["earlier_commits"] = tuple(map(_short, content.get("earlier_commits") or ()))
    values["measures"] = {key: value for key, value in results.items() if _is_number(None, value)}
    return FinishedRun(**values)


def _in_words(problem: ValidationError) -> str:
    """What is wrong with which field, for example "loss in the history is 'low', which is not of type 'number'"."""
    path, value = problem.absolute_path, problem.instance
    place = " in the ".join(key for key in reversed(path) if isinstance(key, str)) or "it"
    place = f"an entry of {place}" if path and isinstance(path[-1], int) else place
    if problem.validator == "required" and isinstance(problem.validator_value, list):
        return f"{place} lacks {', '.join(repr(key) for key in problem.validator_value if key not in value)}"
    if isinstance(value, int) and len(str(value)) > 18:
        return f"{place} is a number of {len(str(value))} digits"
    return f"{place} is {reprlib.repr(value)}, which{problem.message.removeprefix(repr(value))}"


def _printable(content: Any, depth: int = 0) -> Any:
    """JSON content whose texts and keys have no hidden characters."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    if isinstance(content, list):
        return [_printable(each, depth + 1) for each in content]
    if not isinstance(content, dict):
        return printable(content) if isinstance(content, str) else content
    shown = {printable(key): _printable(value, depth + 1) for key, value in content.items()}
    if len(shown) < len(content):
        raise ValueError("names that differ in hidden characters only")
    return shown


@dataclass(frozen=True)
class Found:
    """What lies below an output folder."""

    runs: list[FinishedRun]
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
        raise UserError(f"no such folder: {output}; {folders_beside(output)}")
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
