"""Train or evaluate one trainer on one data set; the command line of the CoOp repositories.

python train.py --root data --seed 1 --trainer ProMetaR \
    --dataset-config-file configs/datasets/shapes.yaml \
    --config-file "configs/trainers/ProMetaR/vit_shapes_c2_ep10_batch4_4+4ctx.yaml" \
    --output-dir output/try DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from yacs.config import CfgNode

import datasets
import trainers
from dassl.config import get_cfg_default, merge_file, merge_opts
from dassl.engine import build_trainer
from dassl.utils import (
    collect_env_info,
    errors_in_one_line,
    set_random_seed,
    setup_logger,
    use_deterministic_algorithms,
)
from dassl.utils.memory import keep_freed_memory
from experiments.recording import Recording


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
            node, leaf = cfg, key.split(".")
            for part in leaf[:-1]:
                node = node[part]
            node[leaf[-1]] = value


def extend_cfg(cfg: CfgNode) -> None:
    """Add the keys of this project's data sets and trainers to Dassl's tree."""
    datasets.add_config(cfg)
    trainers.add_config(cfg)


def setup_cfg(args: argparse.Namespace) -> CfgNode:
    """The frozen configuration: defaults, data set's file, method's file, flags, KEY VALUE pairs; later ones win."""
    cfg = get_cfg_default()
    extend_cfg(cfg)
    if args.dataset_config_file:
        merge_file(cfg, args.dataset_config_file)
    if args.config_file:
        merge_file(cfg, args.config_file)
    reset_cfg(cfg, args)
    merge_opts(cfg, args.opts)
    cfg.freeze()
    return cfg


def main(args: argparse.Namespace) -> None:
    """Build the trainer and run it.

    Raises:
        UserError: something the user can mend, said in one line.
    """
    cfg = setup_cfg(args)
    recording = Recording(args, cfg)
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
        trainer.load_model(args.model_dir, epoch=args.load_epoch)
        trainer.test()
    elif args.no_train:
        return
    else:
        trainer.train()
    recording.finish(trainer)


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train or evaluate one trainer on one data set.")
    parser.add_argument("--root", default=os.environ.get("DATA", ""), help="folder of the data sets (default: $DATA)")
    parser.add_argument("--output-dir", default="", help="output folder")
    parser.add_argument("--resume", default="", help="folder of the run to go on with")
    parser.add_argument("--seed", type=int, help="a number from 0 on fixes the seed (default: no fixed seed)")
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
    return parser.parse_args(arguments)


if __name__ == "__main__":
    keep_freed_memory()
    with errors_in_one_line():
        main(parse_args())
