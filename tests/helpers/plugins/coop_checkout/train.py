import argparse

import wandb_of_nobody
from dassl.data.datasets.nowhere import nothing
from yacs.config import CfgNode as CN

import datasets.oxford_pets
import trainers.coop
import trainers.coop_kd

WORDS = 16


def number_of_words():
    return WORDS


def reset_cfg(cfg, args):
    if args.root:
        cfg.DATASET.ROOT = args.root
    if args.seed:
        cfg.SEED = args.seed
    if args.trainer:
        cfg.TRAINER.NAME = args.trainer


def extend_cfg(cfg):
    """The keys of this repository."""
    cfg.TRAINER.COOP = CN()
    cfg.TRAINER.COOP.N_CTX = number_of_words()
    cfg.TRAINER.COOP.CSC = False
    cfg.TRAINER.COOP.CTX_INIT = ""
    cfg.TRAINER.COOP.PREC = "fp16"
    cfg.TRAINER.COOP.CLASS_TOKEN_POSITION = "end"
    cfg.TRAINER.COOPKD = CN()
    cfg.TRAINER.COOPKD.TEMPERATURE = 2.0
    cfg.DATASET.SUBSAMPLE_CLASSES = "all"


def main(args):
    raise RuntimeError("this program must not be run")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--root", type=str, default="")
    main(parser.parse_args())

main(None)
