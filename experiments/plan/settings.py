"""From methods, settings, data sets and seeds to runs, in an order in which each run comes after what it needs.

Below the output folder, runs lie where the lineage's scripts put them:

    base2new/{train_base,test_new,test_all}/<dataset>/shots_<K>/<trainer>/<config>/seed<k>
    <dataset>/<trainer>/<config>_<K>shots/seed<k>                       trained on all classes
    evaluation/<trainer>/<config>_<K>shots/<dataset>/seed<k>            tested there; an unusual source is named
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dassl.config import config_differences
from dassl.utils.errors import BadValueError, MissingFileError
from experiments.plan.methods import ConfigFile, NamedMethod, default_config_file, default_source, find_method
from experiments.plan.runs import ROOT, Options, PlannedRun, config_variant, data_name, method_subfolder
from experiments.plan.schema_errors import suggestion
from runner.result import WORKERS
from trainers.core.record import changes_no_number

SETTINGS = ("base2new", "cross_dataset", "domain_generalization", "few_shot")


@dataclass(frozen=True)
class Places:
    """Where the data sets lie and the results go."""

    data: Path
    output: Path


@dataclass(frozen=True)
class PlannedMethod:
    """One method as it is to be run: by default with the setting's own config file and no overrides."""

    name: str
    config: str = ""
    options: Options = ()
    variant: str = ""

    @property
    def method(self) -> NamedMethod:
        return find_method(self.name)

    def config_file(self, setting: str, dataset: str, shots: int) -> ConfigFile:
        """The config file for training on `dataset`. Raises MissingFileError when there is no such config file."""
        config_file = (
            ConfigFile(self.config) if self.config else default_config_file(self.method, setting, dataset, shots)
        )
        path = self.method.config_path(config_file.stem)
        if not path.is_file():
            shipped = sorted(file.stem for file in path.parent.glob("*.yaml"))
            remedy = suggestion(config_file.stem, shipped) if shipped else "write it, or copy that of a similar method"
            raise MissingFileError(
                f"no such config: {path.relative_to(ROOT)} (KEY VALUE pairs come after CFG); {remedy}"
            )
        return config_file


def check_dataset(name: str) -> None:
    """Raises MissingFileError when a data set has no config file."""
    path = ROOT / "configs" / "datasets" / f"{name}.yaml"
    if not path.is_file():
        known = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise MissingFileError(f"no config file of a data set {name}; {suggestion(name, known)}")


def base2new(row: PlannedMethod, places: Places, dataset: str, seed: int, shots: int) -> Iterator[PlannedRun]:
    """Train on the base classes and test on them; test that model on the new classes, and on all classes together."""
    on_all = _trained_on_all(row, places, "base2new", "train_base", dataset, seed, shots)
    config = config_variant(on_all.config_file.stem, row.variant)
    below = Path(_data_name(row, dataset), f"shots_{shots}", row.method.trainer, config, f"seed{seed}")
    folder = places.output / "base2new"
    on_base = replace(on_all, classes="base", folder=folder / "train_base" / below)
    yield on_base
    needs = on_base.folder if row.method.learns else None
    for part, classes in (("test_new", "new"), ("test_all", "all")):
        yield replace(on_base, part=part, classes=classes, folder=folder / part / below, needs=needs)


def few_shot(row: PlannedMethod, places: Places, dataset: str, seed: int, shots: int) -> Iterator[PlannedRun]:
    """Train on all classes and test on them. Zero-shot CLIP sees no images: its number of shots is 0."""
    yield _trained_on_all(row, places, "few_shot", "all", dataset, seed, shots if row.method.learns else 0)


def transfer(
    row: PlannedMethod, places: Places, setting: str, source: str, targets: Iterable[str], seed: int, shots: int
) -> Iterator[PlannedRun]:
    """Cross-dataset or domain generalisation: train on all classes of the source, test there and on the targets."""
    trained = _trained_on_all(row, places, setting, "source", source, seed, shots)
    yield trained
    seen, needs = _data_name(row, source), trained.folder if row.method.learns else None
    config = f"{config_variant(trained.config_file.stem, row.variant)}_{shots}shots"
    config += "" if seen in ("imagenet", "shapes") else f"_from_{seen}"
    above = places.output / "evaluation" / row.method.trainer / config
    above /= method_subfolder(row.method, trained.config_file, row.options)
    for target in targets:
        folder = above / _data_name(row, target) / f"seed{seed}"
        yield replace(trained, part="target", dataset=target, folder=folder, needs=needs)


def _trained_on_all(
    row: PlannedMethod, places: Places, setting: str, part: str, dataset: str, seed: int, shots: int
) -> PlannedRun:
    config_file = row.config_file(setting, dataset, shots)
    config = f"{config_variant(config_file.stem, row.variant)}_{shots}shots"
    subfolder = method_subfolder(row.method, config_file, row.options)
    folder = places.output / _data_name(row, dataset) / row.method.trainer / config / subfolder / f"seed{seed}"
    return PlannedRun(
        setting=setting,
        part=part,
        method=row.method,
        config_file=config_file,
        dataset=dataset,
        seed=seed,
        shots=shots,
        classes="all",
        options=row.options,
        data=places.data,
        folder=folder,
        variant=row.variant,
    )


def _data_name(row: PlannedMethod, dataset: str) -> str:
    check_dataset(dataset)
    return data_name(dataset, row.options)


@dataclass(frozen=True)
class PlannedSetting:
    """A setting on some data sets: the columns of a table.

    Args:
        datasets: trained on one by one; in cross-dataset and domain generalisation, the targets.
        shots: more than one number in few-shot classification only.
        source: what is trained on before the targets are tested on; empty for ImageNet, or Shapes for generated ones.
    """

    setting: str
    datasets: tuple[str, ...]
    shots: tuple[int, ...] = (16,)
    source: str = ""

    def runs(self, row: PlannedMethod, places: Places, seed: int) -> Iterator[PlannedRun]:
        """The runs of one method and seed."""
        for shots in self.shots:
            if self.setting in ("cross_dataset", "domain_generalization"):
                source = self.source or default_source(self.datasets)
                yield from transfer(row, places, self.setting, source, self.datasets, seed, shots)
            else:
                make = base2new if self.setting == "base2new" else few_shot
                for dataset in self.datasets:
                    yield from make(row, places, dataset, seed, shots)


def make_plan(
    tasks: Sequence[PlannedSetting], rows: Sequence[PlannedMethod], seeds: Sequence[int], places: Places
) -> list[PlannedRun]:
    """All runs, without repetitions: seed by seed, so that a whole table of one seed is there early.

    Zero-shot CLIP does not depend on the seed and runs with the first one alone.

    Raises:
        UserError: unknown method, data set or config, or two different runs that would share a folder.
    """
    runs: dict[Path, PlannedRun] = {}
    for number, seed in enumerate(seeds):
        for task in tasks:
            for row in rows:
                if number and not row.method.learns:
                    continue
                for run in task.runs(row, places, seed):
                    add_run(runs, run)
    return list(runs.values())


def add_run(runs: dict[Path, PlannedRun], run: PlannedRun) -> None:
    """Add a run to those of a plan, by folder; a model that two settings need is trained once.

    Raises BadValueError when a different run has that folder.
    """
    same = runs.setdefault(run.folder, run)
    exempt = changes_no_number() if run.trains else changes_no_number() | {WORKERS}
    if same is not run and (different := config_differences(same.config(), run.config(), {}, exempt)):
        raise BadValueError(
            f"two different runs would share the folder {run.folder} ({different[0]}): give one of them a variant"
        )
