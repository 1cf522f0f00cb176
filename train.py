"""Train or evaluate one trainer on one data set; the command line of the CoOp repositories.

python train.py --root data --seed 1 --trainer ProMetaR \
    --dataset-config-file configs/datasets/shapes.yaml \
    --config-file "configs/trainers/ProMetaR/vit_shapes_c2_ep10_batch4_4+4ctx.yaml" \
    --output-dir output/try DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from dassl.command_line import ArgumentParser, end_imports_in_one_line, errors_in_one_line, seed_number

CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+")


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = ArgumentParser(description="Train or evaluate one trainer on one data set.")
    parser.add_argument("--root", default=os.environ.get("DATA", ""), help="folder of the data sets (default: $DATA)")
    parser.add_argument("--output-dir", default="", help="output folder")
    parser.add_argument("--resume", default="", help="folder of the run to continue")
    parser.add_argument(
        "--extend", action="store_true", default=None, help="continue a run that had fewer epochs, on the new schedule"
    )
    parser.add_argument("--seed", type=seed_number, help="0 to 2**32 - 1 fixes the seed (default: no fixed seed)")
    parser.add_argument(
        "--deterministic", action="store_true", default=None, help="the same bits in every run with one seed"
    )
    parser.add_argument("--source-domains", nargs="+", help="source domains")
    parser.add_argument("--target-domains", nargs="+", help="target domains")
    parser.add_argument("--transforms", nargs="+", help="training transforms")
    parser.add_argument("--config-file", default="", help="YAML file of the method")
    parser.add_argument("--dataset-config-file", default="", help="YAML file of the data set")
    parser.add_argument("--trainer", default="", help="name of the trainer")
    parser.add_argument("--backbone", default="", help="CLIP name or checkpoint file")
    parser.add_argument("--head", default="", help="name of the head")
    parser.add_argument("--eval-only", action="store_true", help="evaluate only")
    parser.add_argument("--model-dir", default="", help="with --eval-only: folder of the trained model")
    parser.add_argument("--load-epoch", type=int, help="with --eval-only: epoch to load (default: the best or last)")
    parser.add_argument("--no-train", action="store_true", help="build everything, train nothing")
    parser.add_argument(
        "--setting", default="other/all", help="for result.json: base2new/train_base, cross_dataset/target, ..."
    )
    parser.add_argument(
        "--config-name", default="", help="for result.json: name of the row (default: the config file's)"
    )
    parser.add_argument("opts", default=[], nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    words = sys.argv[1:] if arguments is None else arguments
    if arguments is None and not words:
        parser.print_usage(sys.stderr)
        parser.exit(2)
    args = parser.parse_args(words)
    for flag in ("source_domains", "target_domains", "transforms"):
        _check_list_has_no_key(parser, f"--{flag.replace('_', '-')}", getattr(args, flag) or ())
    return args


def _check_list_has_no_key(parser: ArgumentParser, flag: str, values: Sequence[str]) -> None:
    """A flag with a list of values takes the KEY VALUE pairs that follow it."""
    for value in values:
        if CONFIG_KEY.fullmatch(value):
            parser.error(f"{flag} would take {value} as one of its values: put another flag between the two")


if __name__ == "__main__":  # before the imports that take seconds
    end_imports_in_one_line()
    parse_args()

from yacs.config import CfgNode

import datasets
import trainers
from dassl.config import get_cfg_default, leaves, merge_file, merge_opts
from dassl.config.differences import is_inherited
from dassl.engine import TRAINER_REGISTRY, TrainerBase, build_trainer
from dassl.engine.run_record import has_record
from dassl.seeds import LARGEST_SEED
from dassl.utils import (
    BadValueError,
    collect_env_info,
    set_random_seed,
    setup_logger,
    use_deterministic_algorithms,
)
from dassl.utils.locks import locked
from dassl.utils.memory import keep_freed_memory
from datasets.base import full_path
from experiments.recording import Recording, row_name, trained_row_name
from trainers.received import refuse_backbone_of_the_folder
from trainers.record import CHANGES_NO_NUMBER, read_record


def print_args(args: argparse.Namespace, cfg: CfgNode) -> None:
    print("***************\n** Arguments **\n***************")
    for key in sorted(vars(args)):
        print(f"{key}: {getattr(args, key)}")
    print(f"************\n** Config **\n************\n{cfg}")


def reset_cfg(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Let the flags that were given overrule the config files."""
    flags = {
        "root": "DATASET.ROOT",
        "output_dir": "OUTPUT_DIR",
        "resume": "RESUME",
        "seed": "SEED",
        "deterministic": "DETERMINISTIC",
        "extend": "TRAIN.EXTEND",
        "source_domains": "DATASET.SOURCE_DOMAINS",
        "target_domains": "DATASET.TARGET_DOMAINS",
        "transforms": "INPUT.TRANSFORMS",
        "trainer": "TRAINER.NAME",
        "backbone": "MODEL.BACKBONE.NAME",
        "head": "MODEL.HEAD.NAME",
    }
    for flag, key in flags.items():
        value = getattr(args, flag)
        if value is not None and value != "":
            set_key(cfg, key, value)


def set_key(cfg: CfgNode, key: str, value: Any) -> None:
    """Set a dotted key."""
    *nodes, leaf = key.split(".")
    for name in nodes:
        cfg = cfg[name]
    cfg[leaf] = value


def extend_cfg(cfg: CfgNode) -> None:
    """Add the keys of this project's data sets and trainers to Dassl's tree."""
    datasets.add_config(cfg)
    trainers.add_config(cfg)


def default_cfg() -> CfgNode:
    """The defaults of all keys."""
    cfg = get_cfg_default()
    extend_cfg(cfg)
    return cfg


def setup_cfg(
    args: argparse.Namespace, base: CfgNode | None = None, above_files: Mapping[str, Any] | None = None
) -> CfgNode:
    """The frozen configuration: defaults, data set's file, method's file, flags, KEY VALUE pairs; later ones win.

    Args:
        base: what takes the place of the defaults.
        above_files: values by key that overrule the files, not the flags and pairs.
    """
    cfg = default_cfg() if base is None else base.clone()
    if args.dataset_config_file:
        merge_file(cfg, args.dataset_config_file)
    if args.config_file:
        merge_file(cfg, args.config_file)
    for key, value in (above_files or {}).items():
        set_key(cfg, key, value)
    reset_cfg(cfg, args)
    merge_opts(cfg, args.opts)
    if cfg.SEED > LARGEST_SEED:
        raise BadValueError(f"SEED must be at most {LARGEST_SEED} (below 0: no fixed seed), not {cfg.SEED}")
    trainers.check_ranges(cfg)
    if cfg.DATASET.PATH:  # two working directories shall not give two data sets one path
        cfg.DATASET.PATH = full_path(cfg.DATASET.PATH)
    cfg.freeze()
    return cfg


def evaluation_cfg(args: argparse.Namespace) -> CfgNode:
    """The configuration of an evaluation: what the model's folder records, and on top of it what the command says.

    What belongs to the evaluation (data set, classes, test batches, ...) is the command's alone. Where the command
    contradicts the record in what belongs to the model, the trainer refuses to load it. The config file that the model
    was trained with is no contradiction: what the training's command changed in it holds.
    """
    cfg = setup_cfg(args)
    if not args.model_dir or not has_record(args.model_dir):
        return cfg
    if args.trainer and not keeps_to_records(args.trainer):
        return cfg
    base = default_cfg()
    recorded = read_record(args.model_dir, base).cfg
    if not keeps_to_records(recorded.TRAINER.NAME):
        return cfg
    if args.trainer not in ("", recorded.TRAINER.NAME):
        raise BadValueError(f"{args.model_dir} has a model of {recorded.TRAINER.NAME}, not of {args.trainer}")
    given = (*args.opts[::2], *(["MODEL.BACKBONE.NAME"] if args.backbone else []))
    if "MODEL.BACKBONE.NAME" not in given:
        refuse_backbone_of_the_folder(recorded.MODEL.BACKBONE.NAME, args.model_dir)
    inherited = {key: value for key, value in leaves(recorded) if is_inherited(key) and key not in CHANGES_NO_NUMBER}
    if trained_row_name(args.model_dir) in ("", row_name(args)):  # "": no result is there that names its file
        return setup_cfg(args, base, above_files=inherited)
    for key, value in inherited.items():
        set_key(base, key, value)
    return setup_cfg(args, base)


def keeps_to_records(trainer: str) -> bool:
    """Whether a trainer refuses folders of other configurations; those of other repositories do as Dassl does."""
    found = TRAINER_REGISTRY.get(trainer) if trainer in TRAINER_REGISTRY else None
    return getattr(found, "refuses_other_configurations", False)


def check_flags(args: argparse.Namespace) -> None:
    """Raises BadValueError for flags that would have no effect."""
    if not args.eval_only and (args.model_dir or args.load_epoch is not None):
        raise BadValueError("--model-dir and --load-epoch choose the model of an evaluation: add --eval-only")
    if args.eval_only and (args.resume or args.extend or args.no_train):
        raise BadValueError("--resume, --extend and --no-train are about training: leave them or --eval-only out")


def check_is_complete(cfg: CfgNode) -> None:
    """Raise BadValueError for what no run can do without, before the output folder is made."""
    if not cfg.TRAINER.NAME:
        raise BadValueError("which trainer? give --trainer NAME, for instance --trainer ProMetaR")
    if not cfg.DATASET.NAME:
        raise BadValueError("which data set? give --dataset-config-file FILE, such as configs/datasets/shapes.yaml")


def main(args: argparse.Namespace) -> None:
    """Build the trainer and run it; no other process may be at work in the output folder.

    Raises:
        UserError: something the user can fix, said in one line.
    """
    check_flags(args)
    cfg = evaluation_cfg(args) if args.eval_only else setup_cfg(args)
    check_is_complete(cfg)
    recording = Recording(args, cfg)
    with locked(cfg.OUTPUT_DIR) if cfg.OUTPUT_DIR else nullcontext():
        run(args, cfg, recording)


def run(args: argparse.Namespace, cfg: CfgNode, recording: Recording) -> None:
    """What `main` does in the output folder. Raises UserError."""
    if not args.no_train:
        recording.check_folder(default_cfg(), keeps_to_records(cfg.TRAINER.NAME))
    if cfg.SEED >= 0:
        print(f"Setting fixed seed: {cfg.SEED}")
        set_random_seed(cfg.SEED)
    if cfg.DETERMINISTIC:
        use_deterministic_algorithms()
    setup_logger(cfg.OUTPUT_DIR)
    print_args(args, cfg)
    print(f"Collecting env info ...\n** System info **\n{collect_env_info()}\n")
    trainer = build_trainer(cfg)
    if args.eval_only:
        load_for_evaluation(trainer, args)
        trainer.test()
    elif args.no_train:
        return
    else:
        trainer.train()
    recording.finish(trainer)


def load_for_evaluation(trainer: TrainerBase, args: argparse.Namespace) -> None:
    """Load the model of --model-dir into a trainer that learns.

    Raises:
        UserError: none is named, or it does not fit.
    """
    if trainer.get_model_names() and not args.model_dir:
        name = type(trainer).__name__
        raise BadValueError(f"{name} learns: --eval-only needs the folder of a trained model (--model-dir)")
    if args.model_dir and not trainer.get_model_names():
        raise BadValueError(f"{type(trainer).__name__} learns nothing and takes no model: leave --model-dir out")
    if args.model_dir:
        trainer.check_folder(args.model_dir, resuming=False)  # files of other repositories load in their own ways
    trainer.load_model(args.model_dir, epoch=args.load_epoch)


if __name__ == "__main__":
    keep_freed_memory()
    with errors_in_one_line():
        main(parse_args())
