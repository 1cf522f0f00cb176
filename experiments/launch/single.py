"""What `python -m experiments one` does: a single run in the foreground, which scripts/<method>/*.sh call."""

from __future__ import annotations

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dassl.seeds import seed_problem
from dassl.utils.errors import BadValueError, UserError
from dassl.utils.locks import locked
from dassl.utils.memory import keep_freed_memory
from dassl.utils.numerals import whole_number
from experiments.plan.generated import generate_data
from experiments.plan.methods import default_source, setting_of_target
from experiments.plan.runs import ROOT, PlannedRun, short_path
from experiments.plan.settings import DEFAULT_SHOTS, Places, PlannedMethod, PlannedSetting
from experiments.plan.status import check_model, is_finished
from runner.arguments import parse_args
from runner.command import main as train
from runner.result import PARTS, read_result


@dataclass(frozen=True)
class Request:
    """What a script was asked for."""

    kind: str
    method: PlannedMethod
    dataset: str
    seed: int
    shots: int
    source: str
    places: Places

    def run(self) -> PlannedRun:
        """The run that is meant.

        Raises:
            UserError: unknown data set or config.
        """
        own = {"all": "few_shot"} | dict.fromkeys(PARTS["base2new"], "base2new")
        setting = own.get(self.kind) or setting_of_target(self.dataset)
        planned = PlannedSetting(setting, () if self.kind == "source" else (self.dataset,), (self.shots,), self.source)
        return next(run for run in planned.runs(self.method, self.places, self.seed) if run.part == self.kind)

    @property
    def training_script(self) -> str:
        """The command that trains the model which this request tests."""
        script, dataset = ("xd_train", self.source) if self.kind == "target" else ("base2new_train", self.dataset)
        words = [self.method.config] * bool(self.method.config)
        words += [word for option in self.method.options for word in option]
        shots = "" if self.shots == DEFAULT_SHOTS else f"SHOTS={self.shots} "
        path = f"scripts/{self.method.name}/{script}.sh"
        return f"{shots}{shlex.join(['bash', path, dataset, str(self.seed), *words])}"


def read_request(kind: str, method: str, words: Sequence[str]) -> Request:
    """The request in a script's arguments and environment.

    Raises:
        BadValueError: an argument is missing or invalid.
    """
    words, environment = list(words), os.environ
    if kind == "source" and words and words[0].isdecimal():
        words.insert(0, "imagenet")
    wanted = ["DATASET", "SHOTS", "SEED"] if kind == "all" else ["DATASET", "SEED"]
    if len(words) < len(wanted):
        raise BadValueError(f"{kind} needs {' '.join(wanted)}, not only: {' '.join(words)}")
    dataset = words.pop(0)
    shots = number("SHOTS", words.pop(0) if kind == "all" else environment.get("SHOTS") or str(DEFAULT_SHOTS))
    seed = number("SEED", words.pop(0))
    if problem := seed_problem(seed):
        raise BadValueError(f"SEED: {problem}")
    config, options = (words[0] if words else ""), words[1:]
    if config.isupper() or len(options) % 2:
        raise BadValueError(f"config options are pairs KEY VALUE that come after CFG, not {' '.join(words)}")
    planned = PlannedMethod(method, config, tuple(zip(options[::2], options[1::2], strict=True)))
    source = dataset if kind == "source" else environment.get("SOURCE") or default_source((dataset,))
    data = Path(environment.get("DATA") or "data").absolute()
    output = Path(environment.get("OUTPUT") or "output").absolute()
    return Request(kind, planned, dataset, seed, shots, source, Places(data, output))


def number(name: str, text: str) -> int:
    """The number in `text`.

    Raises:
        BadValueError: it is not a number from 0 on.
    """
    value = whole_number(text)
    if value is None:
        raise BadValueError(f"{name} should be a number, not {text!r}")
    return value


def run_one(request: Request) -> None:
    """Run it, unless it had finished before.

    Raises:
        UserError: no trained model to test, a folder that holds something else or is in use, or what train.py raises.
    """
    run = request.run()
    if is_finished(run):
        results = (read_result(run.folder) or {}).get("results") or {}
        shown = f" (* accuracy: {results['accuracy']:.1f}%)" if "accuracy" in results else ""
        print(f"Results are available in {short_path(run.folder)}{shown}. Skip this job")
        return
    try:
        check_model(run)
    except UserError as error:
        raise UserError(f"{error}; {request.training_script}") from None
    generate_data([run])
    if run.trains and (run.folder / "log.txt").is_file():
        print(f"{short_path(run.folder)} has an unfinished run: continuing from its last checkpoint, if there is one")
    with locked(run.folder):  # what train.py does, without loading everything a second time
        os.chdir(ROOT)
        keep_freed_memory()
        train(parse_args(run.arguments))


def main(arguments: argparse.Namespace) -> int:
    """Exit status 0.

    Raises:
        UserError: an error that the user can fix, on one line.
    """
    run_one(read_request(arguments.kind, arguments.method, arguments.words))
    return 0
