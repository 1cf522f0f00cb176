"""A trainer's record of its run, compared with the records in a folder and its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from yacs.config import CfgNode

from dassl.config import get_cfg_default, plain
from dassl.config.differences import (
    BACKBONE_KEY,
    CHANGES_NO_NUMBER,
    EXTEND_KEY,
    INIT_KEY,
    Difference,
    by_content,
    config_differences,
    leaves,
    of_the_model,
    only_more_epochs,
    without_extension,
)
from dassl.utils.errors import BadValueError, MismatchError, MissingFileError
from dassl.utils.files import file_sha256_if_any

from .run_record import (
    RunRecord,
    check_piece,
    check_record_files,
    classnames_digest,
    counting_config,
    has_checkpoints,
    has_record,
    images_digest,
    read_classnames,
    read_config,
    write_record,
)
from .trainer_base import TrainerBase

_PARTS = ("train_x", "train_u", "val", "test")


class RunChecks(TrainerBase):
    """What a trainer with a configuration records, and how it handles the records that it finds.

    A trainer with `refuses_other_configurations` stops if the record of a folder differs from its own
    configuration. Others behave like Dassl and print a warning that names the keys.
    """

    cfg: CfgNode
    max_epoch: int
    lab2cname: dict[int, str]
    changes_no_number: frozenset[str] = CHANGES_NO_NUMBER
    refuses_other_configurations: bool = False
    training_files: tuple[str, ...] = ()
    """Keys that name files which only the training reads; a resumed run needs the same content."""

    def __init__(self) -> None:
        super().__init__()
        self.scored_run: RunRecord | None = None  # of the checkpoint that was loaded for an evaluation
        self.start_digest: str | None = None  # SHA-256 of the file of MODEL.INIT_WEIGHTS
        self.extended_after: list[int] = []
        self._warned: set[str] = set()

    # What is recorded

    @property
    def recorded_classnames(self) -> list[str]:
        """Class names in the order of their labels."""
        return [self.lab2cname[label] for label in sorted(self.lab2cname)]

    def frozen_weights_digest(self) -> str | None:
        """SHA-256 of the file with the weights that the trainer does not learn; None if unknown."""
        return None

    def run_record(self) -> RunRecord:
        """The record in checkpoints of this run; the digests of the weights are added when they are written."""
        return RunRecord(
            config=counting_config(self.cfg, self.changes_no_number),
            classnames=classnames_digest(self.recorded_classnames),
            images=self._image_digests,
            epochs=self.max_epoch,
            frozen=self.frozen_weights_digest(),
            start=self.start_digest,
            extended_after=self.extended_after,
            files=self._file_digests,
        )

    def write_run_record(self, directory: str) -> None:
        """Write `config.yaml` and `classnames.json` into a folder."""
        write_record(directory, self.cfg, self.recorded_classnames)

    @cached_property
    def _image_digests(self) -> dict[str, str]:
        dataset = getattr(getattr(self, "dm", None), "dataset", None)
        parts = {part: getattr(dataset, part, None) for part in _PARTS}
        return {part: images_digest(items, self.cfg.DATASET.ROOT) for part, items in parts.items() if items}

    @cached_property
    def _file_digests(self) -> dict[str, str]:
        names = dict(leaves(plain(self.cfg)))
        found = {key: file_sha256_if_any(names[key]) for key in self.training_files}
        return {key: digest for key, digest in found.items() if digest is not None}

    # What is compared

    def check_folder(self, directory: str, resuming: bool) -> None:
        """Compare the record in a run's folder with this run.

        Args:
            directory: folder of a run; a folder without record is not checked.
            resuming: whether that run is resumed; otherwise its model is evaluated.

        Raises:
            BadValueError: it differs, and the trainer refuses other configurations.
        """
        if not has_record(directory) or (resuming and not has_checkpoints(directory)):
            return
        # files are compared by their content; their digests are in the checkpoints
        differences = self._differences(read_config(directory), self._digests(), resuming)
        lines = [str(each) for each in differences]
        if resuming and not lines:
            lines = _classname_differences(read_classnames(directory), self.recorded_classnames)
        self._refuse_or_warn(directory, lines, _remedy(differences, resuming))

    def check_checkpoint(self, name: str, checkpoint: Mapping[str, Any], path: str, resuming: bool) -> RunRecord | None:
        """Compare the record in a checkpoint of the model `name` with its own folder and with this run.

        Returns:
            The record; None if the checkpoint has none.

        Raises:
            MismatchError: the files are not from one run.
            BadValueError: the run differs, and the trainer refuses other configurations.
        """
        record = check_piece(name, checkpoint, path)
        if record is None:
            if resuming and self.refuses_other_configurations:
                raise MismatchError(
                    f"{path} cannot be resumed: it records nothing about its run (a published or old checkpoint); "
                    f"MODEL.INIT_WEIGHTS {path} starts a new training from its prompts"
                )
            return None
        try:
            check_record_files(record, path)
        except MismatchError as error:
            if self.refuses_other_configurations:
                raise
            print(f"Warning: {error} (used nevertheless, as in Dassl)")
        differences = self._differences(record.config, record.digests, resuming)
        lines = [str(each) for each in differences]
        if resuming:
            lines += self._data_differences(record)
        self._refuse_or_warn(path, lines, _remedy(differences, resuming))
        if resuming:
            self._take_over_extensions(record, checkpoint["epoch"])
        else:
            self.scored_run = record
        return record

    def check_is_empty(self, directory: str) -> None:
        """Check a folder in which no checkpoint to resume from was found.

        Raises:
            MissingFileError: it was given with --resume, and the trainer refuses other configurations.
        """
        if self.refuses_other_configurations and self.cfg.RESUME and directory == self.cfg.RESUME:
            raise MissingFileError(f"{directory} has no checkpoint to resume from (--resume)")

    def needs_more_epochs(self, record: RunRecord | None) -> bool:
        """Whether `TRAIN.EXTEND` gives the recorded run more epochs than it had."""
        return bool(record is not None and self.cfg.TRAIN.EXTEND and record.epochs < self.cfg.OPTIM.MAX_EPOCH)

    def _take_over_extensions(self, record: RunRecord, epoch: int) -> None:
        self.extended_after = list(record.extended_after)
        if self.needs_more_epochs(record):
            self.extended_after.append(epoch)

    def _digests(self) -> dict[str, str | None]:
        """SHA-256 of each file that the configuration names, as `RunRecord.digests`."""
        return {BACKBONE_KEY: self.frozen_weights_digest(), INIT_KEY: self.start_digest, **self._file_digests}

    def _differences(
        self, there: dict[str, Any], digests: Mapping[str, str | None], resuming: bool
    ) -> list[Difference]:
        """Relevant keys that differ; those that name files are compared by the content of the files.

        Args:
            there: the recorded configuration.
            digests: SHA-256 of the files that it names, if known.
            resuming: as in `check_folder`.
        """
        here, own = plain(self.cfg), self._digests()
        found = config_differences(there, here, self._default_config(), self.changes_no_number)
        found = without_extension(found, self.cfg.TRAIN.EXTEND) if resuming else of_the_model(found)
        compared = own if resuming else [BACKBONE_KEY]  # a trained model does not need the files of its training
        return by_content(found, there, here, {key: (digests.get(key), own[key]) for key in compared})

    def _default_config(self) -> dict[str, Any]:
        cfg = get_cfg_default()
        add_config = getattr(type(self), "add_config", None)
        if add_config is not None:
            add_config(cfg)
        return plain(cfg)

    def _data_differences(self, record: RunRecord) -> list[str]:
        own = self.run_record()
        lines = [] if record.classnames == own.classnames else ["the class names are different"]
        parts = [part for part in _PARTS if record.images.get(part) != own.images.get(part)]
        return lines + [f"the images of {part} are different" for part in parts]

    def _refuse_or_warn(self, where: str, lines: Sequence[str], remedy: str) -> None:
        """Refuse the differences, or print them once as a warning."""
        if not lines:
            return
        message = f"{where} was trained with another configuration: {'; '.join(lines)}"
        if not self.refuses_other_configurations:
            if message not in self._warned:
                print(f"Warning: {message} (used nevertheless, as in Dassl)")
            self._warned.add(message)
            return
        raise BadValueError(f"{message}: {remedy}")


def _remedy(differences: Sequence[Difference], resuming: bool) -> str:
    if not resuming:
        return "leave these settings out to use the model's own"
    if only_more_epochs(differences):
        return f"--extend ({EXTEND_KEY} True) continues that run with the schedule of all epochs"
    return "use another output folder, or the settings of that run"


def _classname_differences(there: list[str], here: list[str]) -> list[str]:
    """The first class whose name differs, or the numbers of classes."""
    if len(there) != len(here):
        return [f"{len(there)} classes there, {len(here)} here"]
    pairs = zip(there, here, strict=True)
    return [f"class {label} is {a!r} there, {b!r} here" for label, (a, b) in enumerate(pairs) if a != b][:1]
