"""Saving and loading the registered models, with what a resumed run needs besides them."""

from __future__ import annotations

import os.path as osp
from dataclasses import replace
from typing import Any

from dassl.optim.lr_scheduler import enter_schedule
from dassl.utils.errors import MismatchError, MissingFileError, one_line
from dassl.utils.random_state import random_state, restore_random_state
from dassl.utils.torchtools import (
    BEST_NAME,
    checkpoint_name,
    last_common_checkpoint,
    load_checkpoint,
    load_state,
    load_training_checkpoint,
    read_training_checkpoint,
    save_checkpoint,
)

from .found_models import found_instead
from .registered_models import RegisteredModels
from .run_record import RUN_KEY, RunRecord, check_piece, check_same_run, weights_digest

TRAINING_STATE = "training_state"
"""Key of a checkpoint under which `ModelCheckpoints.training_state` is kept."""


class ModelCheckpoints(RegisteredModels):
    """Writes a folder of checkpoints for each registered model, and loads them for a test or to resume."""

    def __init__(self) -> None:
        super().__init__()
        self._resumed_state: dict[str, Any] | None = None
        self._resumed_from = ""

    def save_model(
        self, epoch: int, directory: str, is_best: bool = False, val_result: float | None = None, model_name: str = ""
    ) -> None:
        """Write a checkpoint of every model to `<directory>/<name>/`.

        The first model's is written last and contains the training state. If it exists, so do the others. All
        contain the record of the run.

        Args:
            epoch: index of the epoch just completed; the file is numbered `epoch + 1`.
            is_best: write `model-best.pth.tar` as well.
            val_result: result on the validation images.
            model_name: another file name.
        """
        names = self.get_model_names()
        contents = {name: self.checkpoint_content(name, epoch, val_result) for name in names}
        recorded = self._recorded_run(contents, directory)
        for name in reversed(names):
            content = contents[name]
            if name == names[0]:
                content[TRAINING_STATE] = self.training_state()
            save_checkpoint(content | recorded, osp.join(directory, name), is_best=is_best, model_name=model_name)

    def _recorded_run(self, contents: dict[str, dict[str, Any]], directory: str) -> dict[str, str]:
        """The record of the run for checkpoints with these contents, under its key; it is written to the folder too."""
        run = self.run_record()
        if run is None:
            return {}
        self.write_run_record(directory)
        digests = {name: weights_digest(content["state_dict"]) for name, content in contents.items()}
        return {RUN_KEY: replace(run, weights=digests).to_text()}

    def checkpoint_content(self, name: str, epoch: int, val_result: float | None = None) -> dict[str, Any]:
        """Content of the checkpoint of the model `name`; a trainer may store less of the model, or add entries."""
        optim, sched = self._optims[name], self._scheds[name]
        return {
            "state_dict": self._models[name].state_dict(),
            "epoch": epoch + 1,
            "optimizer": None if optim is None else optim.state_dict(),
            "scheduler": None if sched is None else sched.state_dict(),
            "val_result": val_result,
        }

    def training_state(self) -> dict[str, Any]:
        """What a resumed run needs, besides models, optimisers and schedules, to continue as if never interrupted.

        Plain data and tensors. A trainer with more state adds it here and restores it in `load_training_state`.
        """
        return {"random": random_state()}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Restore what `training_state` returned; a state that does not fit raises a built-in exception."""
        restore_random_state(state["random"])

    def _restore_training_state(self) -> None:
        state, self._resumed_state = self._resumed_state, None
        if state is None:
            return
        try:
            self.load_training_state(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError, OverflowError) as error:
            raise MismatchError(
                f"the training state in {self._resumed_from} does not fit: {one_line(error)}"
            ) from error

    def load_model(self, directory: str, epoch: int | None = None) -> None:
        """Load every model from `<directory>/<name>/`: the checkpoint of `epoch`, by default the best one.

        Raises:
            MissingFileError: a checkpoint does not exist.
            UnreadableFileError: a checkpoint is damaged.
            MismatchError: a checkpoint belongs to another model or run.
        """
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        self.check_folder(directory, resuming=False)
        paths, checkpoints, records = {}, {}, {}
        for name in self.get_model_names():
            path = osp.join(directory, name, checkpoint_name(epoch) if epoch is not None else BEST_NAME)
            if not osp.exists(path):
                found = found_instead(directory)
                raise MissingFileError(f'no checkpoint of "{name}": {path} does not exist; {found}')
            paths[name], checkpoints[name] = path, load_checkpoint(path)
            records[name] = self.check_checkpoint(name, checkpoints[name], path, resuming=False)
        check_same_run(list(paths.values()), list(records.values()))
        for name, checkpoint in checkpoints.items():
            result = checkpoint.get("val_result")
            shown = f", val_result={result:.2f}" if result is not None else ""
            print(f"Load {paths[name]} to {name} (epoch={checkpoint.get('epoch')}{shown})")
            load_state(self._models[name], checkpoint.get("state_dict", {}), paths[name])

    def resume_model_if_exist(self, directory: str, names: str | list[str] | None = None) -> int:
        """Load the last checkpoint that all models have; returns the number of completed epochs, 0 without one.

        Args:
            names: the models to load; None: all.

        Raises:
            UnreadableFileError: a checkpoint is damaged.
            MismatchError: a checkpoint belongs to another model or run.
        """
        self.check_folder(directory, resuming=True)
        folders = {name: osp.join(directory, name) for name in self.get_model_names(names)}
        file_name = last_common_checkpoint(list(folders.values()))
        if file_name is None:
            self.check_is_empty(directory)
            print("No checkpoint found, train from scratch")
            return 0
        print(f"Found checkpoint at {directory} (will resume training)")
        paths = {name: osp.join(folder, file_name) for name, folder in folders.items()}
        checkpoints, records = {}, {}
        for name, path in paths.items():
            checkpoints[name] = read_training_checkpoint(path)
            records[name] = self.check_checkpoint(name, checkpoints[name], path, resuming=True)
        check_same_run(list(paths.values()), list(records.values()))
        epoch = 0
        for name, checkpoint in checkpoints.items():
            epoch = checkpoint["epoch"]
            self._restore_model(name, checkpoint, paths[name], extend=self.needs_more_epochs(records[name]))
            if TRAINING_STATE in checkpoint:
                self._resumed_state, self._resumed_from = checkpoint[TRAINING_STATE], paths[name]
        return epoch

    def _restore_model(self, name: str, checkpoint: dict[str, Any], path: str, extend: bool) -> None:
        """Load a checkpoint into model, optimiser and schedule; an extended run keeps its new schedule."""
        model, optim, sched = self._models[name], self._optims[name], self._scheds[name]
        for key, own in (("optimizer", optim), ("scheduler", sched)):
            if RUN_KEY in checkpoint and own is not None and checkpoint.get(key) is None:
                raise MismatchError(f'{path} cannot be resumed: it has no "{key}"')
        if not extend or sched is None:
            load_training_checkpoint(checkpoint, path, model, optim, sched)
            return
        old = checkpoint.get("scheduler")
        # a trainer may have a schedule that it never steps
        was_stepped = isinstance(old, dict) and old.get("last_epoch", 0) > 0
        enter_schedule(sched, checkpoint["epoch"] if was_stepped else 0)
        rates = [group["lr"] for group in optim.param_groups]
        load_training_checkpoint(checkpoint, path, model, optim)
        for group, rate in zip(optim.param_groups, rates, strict=True):
            group["lr"] = rate

    # The record of the run. `RunChecks`, which has a configuration, overrides these methods

    def run_record(self) -> RunRecord | None:
        """The record of the run that its checkpoints contain; None: no record."""
        return None

    def write_run_record(self, directory: str) -> None:
        """Write the record of the run into a folder."""

    def check_folder(self, directory: str, resuming: bool) -> None:
        """Compare the record in a folder with this run."""

    def check_checkpoint(self, name: str, checkpoint: dict[str, Any], path: str, resuming: bool) -> RunRecord | None:
        """Compare the record in a checkpoint with this run; returns the record."""
        return check_piece(name, checkpoint, path)

    def check_is_empty(self, directory: str) -> None:
        """Check a folder in which no checkpoint to resume from was found."""

    def needs_more_epochs(self, record: RunRecord | None) -> bool:
        """Whether the recorded run is extended to more epochs than it was started with."""
        return False
