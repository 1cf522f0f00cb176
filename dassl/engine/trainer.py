"""The life cycle of training: build, train epoch by epoch, test, save, resume.

A method is a subclass of TrainerX that builds its model (`build_model`) and trains on one batch (`forward_backward`).
"""

from __future__ import annotations

import datetime
import math
import os.path as osp
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import nn
from yacs.config import CfgNode

from dassl.config import check_ranges
from dassl.data import DataManager
from dassl.data.data_manager import ImageLoader
from dassl.evaluation import build_evaluator
from dassl.interruption import STOP, Interrupted
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.optim.lr_scheduler import enter_schedule
from dassl.utils.devices import chosen_device
from dassl.utils.environment import collect_env_info
from dassl.utils.errors import BadValueError, MismatchError, MissingFileError, UnwritableFileError, one_line
from dassl.utils.files import (
    file_sha256_if_any,
    mkdir_if_missing,
    remove_unfinished_files,
    write_bytes_atomically,
    write_text_atomically,
)
from dassl.utils.meters import AverageMeter, MetricMeter
from dassl.utils.names import check_availability, listed
from dassl.utils.progress import print_above_bar, progress_bar
from dassl.utils.random_state import random_state, restore_random_state
from dassl.utils.threads import usable_cores
from dassl.utils.tools import tolist_if_not
from dassl.utils.torchtools import (
    BEST_NAME,
    checkpoint_name,
    count_num_param,
    last_common_checkpoint,
    load_checkpoint,
    load_pretrained_weights,
    load_state_into_model,
    load_training_checkpoint,
    read_training_checkpoint,
    save_checkpoint,
)

from .anomalies import (
    DETAILS_NAME,
    NonFiniteError,
    check_logits,
    details,
    image_paths,
    non_finite_losses,
    non_finite_tensors,
)
from .found_models import folders_beside, found_instead
from .history import TENSORBOARD_NAME, EpochHistory
from .run_checks import RunChecks
from .run_record import ENVIRONMENT_NAME, RUN_KEY, RunRecord, check_piece, check_same_run, weights_digest
from .simple_net import SimpleNet
from .unfinished_epoch import FOLDER as UNFINISHED_FOLDER
from .unfinished_epoch import (
    Timer,
    averages_of,
    plain_averages,
    read_unfinished_epoch,
    remove_unfinished_epoch,
    unfinished_epoch_path,
    write_unfinished_epoch,
)

TRAINING_STATE = "training_state"
"""Key of a checkpoint under which `TrainerBase.training_state` is kept."""


class TrainerBase:
    """Registered models with their optimisers and schedulers; the loop over epochs; checkpoints; TensorBoard."""

    epoch: int
    num_batches: int
    batch_idx: int

    def __init__(self) -> None:
        self._models: OrderedDict[str, nn.Module] = OrderedDict()
        self._optims: OrderedDict[str, Any] = OrderedDict()
        self._scheds: OrderedDict[str, Any] = OrderedDict()
        self._writer: Any = None
        self._writer_dir: str | None = None
        self._first_new_step: int | None = None
        self._resumed_state: dict[str, Any] | None = None
        self._resumed_from = ""
        self.last_batch: tuple | None = None  # arguments of the last `forward_backward`
        self._last_images: list[list[str]] = []  # paths of the last two batches, for error messages

    # Models

    def register_model(self, name: str = "model", model: Any = None, optim: Any = None, sched: Any = None) -> None:
        """Register a model under a name, by which it is saved, loaded, updated and switched between modes.

        Raises:
            ValueError: `super().__init__()` was not called before.
            AssertionError: the name is taken.
        """
        if "_models" not in self.__dict__:
            raise ValueError("register_model() called before super().__init__()")
        assert name not in self._models, f'a model called "{name}" is already registered'
        self._models[name] = model
        self._optims[name] = optim
        self._scheds[name] = sched

    def get_model_names(self, names: str | list[str] | None = None) -> list[str]:
        """All registered names, or `names` as a list after checking that they are registered."""
        registered = list(self._models)
        if names is None:
            return registered
        names = tolist_if_not(names)
        for name in names:
            assert name in registered, f'no model is called "{name}"; registered: {registered}'
        return names

    def set_model_mode(self, mode: str = "train", names: str | list[str] | None = None) -> None:
        """Switch models to `train`, or to `eval` (also called `test`).

        Raises:
            KeyError: there is no such mode.
        """
        if mode not in ("train", "test", "eval"):
            raise KeyError(f'unknown mode "{mode}": train, eval or test')
        for name in self.get_model_names(names):
            self._models[name].train(mode == "train")

    def update_lr(self, names: str | list[str] | None = None) -> None:
        """Step the schedulers; to be called once an epoch."""
        for name in self.get_model_names(names):
            if self._scheds[name] is not None:
                self._scheds[name].step()

    def get_current_lr(self, names: str | list[str] | None = None) -> float:
        """Learning rate of the first parameter group of the first model."""
        return self._optims[self.get_model_names(names)[0]].param_groups[0]["lr"]

    def detect_anomaly(self, loss: torch.Tensor, name: str = "loss") -> None:
        """Raise NonFiniteError when the loss is infinite or NaN; `name` is its name in the message."""
        if not torch.isfinite(loss).all():
            self._stop_for_anomaly([f"{name} = {loss.detach().float().sum().item()}"])

    def checked_models(self) -> dict[str, nn.Module | None]:
        """Models that are searched for NaN and infinite tensors: the registered ones; a trainer adds frozen ones."""
        return dict(self._models)

    def _stop_for_anomaly(self, losses: list[str]) -> None:
        """Raise NonFiniteError with the step, a loss and a tensor; a file gets all of them and the images."""
        tensors = non_finite_tensors(self.checked_models())
        current, before = [*reversed(self._last_images), [], []][:2]
        path = self.write_details(details(losses, tensors, current, before))
        found = ", ".join(listed(names, shown) for names, shown in ((losses, 4), (tensors, 1)) if names)
        where = f"; details: {path}" if path else ""
        raise NonFiniteError(
            f"infinite or NaN{self._position()}: {found}: use a smaller OPTIM.LR or another PREC{where}"
        )

    def write_details(self, text: str) -> str | None:
        """Write what is too long for an error message; returns the file, None without an output folder."""
        return None

    def _position(self) -> str:
        if not hasattr(self, "batch_idx"):
            return ""
        step = self.epoch * self.num_batches + self.batch_idx + 1
        return f" in epoch {self.epoch + 1}, batch {self.batch_idx + 1} (step {step})"

    def model_zero_grad(self, names: str | list[str] | None = None) -> None:
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].zero_grad()

    def model_backward(self, loss: torch.Tensor) -> None:
        self.detect_anomaly(loss)
        loss.backward()

    def model_update(self, names: str | list[str] | None = None) -> None:
        for name in self.get_model_names(names):
            if self._optims[name] is not None:
                self._optims[name].step()

    def model_backward_and_update(self, loss: torch.Tensor, names: str | list[str] | None = None) -> None:
        """Zero the gradients, back-propagate `loss`, step the optimisers."""
        self.model_zero_grad(names)
        self.model_backward(loss)
        self.model_update(names)

    def prograd_backward_and_update(
        self, loss_a: torch.Tensor, loss_b: torch.Tensor, lambda_: float = 1, names: str | list[str] | None = None
    ) -> None:
        """A step on `loss_a`, without the part of its gradient that opposes that of `loss_b` (ProGrad).

        For each parameter, with gradients a and b and b^ = b / |b|: where a . b < 0, a - lambda_ (a . b^) b^ is used.
        """
        names = self.get_model_names(names)
        parameters = [each for name in names for each in self._models[name].parameters()]
        self.model_zero_grad(names)
        self.detect_anomaly(loss_b, "loss_b")
        loss_b.backward(retain_graph=True)  # the two losses share the graph
        opposing = [each.grad for each in parameters]
        for each in parameters:
            each.grad = None
        self.model_backward(loss_a)
        for each, b in zip(parameters, opposing, strict=True):
            if each.grad is None or b is None or not b.any():
                continue
            direction = b / b.norm()
            along = (each.grad * direction).sum()
            if along < 0:
                each.grad -= lambda_ * along * direction
        self.model_update(names)

    # Checkpoints

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

    # The record of the run. `SimpleTrainer`, which has a configuration, overrides these methods

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
            load_state_into_model(self._models[name], checkpoint.get("state_dict", {}), paths[name])

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

    # TensorBoard

    def init_writer(self, log_dir: str) -> None:
        """Write event files to `log_dir`; the writer is created with the first value."""
        if self._writer_dir is None:
            shown = "" if osp.dirname(log_dir) == getattr(self, "output_dir", None) else f" (log_dir={log_dir})"
            print(f"Initialize tensorboard{shown}")
            self._writer_dir = log_dir

    def flush_writer(self) -> None:
        """Write all values to disk.

        Raises:
            UnwritableFileError: the file cannot be written.
        """
        if self._writer is not None:
            self._use_writer("flush")

    def close_writer(self) -> None:
        if self._writer is not None:
            self._use_writer("close")
            self._writer = None
        self._writer_dir = None

    def write_scalar(self, tag: str, scalar_value: float, global_step: int | None = None) -> None:
        """Add a value to the event file; without `init_writer` nothing happens."""
        if self._writer_dir is None and self._writer is None:  # a trainer may make its own writer
            return
        self._use_writer("add_scalar", tag, scalar_value, global_step)

    def _use_writer(self, method: str, *arguments: Any) -> None:
        try:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter  # slow to import

                # hides the values of a killed run for the steps that are now repeated
                self._writer = SummaryWriter(log_dir=self._writer_dir, purge_step=self._first_new_step)
            getattr(self._writer, method)(*arguments)
        except OSError as error:
            self._writer = None
            raise UnwritableFileError(f"cannot write to {self._writer_dir}: {error.strerror or error}") from error

    # Training

    def train(self, start_epoch: int, max_epoch: int) -> None:
        """Train from `start_epoch` (which `before_train` may change when resuming) to `max_epoch`."""
        self.start_epoch = start_epoch
        self.max_epoch = max_epoch
        self.before_train()
        self._restore_training_state()
        for epoch in range(self.start_epoch, self.max_epoch):
            self.epoch = epoch
            self.before_epoch()
            self.run_epoch()
            with STOP.deferred():  # until the epoch is saved
                self.after_epoch()
                self.between_epochs()
        self.after_train()

    def before_train(self) -> None:
        pass

    def after_train(self) -> None:
        pass

    def before_epoch(self) -> None:
        pass

    def after_epoch(self) -> None:
        pass

    def between_epochs(self) -> None:
        """After `after_epoch`, which trainers override. Stops if a signal has asked for it."""
        if STOP.number is not None:
            raise Interrupted(STOP.number)

    # Defined by trainers. Not abstract: trainer files of the lineage omit methods that they do not use

    def run_epoch(self) -> None:
        raise NotImplementedError

    def test(self, split: str | None = None, is_final: bool = False) -> float:
        raise NotImplementedError

    def parse_batch_train(self, batch: Any) -> Any:
        raise NotImplementedError

    def parse_batch_test(self, batch: Any) -> Any:
        raise NotImplementedError

    def forward_backward(self, batch: Any) -> dict[str, float]:
        raise NotImplementedError

    def model_inference(self, input: Any) -> torch.Tensor:
        raise NotImplementedError


class SimpleTrainer(RunChecks, TrainerBase):
    """A trainer with data, a model, an evaluator and an output folder, all from the configuration."""

    train_loader_x: Any  # all loaders are None in a trainer for class names alone
    train_loader_u: Any
    val_loader: Any
    test_loader: Any
    scaler: Any  # a trainer that trains with `amp` sets it
    keeps_recorded_threads = False
    """Whether a resumed run takes over the number of CPU threads, because it was chosen and not given."""
    shown_metrics: Sequence[str] = ()
    """What log lines and the bar show of what a step reports: means over the epoch so far. Empty: all, as in Dassl."""

    _classes_alone: list[str] | None = None  # class names in place of a data set

    @classmethod
    def for_classes(cls, cfg: CfgNode, classnames: Sequence[str]) -> Self:
        """A trainer for class names alone, without a data set: it predicts, but cannot train.

        Args:
            cfg: the configuration.
            classnames: the classes to tell apart, in the order of the logits.
        """
        trainer = cls.__new__(cls)
        trainer._classes_alone = list(classnames)  # before `__init__`, which a trainer file may have overridden
        trainer.__init__(cfg)
        return trainer

    def __init__(self, cfg: CfgNode) -> None:
        super().__init__()
        self.check_ranges(cfg)
        self.check_cfg(cfg)
        self.device = chosen_device(cfg.USE_CUDA)
        self.start_epoch = self.epoch = 0
        self.max_epoch = cfg.OPTIM.MAX_EPOCH
        self.output_dir = cfg.OUTPUT_DIR
        self.cfg = cfg
        self.start_digest = file_sha256_if_any(cfg.MODEL.INIT_WEIGHTS)
        if self._classes_alone is None:
            self.build_data_loader()
        else:
            self._use_classes_alone(self._classes_alone)
        self.build_model()
        self.evaluator = build_evaluator(cfg, lab2cname=self.lab2cname)
        self.best_result = -float("inf")
        self.epoch_history = EpochHistory(self.output_dir)
        self._checkpoint_timer = Timer(cfg.TRAIN.CHECKPOINT_SECONDS)
        self._unfinished: dict[str, Any] | None = None  # the epoch that a resumed run continues
        self._resumable_loader: ImageLoader | None = None  # of the current epoch
        self._epoch_is_saved = False
        self.test_seconds: float | None = None  # of the last evaluation
        self.tested_images: list[str] = []  # paths, in the order of the last evaluation

    def check_ranges(self, cfg: CfgNode) -> None:
        """Check the numbers of the configuration; a trainer adds its own.

        Raises:
            BadValueError: a number is outside its range.
        """
        check_ranges(cfg)

    def check_cfg(self, cfg: CfgNode) -> None:
        """Raise an error if the trainer does not support the configuration."""

    def build_data_loader(self) -> None:
        """Create `train_loader_x`, `train_loader_u`, `val_loader`, `test_loader`, `lab2cname`, `dm`."""
        dm = DataManager(self.cfg)
        self.train_loader_x = dm.train_loader_x
        self.train_loader_u = dm.train_loader_u  # None without unlabelled images
        self.val_loader = dm.val_loader  # None without validation images
        self.test_loader = dm.test_loader
        self.num_classes = dm.num_classes
        self.num_source_domains = dm.num_source_domains
        self.lab2cname = dm.lab2cname
        self.dm = dm

    def _use_classes_alone(self, names: list[str]) -> None:
        """In place of `build_data_loader`: class names and no images."""
        self.train_loader_x = self.train_loader_u = self.val_loader = self.test_loader = None
        self.num_classes, self.lab2cname = len(names), dict(enumerate(names))
        dataset = SimpleNamespace(classnames=names, num_classes=self.num_classes, lab2cname=self.lab2cname)
        self.dm = SimpleNamespace(dataset=dataset, num_classes=self.num_classes, lab2cname=self.lab2cname)

    def build_model(self) -> None:
        """Create and register the model, its optimiser and scheduler; here the SimpleNet of `cfg.MODEL`."""
        cfg = self.cfg
        print("Building model")
        self.model = SimpleNet(cfg, cfg.MODEL, self.num_classes)
        if cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(self.model, cfg.MODEL.INIT_WEIGHTS)
        self.model.to(self.device)
        print(f"# params: {count_num_param(self.model):,}")
        self.optim = build_optimizer(self.model, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("model", self.model, self.optim, self.sched)
        if self.device.type == "cuda" and torch.cuda.device_count() > 1:
            print(f"Detected {torch.cuda.device_count()} GPUs (use nn.DataParallel)")
            self.model = nn.DataParallel(self.model)

    def train(self) -> None:  # pyright: ignore[reportIncompatibleMethodOverride] - Dassl's signatures
        """The whole training: resume if possible, train, save, test."""
        super().train(self.start_epoch, self.max_epoch)

    def before_train(self) -> None:
        self._check_loop_settings()
        if self.cfg.RESUME and not osp.isdir(self.cfg.RESUME):
            raise MissingFileError(
                f"no such folder to resume from: {self.cfg.RESUME}; {folders_beside(self.cfg.RESUME)}"
            )
        for name in (*self.get_model_names(), UNFINISHED_FOLDER):
            remove_unfinished_files(osp.join(self.output_dir, name))
        self._resume()
        self.write_run_record(self.output_dir)
        write_text_atomically(osp.join(self.output_dir, ENVIRONMENT_NAME), f"{collect_env_info()}\n")
        self.epoch_history.resume(self.start_epoch, self.cfg.RESUME or self.cfg.OUTPUT_DIR)
        if 0 < self.start_epoch < self.max_epoch and self._resumed_state is None:
            print("Note: the checkpoint has no state of the random generators: they continue from the seed")
        self._take_over_best_model()
        writer_dir = osp.join(self.output_dir, TENSORBOARD_NAME)
        mkdir_if_missing(writer_dir)
        self.init_writer(writer_dir)
        self.time_start = time.time()
        self._checkpoint_timer.restart()

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

    def write_details(self, text: str) -> str | None:
        if not self.output_dir:
            return None
        path = osp.join(self.output_dir, DETAILS_NAME)
        try:
            write_text_atomically(path, text)
        except UnwritableFileError as error:  # the error that is explained matters more
            print(f"Note: the details are not kept: {error}")
            return None
        return path

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
        if STOP.number is not None:
            after = f"after batch {self.batch_idx + 1} of {self.num_batches} of epoch {self.epoch + 1}"
            self._stop(after, path)

    def between_epochs(self) -> None:
        """Write a checkpoint at the end of an epoch that does not have its own, if it is due; stop, if asked to."""
        if STOP.number is None and not self._checkpoint_timer.is_due:
            return
        path = None
        if not self._epoch_is_saved and self.epoch + 1 < self.max_epoch:
            path = self._save_unfinished_epoch(self.epoch + 1)
        if STOP.number is not None:
            self._stop(f"after epoch {self.epoch + 1} of {self.max_epoch}", path)

    def _stop(self, after: str, path: str | None) -> None:
        self.flush_writer()
        if path is not None:
            saved = f"{path} has the state of the run"
        elif self._epoch_is_saved:
            saved = f"{self.output_dir} has the checkpoint of this epoch"
        else:
            saved = "the work since the last checkpoint is lost, since these images cannot be continued within an epoch"
        assert STOP.number is not None
        raise Interrupted(STOP.number, f"stopped {after}; {saved}")

    def after_train(self) -> None:
        print("Finish training")
        if not self.cfg.TEST.NO_TEST:
            if self.cfg.TEST.FINAL_MODEL == "best_val":
                print("Deploy the model with the best val performance")
                self.load_model(self.output_dir)
            else:
                print("Deploy the last-epoch model")
            self.test()
        elapsed = round(time.time() - self.time_start)
        print(f"Elapsed: {datetime.timedelta(seconds=elapsed)}")
        self.close_writer()

    def after_epoch(self) -> None:
        self.flush_writer()
        # without gradients: they may be infinite after an update that the loss scaler skipped
        if non_finite_tensors(self._models, gradients=False):
            self._stop_for_anomaly([])
        last_epoch = self.epoch + 1 == self.max_epoch
        frequency = self.cfg.TRAIN.CHECKPOINT_FREQ
        self._epoch_is_saved = False
        if not self.cfg.TEST.NO_TEST and self.cfg.TEST.FINAL_MODEL == "best_val":
            result = self.test(split="val")
            self.epoch_history.amend(self.epoch + 1, val_accuracy=result)
            if result > self.best_result:
                self.best_result = result
                self.save_model(self.epoch, self.output_dir, val_result=result, model_name=BEST_NAME)
                self._epoch_is_saved = True
        if last_epoch or (frequency > 0 and (self.epoch + 1) % frequency == 0):
            self.save_model(self.epoch, self.output_dir)
            self._epoch_is_saved = True
        if self._epoch_is_saved:
            remove_unfinished_epoch(self.output_dir)
            self._checkpoint_timer.restart()

    def _check_loop_settings(self) -> None:
        if self.cfg.DATASET.NUM_SHOTS == 0:
            raise BadValueError("DATASET.NUM_SHOTS is 0: training needs at least 1 image per class (-1: all)")
        if self.cfg.TEST.FINAL_MODEL not in ("last_step", "best_val"):
            raise BadValueError(f'TEST.FINAL_MODEL should be last_step or best_val, not "{self.cfg.TEST.FINAL_MODEL}"')
        if self.cfg.TEST.FINAL_MODEL == "best_val" and not self.cfg.TEST.NO_TEST and self.val_loader is None:
            raise BadValueError("TEST.FINAL_MODEL best_val needs validation images, and this data set has none")

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
                with open(path, "rb") as file:
                    write_bytes_atomically(own, file.read())

    def training_state(self) -> dict[str, Any]:
        """As in TrainerBase, with the best result so far and the loss scale (of `self.scaler`, if there is one)."""
        state = super().training_state()
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
        if state.get("scaler") and self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])

    def _keep_threads(self, recorded: Any) -> None:
        """Compute with as many threads as before the interruption: their number can change the last bits."""
        if not self.keeps_recorded_threads or not isinstance(recorded, int) or recorded == torch.get_num_threads():
            return
        if 1 <= recorded <= usable_cores():
            torch.set_num_threads(recorded)
            print(f"Threads: {recorded} (as before the interruption)")

    @torch.no_grad()
    def test(self, split: str | None = None, is_final: bool = False) -> float:
        """Evaluate on `test` or `val` (default: TEST.SPLIT); returns the evaluator's first result.

        Without validation images the test images are used, as the printed line says.

        Args:
            is_final: whether training is over. Some versions of Dassl have it for trainers that override this method;
                here the evaluation is the same.
        """
        self.set_model_mode("eval")
        self.evaluator.reset()
        split, loader = self._split_and_loader(split or self.cfg.TEST.SPLIT)
        print(f"Evaluate on the *{split}* set")
        started, self.tested_images = time.time(), []
        for batch in progress_bar(loader, desc=f"test on {split}", unit="batch"):
            input, label = self.parse_batch_test(batch)
            logits = self.inferred_logits(input)
            check_logits(logits, image_paths([batch]), self.checked_models())
            self.evaluator.process(logits, label)
            self.tested_images += image_paths([batch])
        results = self.evaluator.evaluate()
        self.test_seconds = time.time() - started
        for name, value in results.items():
            self.write_scalar(f"{split}/{name}", value, self.epoch)
        return next(iter(results.values()))

    def _split_and_loader(self, split: str) -> tuple[str, Iterable]:
        if split == "val" and self.val_loader is not None:
            return split, self.val_loader
        return "test", self.test_loader

    def model_inference(self, input: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] of images."""
        return self.model(input)

    def inferred_logits(self, input: torch.Tensor) -> torch.Tensor:
        """Logits [batch, classes] from `model_inference`, which may return a tuple of which the first is the logits."""
        output = self.model_inference(input)
        return output[0] if isinstance(output, tuple | list) else output

    def parse_batch_test(self, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        """Images and labels on the trainer's device."""
        return self._on_device(batch["img"], batch["label"])

    def _on_device(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Copies on the trainer's device; the host does not wait for copies from pinned memory."""
        return tuple(tensor.to(self.device, non_blocking=True) for tensor in tensors)

    @STOP.deferred()
    def train_on_batches(self, batches: Iterable[tuple], num_batches: int) -> None:
        """One epoch: `forward_backward(*batch)` for each, with averages, log lines, TensorBoard and a bar.

        Sets `self.batch_idx` and `self.num_batches`, which schedules inside `forward_backward` use.
        """
        self.set_model_mode("train")
        self.num_batches = num_batches
        self._epoch_is_saved = False
        trained, losses, earlier = self._begun_epoch()
        batch_time, data_time = AverageMeter(), AverageMeter()
        started, learning_rate = time.time() - earlier, self.get_current_lr()
        bar = progress_bar(
            initial=trained, total=num_batches, desc=f"epoch {self.epoch + 1}/{self.max_epoch}", unit="batch"
        )
        end = time.time()
        with bar:
            for self.batch_idx, batch in enumerate(batches, start=trained):
                data_time.update(time.time() - end)
                self.last_batch, self._last_images = batch, [*self._last_images[-1:], image_paths(batch)]
                summary = self.forward_backward(*batch)
                if bad := non_finite_losses(summary):
                    self._stop_for_anomaly(bad)
                losses.update(summary)
                batch_time.update(time.time() - end)
                bar.set_postfix_str(self._shown(losses), refresh=False)
                bar.update()
                if (self.batch_idx + 1) % self.cfg.TRAIN.PRINT_FREQ == 0 or num_batches < self.cfg.TRAIN.PRINT_FREQ:
                    print_above_bar(self._progress_line(losses, batch_time, data_time))
                step = self.epoch * num_batches + self.batch_idx
                for name, meter in losses.meters.items():
                    self.write_scalar(f"train/{name}", meter.avg, step)
                self.write_scalar("train/lr", self.get_current_lr(), step)
                if self.batch_idx + 1 < num_batches:
                    self._stop_within_epoch(losses, time.time() - started)
                end = time.time()
        averages = {name: meter.avg for name, meter in losses.meters.items()}
        self.epoch_history.add(self.epoch + 1, **averages, lr=learning_rate, seconds=time.time() - started)

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

    def _shown(self, losses: MetricMeter) -> str:
        if not self.shown_metrics or not set(self.shown_metrics) <= set(losses.meters):
            return str(losses)
        return " ".join(f"{name} {losses.meters[name].avg:.4g}" for name in self.shown_metrics)

    def _progress_line(self, losses: MetricMeter, batch_time: AverageMeter, data_time: AverageMeter) -> str:
        batches_left = self.num_batches - self.batch_idx - 1 + (self.max_epoch - self.epoch - 1) * self.num_batches
        eta = datetime.timedelta(seconds=int(batch_time.avg * batches_left))
        return (
            f"epoch [{self.epoch + 1}/{self.max_epoch}] batch [{self.batch_idx + 1}/{self.num_batches}] "
            f"time {batch_time.val:.3f} ({batch_time.avg:.3f}) data {data_time.val:.3f} ({data_time.avg:.3f}) "
            f"{self._shown(losses)} lr {self.get_current_lr():.4e} eta {eta}"
        )


class TrainerX(SimpleTrainer):
    """Trains on labelled images."""

    def run_epoch(self) -> None:
        loader = self.train_loader_x
        self._resumable_loader = loader if isinstance(loader, ImageLoader) and loader.resumable else None
        if self._unfinished is not None:
            if self._resumable_loader is None:
                raise MismatchError(f"the training images of {self._resumed_from} are read in another way here")
            self._resumable_loader.continue_from(self._unfinished["position"])
        self.train_on_batches(((batch,) for batch in loader), len(loader))

    def parse_batch_train(self, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
        """Images, labels and domains on the trainer's device."""
        return self._on_device(batch["img"], batch["label"], batch["domain"])


class TrainerXU(SimpleTrainer):
    """Trains on labelled and unlabelled images side by side; `forward_backward(batch_x, batch_u)`.

    TRAIN.COUNT_ITER selects the loader that determines the length of an epoch; the shorter loader is repeated.
    """

    def run_epoch(self) -> None:
        if self.train_loader_u is None:
            raise BadValueError(f"{type(self).__name__} needs unlabelled images, and this data set has none")
        lengths = {"train_x": len(self.train_loader_x), "train_u": len(self.train_loader_u)}
        lengths["smaller_one"] = min(lengths.values())
        check_availability(self.cfg.TRAIN.COUNT_ITER, list(lengths), kind="TRAIN.COUNT_ITER")
        count = lengths[self.cfg.TRAIN.COUNT_ITER]
        batches_x, batches_u = _endless(self.train_loader_x), _endless(self.train_loader_u)
        self.train_on_batches(((next(batches_x), next(batches_u)) for _ in range(count)), count)

    def parse_batch_train(  # pyright: ignore[reportIncompatibleMethodOverride] - Dassl's signatures
        self, batch_x: dict[str, Any], batch_u: dict[str, Any]
    ) -> tuple[torch.Tensor, ...]:
        """Labelled images, their labels, unlabelled images, on the trainer's device."""
        return self._on_device(batch_x["img"], batch_x["label"], batch_u["img"])


def _endless(loader: Iterable) -> Iterator:
    """Endless batches. The first pass starts at once, because a loader draws a random number when it starts."""
    first_pass = iter(loader)

    def batches() -> Iterator:
        yield from first_pass
        while True:
            yield from loader

    return batches()


def __getattr__(name: str) -> Any:
    """`SummaryWriter`, which trainer files import from here; TensorBoard is slow to import."""
    if name == "SummaryWriter":
        from torch.utils.tensorboard import SummaryWriter

        return SummaryWriter
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["NonFiniteError", "SimpleNet", "SimpleTrainer", "TrainerBase", "TrainerX", "TrainerXU"]
