"""From methods, settings, data sets and seeds to runs, in an order in which each run comes after what it needs.

Below the output folder, runs lie where the lineage's scripts put them:

    base2new/{train_base,test_new,test_all}/<dataset>/shots_<K>/<trainer>/<config>/seed<k>
    <dataset>/<trainer>/<config>_<K>shots/seed<k>                       trained on all classes
    evaluation/<trainer>/<config>_<K>shots/<dataset>/seed<k>            tested there; an unusual source is named
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from dassl.config import config_differences
from dassl.utils.errors import BadValueError, MissingFileError
from experiments.plan.methods import ConfigFile, NamedMethod, default_config_file, default_source, find_method
from experiments.plan.runs import ROOT, Options, PlannedRun, config_variant, data_name, method_subfolder
from experiments.plan.schema_errors import suggestion
from runner.result import WORKERS
from trainers.core.facts import TRANSFER
from trainers.core.record import changes_no_number

DEFAULT_SHOTS = 16


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
        """The config file for training on `dataset`.

        Raises:
            MissingFileError: there is no such config file.
        """
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

    def base2new(self, places: Places, dataset: str, seed: int, shots: int) -> Iterator[PlannedRun]:
        """Train on the base classes and test on them; test that model on the new classes, and on all together."""
        on_all = self._trained_on_all(places, "base2new", "train_base", dataset, seed, shots)
        config = config_variant(on_all.config_file.stem, self.variant)
        below = Path(self._data_name(dataset), f"shots_{shots}", self.method.trainer, config, f"seed{seed}")
        folder = places.output / "base2new"
        on_base = replace(on_all, classes="base", folder=folder / "train_base" / below)
        yield on_base
        needs = on_base.folder if self.method.learns else None
        for part, classes in (("test_new", "new"), ("test_all", "all")):
            yield replace(on_base, part=part, classes=classes, folder=folder / part / below, needs=needs)

    def few_shot(self, places: Places, dataset: str, seed: int, shots: int) -> Iterator[PlannedRun]:
        """Train on all classes and test on them. Zero-shot CLIP sees no images: its number of shots is 0."""
        yield self._trained_on_all(places, "few_shot", "all", dataset, seed, shots if self.method.learns else 0)

    def transfer(
        self, places: Places, setting: str, source: str, targets: Iterable[str], seed: int, shots: int
    ) -> Iterator[PlannedRun]:
        """Cross-dataset or domain generalisation: train on all classes of the source, test there and on the targets."""
        trained = self._trained_on_all(places, setting, "source", source, seed, shots)
        yield trained
        seen, needs = self._data_name(source), trained.folder if self.method.learns else None
        config = f"{config_variant(trained.config_file.stem, self.variant)}_{shots}shots"
        config += "" if seen in ("imagenet", "shapes") else f"_from_{seen}"
        above = places.output / "evaluation" / self.method.trainer / config
        above /= method_subfolder(self.method, trained.config_file, self.options)
        for target in targets:
            folder = above / self._data_name(target) / f"seed{seed}"
            yield replace(trained, part="target", dataset=target, folder=folder, needs=needs)

    def _trained_on_all(
        self, places: Places, setting: str, part: str, dataset: str, seed: int, shots: int
    ) -> PlannedRun:
        config_file = self.config_file(setting, dataset, shots)
        config = f"{config_variant(config_file.stem, self.variant)}_{shots}shots"
        subfolder = method_subfolder(self.method, config_file, self.options)
        folder = places.output / self._data_name(dataset) / self.method.trainer / config / subfolder / f"seed{seed}"
        return PlannedRun(
            setting=setting,
            part=part,
            method=self.method,
            config_file=config_file,
            dataset=dataset,
            seed=seed,
            shots=shots,
            classes="all",
            options=self.options,
            data=places.data,
            folder=folder,
            variant=self.variant,
        )

    def _data_name(self, dataset: str) -> str:
        """Name of the data set in output folders.

        Raises:
            MissingFileError: the data set has no config file.
        """
        path = ROOT / "configs" / "datasets" / f"{dataset}.yaml"
        if not path.is_file():
            known = sorted(file.stem for file in path.parent.glob("*.yaml"))
            raise MissingFileError(f"no config file of a data set {dataset}; {suggestion(dataset, known)}")
        return data_name(dataset, self.options)


@dataclass(frozen=True)
class PlannedSetting:
    """A setting on some data sets: the columns of a table.

    Args:
        datasets: trained on one by one; in cross-dataset and domain generalisation, the targets.
        shots: more than one number in few-shot classification only.
        source: what is trained on before the targets are tested on; empty for ImageNet, or Shapes for generated ones.
    """

    name: str
    datasets: tuple[str, ...]
    shots: tuple[int, ...] = (DEFAULT_SHOTS,)
    source: str = ""

    def runs(self, method: PlannedMethod, places: Places, seed: int) -> Iterator[PlannedRun]:
        """The runs of one method and seed."""
        for shots in self.shots:
            if self.name in TRANSFER:
                source = self.source or default_source(self.datasets)
                yield from method.transfer(places, self.name, source, self.datasets, seed, shots)
            else:
                make = method.base2new if self.name == "base2new" else method.few_shot
                for dataset in self.datasets:
                    yield from make(places, dataset, seed, shots)


def make_plan(
    settings: Sequence[PlannedSetting], methods: Sequence[PlannedMethod], seeds: Sequence[int], places: Places
) -> list[PlannedRun]:
    """All runs, without repetitions: seed by seed, so that a whole table of one seed is there early.

    Zero-shot CLIP does not depend on the seed and runs with the first one alone.

    Raises:
        UserError: unknown method, data set or config, or two different runs that would share a folder.
    """
    runs: dict[Path, PlannedRun] = {}
    for number, seed in enumerate(seeds):
        learning = [method for method in methods if not number or method.method.learns]
        for setting, method in itertools.product(settings, learning):
            for run in setting.runs(method, places, seed):
                add_run(runs, run)
    return list(runs.values())


def add_run(runs: dict[Path, PlannedRun], run: PlannedRun) -> None:
    """Add a run to those of a plan, by folder; a model that two settings need is trained once.

    Raises:
        BadValueError: a different run has that folder.
    """
    same = runs.setdefault(run.folder, run)
    exempt = changes_no_number() if run.trains else changes_no_number() | {WORKERS}
    if same is not run and (different := config_differences(same.config(), run.config(), {}, exempt)):
        raise BadValueError(
            f"two different runs would share the folder {run.folder} ({different[0]}): give one of them a variant"
        )
