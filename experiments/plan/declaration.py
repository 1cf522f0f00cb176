"""An experiment as declared in a YAML file.

    trainers: [zsclip, coop, {method: prometar, config: ..., variant: ..., overrides: {KEY: VALUE}}]
    seeds: [1, 2, 3]
    settings:
      base2new: {datasets: [caltech101, dtd], shots: 16}
      cross_dataset: {source: imagenet, datasets: [caltech101, dtd]}
      domain_generalization: {source: imagenet, datasets: [imagenetv2]}
      few_shot: {datasets: [caltech101], shots: [1, 2, 4, 8, 16]}
    overrides: {KEY: VALUE}            # of every run
    variants: {name: {KEY: VALUE}}     # every run once more with each of them, in their own folders

All but `trainers` and `settings` may be left out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dassl.seeds import MAX_SEED
from dassl.utils.errors import BadValueError
from dassl.utils.yaml_files import read_yaml
from experiments.plan.methods import METHODS
from experiments.plan.runs import ROOT, PlannedRun
from experiments.plan.schema_errors import first_problem, suggestion
from experiments.plan.settings import DEFAULT_SHOTS, Places, PlannedMethod, PlannedSetting, add_run, make_plan

SHIPPED = ROOT / "configs" / "experiments"
DEFAULT_SEEDS = (1, 2, 3)
_NAME = {"type": "string", "pattern": r"^[\w.+=-]+$", "description": "a name of letters, digits and . + = - _"}
_COUNT = {"type": "integer", "minimum": 1}
_KEY = {"pattern": r"^[A-Z][\w.]*$", "description": "a config key, such as OPTIM.LR"}
_OVERRIDES = {"type": "object", "propertyNames": _KEY}
_METHOD = {"enum": list(METHODS), "description": "a method"}
_DATASETS = {"type": "array", "items": _NAME, "minItems": 1}


def _mapping(properties: dict[str, Any], required: Sequence[str] = ()) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def _setting(**more: Any) -> dict[str, Any]:
    return _mapping({"datasets": _DATASETS, "shots": _COUNT, **more}, required=["datasets"])


_SHOTS = {"type": "array", "items": _COUNT, "minItems": 1}
_TRAINER = _mapping(
    {"method": _METHOD, "config": _NAME, "variant": _NAME, "overrides": _OVERRIDES}, required=["method"]
)
DECLARATION_SCHEMA = _mapping(
    {
        "trainers": {
            "type": "array",
            "minItems": 1,
            "items": {"if": {"type": "object"}, "then": _TRAINER, "else": _METHOD},
        },
        "seeds": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": MAX_SEED}, "minItems": 1},
        "settings": _mapping(
            {
                "base2new": _setting(),
                "cross_dataset": _setting(source=_NAME),
                "domain_generalization": _setting(source=_NAME),
                "few_shot": _setting(shots={"if": {"type": "array"}, "then": _SHOTS, "else": _COUNT}),
            }
        )
        | {"minProperties": 1},
        "overrides": _OVERRIDES,
        "variants": {"type": "object", "propertyNames": _NAME, "additionalProperties": _OVERRIDES, "minProperties": 1},
    },
    required=["trainers", "settings"],
)
"""JSON schema of the files."""


@dataclass(frozen=True)
class Experiment:
    """Methods x settings x seeds."""

    methods: tuple[PlannedMethod, ...]
    settings: tuple[PlannedSetting, ...]
    seeds: tuple[int, ...]


def read_experiment(path: Path) -> Experiment:
    """The experiment declared in a file; a bare name may also be one of configs/experiments.

    Raises:
        UserError: no such file, not YAML, or content that is not as described above; the file and the place are named.
    """
    if not path.exists() and path.name == str(path) and (SHIPPED / path).is_file():
        path = SHIPPED / path
    content = read_yaml(path)
    problem = first_problem(DECLARATION_SCHEMA, content)
    if problem:
        raise BadValueError(f"{path}: {problem}")
    return Experiment(
        tuple(_methods(content)),
        tuple(_planned(name, setting) for name, setting in content["settings"].items()),
        tuple(content.get("seeds", DEFAULT_SEEDS)),
    )


def _methods(content: dict[str, Any]) -> Iterator[PlannedMethod]:
    variants = content.get("variants") or {"": {}}
    for trainer in content["trainers"]:
        entry = {"method": trainer} if isinstance(trainer, str) else trainer
        for name, overrides in variants.items():
            merged = content.get("overrides", {}) | entry.get("overrides", {}) | overrides
            names = [part for part in (entry.get("variant", ""), name) if part]
            options = tuple((key, str(value)) for key, value in merged.items())
            yield PlannedMethod(entry["method"], entry.get("config", ""), options, "-".join(names))


def _planned(name: str, setting: dict[str, Any]) -> PlannedSetting:
    shots = setting.get("shots", DEFAULT_SHOTS)
    return PlannedSetting(
        name,
        tuple(setting["datasets"]),
        tuple(shots) if isinstance(shots, list) else (shots,),
        setting.get("source", ""),
    )


@dataclass(frozen=True)
class Selection:
    """A part of experiments: what is named; an empty list of names means all."""

    methods: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()

    def check(self, experiments: Sequence[Experiment]) -> None:
        """Check that each name occurs in one of the experiments.

        Raises:
            BadValueError: one does not.
        """
        settings = [setting for experiment in experiments for setting in experiment.settings]
        _check(self.methods, [method.name for experiment in experiments for method in experiment.methods], "trainer")
        _check(self.settings, [setting.name for setting in settings], "setting")
        _check(self.datasets, [name for setting in settings for name in setting.datasets], "data set")
        _check(self.seeds, [seed for experiment in experiments for seed in experiment.seeds], "seed")

    def of(self, experiment: Experiment) -> Experiment:
        """The selected part of one experiment."""
        settings = [
            replace(setting, datasets=_selected(setting.datasets, self.datasets))
            for setting in experiment.settings
            if not self.settings or setting.name in self.settings
        ]
        return Experiment(
            tuple(method for method in experiment.methods if not self.methods or method.name in self.methods),
            tuple(setting for setting in settings if setting.datasets),
            _selected(experiment.seeds, self.seeds),
        )


def declared_runs(files: Iterable[Path], selection: Selection, places: Places) -> list[PlannedRun]:
    """The selected runs of all files, each once.

    Raises:
        UserError: a file cannot be read, or what it declares is not possible.
    """
    experiments = [read_experiment(file) for file in files]
    selection.check(experiments)
    runs: dict[Path, PlannedRun] = {}
    for part in map(selection.of, experiments):
        for run in make_plan(part.settings, part.methods, part.seeds, places):
            add_run(runs, run)
    return list(runs.values())


def _selected(declared: tuple[Any, ...], wanted: Collection[Any]) -> tuple[Any, ...]:
    return tuple(each for each in declared if not wanted or each in wanted)


def _check(wanted: Collection[Any], declared: Collection[Any], kind: str) -> None:
    for name in wanted:
        if name not in declared:
            known = list(map(str, dict.fromkeys(declared)))
            raise BadValueError(f"no {kind} {name} is declared; {suggestion(str(name), known)}")
