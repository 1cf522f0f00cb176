"""The command line of `train.py`. Imports nothing slow, so that mistakes are reported at once."""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Sequence

from dassl.command_line import MAX_THREADS, ArgumentParser, number_from, seed_number

CONFIG_KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+")


def make_parser() -> ArgumentParser:
    """The parser of `train.py`."""
    parser = ArgumentParser(
        prog="train.py",
        description="Train or evaluate one trainer on one data set.",
        examples=(
            "--root data --seed 1 --trainer ProMetaR \\\n"
            "      --dataset-config-file configs/datasets/shapes.yaml \\\n"
            '      --config-file "configs/trainers/ProMetaR/vit_shapes_c2_ep10_batch4_4+4ctx.yaml" \\\n'
            "      --output-dir output/try DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base",
            "--root data --trainer ProMetaR --eval-only --model-dir output/try \\\n"
            "      --dataset-config-file configs/datasets/shapes.yaml \\\n"
            "      --output-dir output/try_new DATASET.SUBSAMPLE_CLASSES new",
        ),
    )
    parser.add_argument("--root", default=os.environ.get("DATA", ""), help="folder of the data sets (default: $DATA)")
    parser.add_argument("--output-dir", default="", help="output folder (default: OUTPUT_DIR in the config, ./output)")
    parser.add_argument("--resume", default="", help="folder of the run to continue (default: the output folder)")
    parser.add_argument(
        "--extend", action="store_true", default=None, help="continue a run that had fewer epochs, on the new schedule"
    )
    parser.add_argument("--seed", type=seed_number, help="0 to 2**32 - 1 fixes the seed (default: no fixed seed)")
    parser.add_argument(
        "--deterministic", action="store_true", default=None, help="the same bits in every run with the same seed"
    )
    parser.add_argument(
        "--threads",
        type=number_from(1, MAX_THREADS),
        help="threads on a CPU (default: by the model's size and the free cores)",
    )
    parser.add_argument(
        "--source-domains", nargs="+", help="source domains, for trainers that have some (default: none)"
    )
    parser.add_argument(
        "--target-domains", nargs="+", help="target domains, for trainers that have some (default: none)"
    )
    parser.add_argument("--transforms", nargs="+", help="training transforms (default: INPUT.TRANSFORMS in the config)")
    parser.add_argument("--config-file", default="", help="YAML file of the method (default: the defaults of all keys)")
    parser.add_argument(
        "--dataset-config-file", default="", help="YAML file of the data set (default: DATASET.NAME says which it is)"
    )
    parser.add_argument("--trainer", default="", help="name of the trainer (default: TRAINER.NAME in the config)")
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="PATH",
        help="file or folder with trainers of another repository, and with its train.py (default: none); repeatable",
    )
    parser.add_argument(
        "--backbone", default="", help="CLIP name or checkpoint file (default: MODEL.BACKBONE.NAME in the config)"
    )
    parser.add_argument("--head", default="", help="name of the head, for trainers that have one (default: none)")
    parser.add_argument("--eval-only", action="store_true", help="evaluate only")
    parser.add_argument(
        "--model-dir", default="", help="with --eval-only: folder of the trained model (default: none, for zero-shot)"
    )
    parser.add_argument("--load-epoch", type=int, help="with --eval-only: epoch to load (default: the best or last)")
    parser.add_argument("--no-train", action="store_true", help="build everything, train nothing")
    parser.add_argument(
        "--setting", default="other/all", help="for result.json: base2new/train_base, cross_dataset/target, ..."
    )
    parser.add_argument(
        "--config-name", default="", help="for result.json: name of the row (default: the config file's)"
    )
    parser.add_argument(
        "--logger",
        default="tensorboard",
        choices=("tensorboard", "wandb", "mlflow"),
        help="where curves, settings and results go; wandb and mlflow come beside the event files",
    )
    parser.add_argument("opts", default=[], nargs=argparse.REMAINDER, help="config overrides: KEY VALUE ...")
    return parser


def parse_args(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The arguments of `train.py`; without any, its usage is printed and the program ends with status 2."""
    parser = make_parser()
    words = sys.argv[1:] if arguments is None else arguments
    if arguments is None and not words:
        parser.print_usage(sys.stderr)
        parser.exit(2)
    args = parser.parse_args(words)
    for flag in ("source_domains", "target_domains", "transforms"):
        for value in getattr(args, flag) or ():
            if CONFIG_KEY.fullmatch(value):  # of a KEY VALUE pair
                name = f"--{flag.replace('_', '-')}"
                parser.error(f"{name} would take {value} as one of its values: put another flag between the two")
    return args
