"""Resuming a run: from the checkpoints of an epoch, or from the checkpoint within an epoch."""

from __future__ import annotations

import math
import os.path as osp
import time
from typing import Any

import torch
from torch.utils.data import DataLoader

from dassl.data.data_manager import ImageLoader
from dassl.interruption import STOP, Interrupted
from dassl.utils.errors import BadValueError, MismatchError, one_line
from dassl.utils.files import read_bytes, write_bytes_atomically
from dassl.utils.meters import MetricMeter
from dassl.utils.threads import usable_cores
from dassl.utils.torchtools import BEST_NAME, last_common_checkpoint, load_checkpoint

from .model_checkpoints import TRAINING_STATE
from .run_checks import RunChecks
from .run_record import RUN_KEY, RunRecord
from .unfinished_epoch import (
    Timer,
    averages_of,
    plain_averages,
    read_unfinished_epoch,
    unfinished_epoch_path,
    write_unfinished_epoch,
)


class ResumableRun(RunChecks):
    """A run that can be stopped after any step and continued with the same bits."""

    output_dir: str
    start_epoch: int
    best_result: float
    scaler: Any  # a trainer that trains with `amp` sets it
    keeps_recorded_threads = False
    """Whether a resumed run takes over the number of CPU threads, because it was chosen and not given."""
    _checkpoint_timer: Timer

    def __init__(self) -> None:
        super().__init__()
        self._unfinished: dict[str, Any] | None = None  # the epoch that a resumed run continues
        self._resumable_loader: ImageLoader | None = None  # of the current epoch
        self._epoch_is_saved = False
        self.commits: list[str] = []  # of the code that trains; a program that knows its own sets it

    def _resume(self) -> None:
        """Resume the run in RESUME or in OUTPUT_DIR, if there is one."""
        directory = self.cfg.RESUME or self.cfg.OUTPUT_DIR
        if self.cfg.RESUME:
            self.check_folder(self.cfg.OUTPUT_DIR, resuming=True)
        unfinished = self._unfinished_epoch_to_resume(directory)
        if unfinished is None:
            self.start_epoch = self.resume_model_if_exist(directory)
        else:
            self._resume_unfinished_epoch(directory, unfinished)
        if self.cfg.TRAIN.EXTEND and not self.start_epoch:
            raise BadValueError(f"{directory} has no checkpoint to extend (--extend, TRAIN.EXTEND)")
        if self.start_epoch > self.max_epoch:
            print(f"Warning: {directory} has been trained for {self.start_epoch} epochs, more than {self.max_epoch}")
        if self.extended_after and self.extended_after[-1] == self.start_epoch:
            print(
                f"Extending the run: {self.cfg.OPTIM.LR_SCHEDULER} over {self.max_epoch} epochs from epoch "
                f"{self.start_epoch + 1}, lr {self.get_current_lr():.4e}; the first {self.start_epoch} epochs keep "
                "their schedule"
            )

    def _take_over_best_model(self) -> None:
        """Let a resumed run keep the best model of the interrupted run until it finds a better one."""
        folders = {name: osp.join(self.cfg.RESUME or self.output_dir, name) for name in self.get_model_names()}
        best = {name: osp.join(folder, BEST_NAME) for name, folder in folders.items()}
        if not self.start_epoch or self.cfg.TEST.FINAL_MODEL != "best_val" or not all(map(osp.isfile, best.values())):
            return
        results = [load_checkpoint(path).get("val_result") for path in best.values()]
        self.best_result = max((result for result in results if result is not None), default=-float("inf"))
        for name, path in best.items():
            own = osp.join(self.output_dir, name, BEST_NAME)
            if not osp.exists(own):
                write_bytes_atomically(own, read_bytes(path))

    def training_state(self) -> dict[str, Any]:
        """As in TrainerBase, with the best result so far and the loss scale (of `self.scaler`, if there is one)."""
        state = super().training_state() | {"commits": self.commits}
        state["best_result"] = self.best_result
        state["threads"] = torch.get_num_threads()
        state["steps"] = (self.epoch + 1) * getattr(self, "num_batches", 0)
        scaler = getattr(self, "scaler", None)
        if scaler is not None:
            state["scaler"] = scaler.state_dict()
        return state

    def load_training_state(self, state: dict[str, Any]) -> None:
        super().load_training_state(state)
        self.best_result = float(state["best_result"])
        self._first_new_step = int(state["steps"])
        self._keep_threads(state.get("threads"))
        self.commits = list(dict.fromkeys([*state.get("commits", ()), *self.commits]))
        if state.get("scaler") and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])

    def _keep_threads(self, recorded: Any) -> None:
        """Compute with as many threads as before the interruption: their number can change the last bits."""
        if not self.keeps_recorded_threads or not isinstance(recorded, int) or recorded == torch.get_num_threads():
            return
        if 1 <= recorded <= usable_cores():
            torch.set_num_threads(recorded)
            print(f"Threads: {recorded} (as before the interruption)")

    # The checkpoint within an epoch

    def _unfinished_epoch_to_resume(self, directory: str) -> dict[str, Any] | None:
        """The checkpoint within an epoch, if it is later than those of epochs."""
        unfinished = read_unfinished_epoch(directory)
        if unfinished is None or unfinished["epoch"] < self._completed_epochs(directory):
            return None
        path = unfinished_epoch_path(directory)
        if set(unfinished["models"]) != set(self.get_model_names()):
            own = ", ".join(self.get_model_names())
            raise MismatchError(f"{path} belongs to {', '.join(map(str, unfinished['models']))}, not to {own}")
        record = RunRecord.of_checkpoint(unfinished, path)
        if record is not None and unfinished["epoch"] >= record.epochs:
            raise MismatchError(f"{path} is damaged: it is of epoch {unfinished['epoch'] + 1} of {record.epochs}")
        if self.needs_more_epochs(record):
            print(f"{path} is not used: a run is extended from the end of an epoch, so the epoch is trained again")
            return None
        return unfinished

    def _completed_epochs(self, directory: str) -> int:
        folders = [osp.join(directory, name) for name in self.get_model_names()]
        name = last_common_checkpoint(folders)
        return load_checkpoint(osp.join(folders[0], name)).get("epoch", 0) if name is not None else 0

    def _resume_unfinished_epoch(self, directory: str, unfinished: dict[str, Any]) -> None:
        """Load models, optimisers and schedules, and keep the rest until the epoch starts."""
        path, recorded = unfinished_epoch_path(directory), {}
        self.check_folder(directory, resuming=True)
        if RUN_KEY in unfinished:
            recorded[RUN_KEY] = unfinished[RUN_KEY]
        for name, content in unfinished["models"].items():
            checkpoint = content | recorded
            self.check_checkpoint(name, checkpoint, path, resuming=True)
            self._restore_model(name, checkpoint, path, extend=False)
        self.start_epoch, batches = unfinished["epoch"], unfinished["batches"]
        self._resumed_state, self._resumed_from = unfinished[TRAINING_STATE], path
        self._unfinished = unfinished if batches else None  # without batches, the epoch has not begun
        print(f"Continuing from {path}: epoch {self.start_epoch + 1}, after {batches} batches")

    def _continue_in(self, loader: DataLoader) -> None:
        """Let the loader start where the epoch was interrupted, if it was, and follow its position."""
        self._resumable_loader = loader if isinstance(loader, ImageLoader) and loader.resumable else None
        if self._unfinished is not None:
            if self._resumable_loader is None:
                raise MismatchError(f"the training images of {self._resumed_from} are read in another way here")
            self._resumable_loader.continue_from(self._unfinished["position"])

    def _begun_epoch(self) -> tuple[int, MetricMeter, float]:
        """Trained batches of the epoch that starts, their averages, and the seconds that they took."""
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is None:
            return 0, MetricMeter(), 0.0
        try:
            seconds = unfinished["seconds"]
            if not 0 <= seconds < math.inf:
                raise ValueError(f"they took {seconds} seconds")
            return unfinished["batches"], averages_of(unfinished["averages"]), seconds
        except (TypeError, ValueError, OverflowError) as error:
            raise MismatchError(f"the averages in {self._resumed_from} do not fit: {one_line(error)}") from error

    def _save_unfinished_epoch(
        self, epoch: int, batches: int = 0, averages: MetricMeter | None = None, seconds: float = 0.0
    ) -> str:
        """Write the checkpoint within an epoch; returns its path.

        Args:
            epoch: completed epochs.
            batches: trained batches of the next one.
            averages: of these batches.
            seconds: time that they took.
        """
        started = time.monotonic()
        contents = {name: self.checkpoint_content(name, epoch - 1) for name in self.get_model_names()}
        steps = epoch * getattr(self, "num_batches", 0) + batches
        loader = self._resumable_loader
        content = {
            "epoch": epoch,
            "batches": batches,
            "models": contents,
            TRAINING_STATE: self.training_state() | {"steps": steps},
            "position": loader.position() if loader is not None and batches else {},
            "averages": plain_averages(averages or MetricMeter()),
            "seconds": seconds,
        }
        path = write_unfinished_epoch(self.output_dir, content | self._recorded_run(contents, self.output_dir))
        self._checkpoint_timer.restart(spent=time.monotonic() - started)
        return path

    def _stop_within_epoch(self, averages: MetricMeter, seconds: float) -> None:
        """Write a checkpoint after a step that is not the epoch's last, if it is due; stop, if that is asked for."""
        if STOP.number is None and not self._checkpoint_timer.is_due:
            return
        path = None
        if self._resumable_loader is not None:
            path = self._save_unfinished_epoch(self.epoch, self.batch_idx + 1, averages, seconds)
        self._stop_if_asked(f"after batch {self.batch_idx + 1} of {self.num_batches} of epoch {self.epoch + 1}", path)

    def between_epochs(self) -> None:
        """Write a checkpoint at the end of an epoch that does not have its own, if it is due; stop, if asked to."""
        if STOP.number is None and not self._checkpoint_timer.is_due:
            return
        path = None
        if not self._epoch_is_saved and self.epoch + 1 < self.max_epoch:
            path = self._save_unfinished_epoch(self.epoch + 1)
        self._stop_if_asked(f"after epoch {self.epoch + 1} of {self.max_epoch}", path)

    def _stop_if_asked(self, after: str, path: str | None) -> None:
        """Stop here if a signal has asked for it.

        Args:
            after: the step that was made last.
            path: the checkpoint that was written after it; None: none was.

        Raises:
            Interrupted: a signal has asked for it.
        """
        if STOP.number is None:
            return
        self.flush_writer()
        if path is not None:
            saved = f"{path} has the state of the run"
        elif self._epoch_is_saved:
            saved = f"{self.output_dir} has the checkpoint of this epoch"
        else:
            saved = "the work since the last checkpoint is lost, since these images cannot be continued within an epoch"
        raise Interrupted(STOP.number, f"stopped {after}; {saved}")
