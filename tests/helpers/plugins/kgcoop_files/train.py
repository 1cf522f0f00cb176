import argparse

import trainers.kgcoop


def reset_cfg(cfg, args):
    cfg.TRAINER.COOP.W = args.w
    cfg.OPTIM.MAX_EPOCH = args.epochs
    cfg.SEED = args.seed
    if args.backbone:
        cfg.MODEL.BACKBONE.NAME = args.backbone


def extend_cfg(cfg):
    from yacs.config import CfgNode as CN

    cfg.TRAINER.COOP = CN()
    cfg.TRAINER.COOP.N_CTX = 16
    cfg.TRAINER.COOP.CTX_INIT = True
    cfg.TRAINER.COOP.PREC = "fp16"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--w", type=float, default=8.0, help="weight")
    parser.add_argument("--epochs", type=int, default=7)
    parser.add_argument("--backbone", default="")
    raise SystemExit("this program must not be run")
