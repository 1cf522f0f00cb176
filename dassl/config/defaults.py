"""Keys and defaults of the configuration tree, as Dassl's, so that YAML files of the lineage merge."""

from __future__ import annotations

import copy
from typing import Any

from yacs.config import CfgNode

from .node import ConfigRoot

_SAMPLED_LOADER = {
    "SAMPLER": "RandomSampler",
    "BATCH_SIZE": 32,
    "N_DOMAIN": 0,  # RandomDomainSampler: domains per batch, 0 for all
    "N_INS": 16,  # RandomClassSampler: images per class in a batch
}

_TREE: dict[str, Any] = {
    "VERSION": 1,
    "OUTPUT_DIR": "./output",
    "RESUME": "",  # run folder to resume from
    "SEED": -1,  # negative: no fixed seed
    "DETERMINISTIC": False,  # the same bits in every run with one seed on one machine
    "USE_CUDA": True,
    "VERBOSE": True,
    "INPUT": {
        "SIZE": (224, 224),  # height, width
        "MAX_PIXELS": 89_478_485,  # a larger image is an error and is not decoded
        "MAX_ASPECT_RATIO": 200,  # longer side divided by shorter side; a larger ratio is an error
        "INTERPOLATION": "bilinear",
        "TRANSFORMS": (),
        "NO_TRANSFORM": False,
        "PIXEL_MEAN": [0.485, 0.456, 0.406],
        "PIXEL_STD": [0.229, 0.224, 0.225],
        "CROP_PADDING": 4,
        "RRCROP_SCALE": (0.08, 1.0),
        "CUTOUT_N": 1,
        "CUTOUT_LEN": 16,
        "GN_MEAN": 0.0,
        "GN_STD": 0.15,
        "RANDAUGMENT_N": 2,
        "RANDAUGMENT_M": 10,
        "COLORJITTER_B": 0.4,
        "COLORJITTER_C": 0.4,
        "COLORJITTER_S": 0.4,
        "COLORJITTER_H": 0.1,
        "RGS_P": 0.2,
        "GB_P": 0.5,
        "GB_K": 21,
    },
    "DATASET": {
        "ROOT": "",
        "NAME": "",
        "SOURCE_DOMAINS": (),
        "TARGET_DOMAINS": (),
        "NUM_LABELED": -1,
        "NUM_SHOTS": -1,  # images per class, -1 for all (0: also all, in evaluations only)
        "VAL_PERCENT": 0.1,
        "STL10_FOLD": -1,
        "CIFAR_C_TYPE": "",
        "CIFAR_C_LEVEL": 1,
        "ALL_AS_UNLABELED": False,
    },
    "DATALOADER": {
        "NUM_WORKERS": 4,
        "K_TRANSFORMS": 1,  # augmented views per training image
        "RETURN_IMG0": False,  # the image without augmentation as well, as img0
        "TRAIN_X": _SAMPLED_LOADER,
        "TRAIN_U": {"SAME_AS_X": True, **_SAMPLED_LOADER},
        "TEST": {"SAMPLER": "SequentialSampler", "BATCH_SIZE": 32},
    },
    "MODEL": {
        "INIT_WEIGHTS": "",
        "BACKBONE": {"NAME": "", "PRETRAINED": True},
        "HEAD": {"NAME": "", "HIDDEN_LAYERS": (), "ACTIVATION": "relu", "BN": True, "DROPOUT": 0.0},
    },
    "OPTIM": {
        "NAME": "adam",
        "LR": 0.0003,
        "WEIGHT_DECAY": 5e-4,
        "MOMENTUM": 0.9,
        "SGD_DAMPNING": 0,
        "SGD_NESTEROV": False,
        "RMSPROP_ALPHA": 0.99,
        "ADAM_BETA1": 0.9,
        "ADAM_BETA2": 0.999,
        "ADAM_EPS": 1e-8,  # added to the denominator of adam, amsgrad, radam and adamw
        "STAGED_LR": False,
        "NEW_LAYERS": (),  # staged learning rate: these children get LR, the others LR * BASE_LR_MULT
        "BASE_LR_MULT": 0.1,
        "LR_SCHEDULER": "single_step",
        "STEPSIZE": (-1,),  # epochs; below 1 for MAX_EPOCH
        "GAMMA": 0.1,
        "MAX_EPOCH": 10,
        "WARMUP_EPOCH": -1,  # above 0 to warm up
        "WARMUP_TYPE": "linear",
        "WARMUP_CONS_LR": 1e-5,
        "WARMUP_MIN_LR": 1e-5,
        "WARMUP_RECOUNT": True,  # the schedule counts its epochs from the end of the warm-up
    },
    "TRAIN": {
        "CHECKPOINT_FREQ": 0,  # epochs; 0 for the last epoch only
        "CHECKPOINT_SECONDS": 60.0,  # time between checkpoints within an epoch, which the next epoch's removes; 0: none
        "PRINT_FREQ": 10,  # batches
        "EXTEND": False,  # continue a run in OUTPUT_DIR (or RESUME) that had fewer epochs
        "COUNT_ITER": "train_x",  # length of an epoch with two loaders: train_x, train_u or smaller_one
    },
    "TEST": {
        "EVALUATOR": "Classification",
        "PER_CLASS_RESULT": False,
        "COMPUTE_CMAT": False,
        "NO_TEST": False,
        "SPLIT": "test",
        "FINAL_MODEL": "last_step",  # or best_val
    },
    # Settings of the trainers that Dassl ships. None of them is here; the nodes let its YAML files merge.
    "TRAINER": {
        "NAME": "",
        "MCD": {"N_STEP_F": 4},
        "MME": {"LMDA": 0.1},
        "CDAC": {
            "CLASS_LR_MULTI": 10,
            "RAMPUP_COEF": 30,
            "RAMPUP_ITRS": 1000,
            "TOPK_MATCH": 5,
            "P_THRESH": 0.95,
            "STRONG_TRANSFORMS": (),
        },
        "SE": {"EMA_ALPHA": 0.999, "CONF_THRE": 0.95, "RAMPUP": 300},
        "M3SDA": {"LMDA": 0.5, "N_STEP_F": 4},
        "DAEL": {"WEIGHT_U": 0.5, "CONF_THRE": 0.95, "STRONG_TRANSFORMS": ()},
        "CROSSGRAD": {"EPS_F": 1.0, "EPS_D": 1.0, "ALPHA_F": 0.5, "ALPHA_D": 0.5},
        "DDAIG": {
            "G_ARCH": "",
            "LMDA": 0.3,
            "CLAMP": False,
            "CLAMP_MIN": -1.0,
            "CLAMP_MAX": 1.0,
            "WARMUP": 0,
            "ALPHA": 0.5,
        },
        "DAELDG": {"WEIGHT_U": 0.5, "CONF_THRE": 0.95, "STRONG_TRANSFORMS": ()},
        "DOMAINMIX": {"TYPE": "crossdomain", "ALPHA": 1.0, "BETA": 1.0},
        "ENTMIN": {"LMDA": 1e-3},
        "MEANTEACHER": {"WEIGHT_U": 1.0, "EMA_ALPHA": 0.999, "RAMPUP": 5},
        "MIXMATCH": {"WEIGHT_U": 100.0, "TEMP": 2.0, "MIXUP_BETA": 0.75, "RAMPUP": 20000},
        "FIXMATCH": {"WEIGHT_U": 1.0, "CONF_THRE": 0.95, "STRONG_TRANSFORMS": ()},
    },
}


def get_cfg_default() -> CfgNode:
    """A new configuration tree with all defaults."""
    return ConfigRoot(copy.deepcopy(_TREE))
