"""Train or evaluate one trainer on one data set; the command line of the CoOp repositories.

python train.py --root data --seed 1 --trainer ProMetaR \
    --dataset-config-file configs/datasets/shapes.yaml \
    --config-file "configs/trainers/ProMetaR/vit_shapes_c2_ep10_batch4_4+4ctx.yaml" \
    --output-dir output/try DATASET.NUM_SHOTS 16 DATASET.SUBSAMPLE_CLASSES base
"""

from __future__ import annotations

from dassl.command_line import end_imports_in_one_line, errors_in_one_line
from runner.arguments import parse_args

if __name__ == "__main__":  # before the imports that take seconds
    end_imports_in_one_line()
    print(f"{parse_args().trainer or 'train.py'}: loading PyTorch", flush=True)

from dassl.engine import build_trainer
from dassl.utils.memory import keep_freed_memory
from runner.command import main
from runner.config import extend_cfg, reset_cfg, setup_cfg
from runner.opening import print_args
from runner.plugins import load_plugins

__all__ = [
    "build_trainer",
    "extend_cfg",
    "load_plugins",
    "main",
    "parse_args",
    "print_args",
    "reset_cfg",
    "setup_cfg",
]

if __name__ == "__main__":
    keep_freed_memory()
    with errors_in_one_line():
        main(parse_args())
