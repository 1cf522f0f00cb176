"""One run of `train.py`: build the trainer, train or evaluate it, record the result."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from contextlib import nullcontext
from pathlib import Path

from yacs.config import CfgNode

from clip.clip import file_without_download
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY, TrainerBase, build_trainer
from dassl.interruption import STOP, Interrupted
from dassl.utils import (
    BadValueError,
    UserError,
    collect_env_info,
    set_random_seed,
    setup_logger,
    use_deterministic_algorithms,
)
from dassl.utils.locks import locked
from dassl.utils.threads import VARIABLE as THREADS_VARIABLE
from dassl.utils.threads import use_threads
from runner import plugins
from runner.config import default_cfg, evaluation_cfg, keeps_to_records, overridden_flags, setup_cfg
from runner.opening import print_args, print_environment
from runner.recording import Recording
from runner.tracking import changed_settings, check_logger, start_tracking


def check_flags(args: argparse.Namespace) -> None:
    """Check that every flag has an effect.

    Raises:
        BadValueError: one has none.
    """
    if not args.eval_only and (args.model_dir or args.load_epoch is not None):
        raise BadValueError("--model-dir and --load-epoch choose the model of an evaluation: add --eval-only")
    if args.eval_only and (args.resume or args.extend or args.no_train):
        raise BadValueError("--resume, --extend and --no-train are for training: leave out either them or --eval-only")
    check_logger(args.logger)


def check_is_complete(cfg: CfgNode) -> None:
    """Check trainer and data set, before the output folder is created.

    Raises:
        UserError: one is missing or unknown.
    """
    if not cfg.TRAINER.NAME:
        raise BadValueError("which trainer? give --trainer NAME, for instance --trainer ProMetaR")
    if not cfg.DATASET.NAME:
        raise BadValueError("which data set? give --dataset-config-file FILE, such as configs/datasets/shapes.yaml")
    TRAINER_REGISTRY.get(cfg.TRAINER.NAME)
    DATASET_REGISTRY.get(cfg.DATASET.NAME)


def main(args: argparse.Namespace) -> None:
    """Build the trainer and run it; no other process may be working in the output folder.

    Raises:
        UserError: an error that the user can fix, on one line.
    """
    check_flags(args)
    cfg = evaluation_cfg(args) if args.eval_only else setup_cfg(args)
    check_is_complete(cfg)
    recording = Recording(args, cfg)
    with STOP.listening(), locked(cfg.OUTPUT_DIR) if cfg.OUTPUT_DIR else nullcontext():
        try:
            run(args, cfg, recording)
        except Interrupted as error:
            state = error.state or "stopped at once"
            raise Interrupted(error.number, f"{state}; the same command continues: {command_line()}") from error


def command_line() -> str:
    """The command of this process, to be copied into a shell."""
    return shlex.join([*(["python"] if sys.argv[0].endswith(".py") else []), *sys.argv])


def run(args: argparse.Namespace, cfg: CfgNode, recording: Recording) -> None:
    """The part of `main` that works in the output folder.

    Raises:
        UserError: an error that the user can fix, on one line.
    """
    if not args.no_train:
        recording.check_folder(default_cfg(), keeps_to_records(cfg.TRAINER.NAME))
    if cfg.SEED >= 0:
        print(f"Setting fixed seed: {cfg.SEED}")
        set_random_seed(cfg.SEED)
    if cfg.DETERMINISTIC:
        use_deterministic_algorithms()
    setup_logger(cfg.OUTPUT_DIR)
    plugins.announce()
    for line in overridden_flags(args):
        print(f"Note: {line}")
    print_args(args, cfg, default_cfg())
    print_environment(collect_env_info(), trains=not (args.eval_only or args.no_train))
    print(use_threads(args.threads, weights_in_bytes(cfg.MODEL.BACKBONE.NAME), cfg.DETERMINISTIC))
    trainer = build_trainer(cfg)
    trainer.commits = [recording.commit] if recording.commit else []
    trainer.keeps_recorded_threads = args.threads is None and THREADS_VARIABLE not in os.environ
    tracker = None
    if not args.no_train:
        tracker = start_tracking(args.logger, trainer, cfg, changed_settings(cfg, default_cfg()))
    recording.prepare(trainer)
    if args.eval_only:
        load_for_evaluation(trainer, args)
        recording.check_model(trainer)
        trainer.test()
    elif args.no_train:
        return
    else:
        trainer.train()
    recording.finish(trainer)
    if tracker is not None:
        tracker.finish(getattr(trainer.evaluator, "results", None) or {})


def weights_in_bytes(backbone: str) -> int | None:
    """Size of a backbone's file; None where it is downloaded, or another project's."""
    try:
        path = file_without_download(backbone)
    except UserError:
        return None
    return Path(path).stat().st_size if path is not None else None


def load_for_evaluation(trainer: TrainerBase, args: argparse.Namespace) -> None:
    """Load the model of --model-dir, for a trainer that learns.

    Raises:
        UserError: no model is given, or it does not fit.
    """
    if trainer.get_model_names() and not args.model_dir:
        name = type(trainer).__name__
        raise BadValueError(f"{name} needs a trained model: --eval-only needs its folder (--model-dir)")
    if args.model_dir and not trainer.get_model_names():
        raise BadValueError(f"{type(trainer).__name__} does not learn and loads no model: leave --model-dir out")
    if args.model_dir:
        trainer.check_folder(args.model_dir, resuming=False)  # trainers of other repositories override load_model
    trainer.load_model(args.model_dir, epoch=args.load_epoch)
