"""A trainer with data, a model and an evaluator from the configuration; the loops over batches."""

from __future__ import annotations

import datetime
import os.path as osp
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import torch
from torch import nn
from yacs.config import CfgNode

from dassl.config import check_ranges
from dassl.data import DataManager
from dassl.data.data_manager import ImageLoader
from dassl.evaluation import build_evaluator
from dassl.interruption import STOP
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils.devices import chosen_device
from dassl.utils.environment import collect_env_info
from dassl.utils.errors import BadValueError, MissingFileError
from dassl.utils.files import file_sha256_if_any, mkdir_if_missing, remove_unfinished_files, write_text_atomically
from dassl.utils.meters import AverageMeter, MetricMeter
from dassl.utils.progress import print_above_bar, progress_bar
from dassl.utils.torchtools import BEST_NAME, count_num_param, load_pretrained_weights

from .anomalies import check_logits, image_paths, non_finite_losses, non_finite_tensors
from .found_models import folders_beside
from .history import TENSORBOARD_NAME, EpochHistory
from .resumable import ResumableRun
from .run_record import ENVIRONMENT_NAME
from .simple_net import SimpleNet
from .unfinished_epoch import FOLDER as UNFINISHED_FOLDER
from .unfinished_epoch import Timer, remove_unfinished_epoch


class SimpleTrainer(ResumableRun):
    """A trainer with data, a model, an evaluator and an output folder, all from the configuration."""

    train_loader_x: Any  # all loaders are None in a trainer for class names alone
    train_loader_u: Any
    shown_metrics: Sequence[str] = ()
    """What log lines and the bar show of what a step reports: means over the epoch so far. Empty: all, as in Dassl."""

    model: Any
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
        self.test_seconds: float | None = None  # of the last evaluation
        self.tested_images: list[str] = []  # paths, in the order of the last evaluation
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

    def check_ranges(self, cfg: CfgNode) -> None:
        """Check the numbers of the configuration; a trainer adds its own.

        Raises:
            BadValueError: a number is outside its range.
        """
        check_ranges(cfg)

    def check_cfg(self, cfg: CfgNode) -> None:
        """Check that the trainer supports the configuration.

        Raises:
            Exception: it does not; the trainer chooses which.
        """

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
            remove_unfinished_files(Path(self.output_dir, name))
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

    def after_train(self) -> None:
        print("Finish training")
        for name in ("train_loader_x", "train_loader_u"):
            if isinstance(loader := getattr(self, name, None), ImageLoader):
                loader.release_workers()  # now: the garbage collector would wait five seconds for each
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

    # Evaluation

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
        split, loader = split or self.cfg.TEST.SPLIT, self.val_loader
        if split != "val" or loader is None:
            split, loader = "test", self.test_loader
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
