"""Keys and defaults of the configuration tree, as Dassl's, so that YAML files of the lineage merge."""

from __future__ import annotations

import copy
from typing import Any

from yacs.config import CfgNode

from .node import ConfigRoot

_SAMPLED_LOADER = {
    "SAMPLER": "RandomSampler",  # order of images: RandomSampler, RandomClassSampler, RandomDomainSampler, ...
    "BATCH_SIZE": 32,  # images in a batch
    "N_DOMAIN": 0,  # RandomDomainSampler: domains per batch, 0 for all
    "N_INS": 16,  # RandomClassSampler: images per class in a batch
}

_TREE: dict[str, Any] = {
    "VERSION": 1,  # not used
    "OUTPUT_DIR": "./output",  # folder of the run (--output-dir)
    "RESUME": "",  # run folder to resume from (--resume)
    "SEED": -1,  # seed of draws and training (--seed); negative: no fixed seed
    "DETERMINISTIC": False,  # the same bits in every run with one seed on one machine
    "USE_CUDA": True,  # use a GPU if there is one
    "VERBOSE": True,  # print the names of evaluator, backbone and head
    "INPUT": {
        "SIZE": (224, 224),  # height and width of the images that the model gets
        "MAX_PIXELS": 89_478_485,  # a larger image is an error and is not decoded
        "MAX_ASPECT_RATIO": 200,  # longer side divided by shorter side; a larger ratio is an error
        "INTERPOLATION": "bilinear",  # how images are resized: bilinear, bicubic or nearest
        "TRANSFORMS": (),  # names of the training transforms; normalize is applied in tests too
        "NO_TRANSFORM": False,  # images are left as they are
        "PIXEL_MEAN": [0.485, 0.456, 0.406],  # normalize: subtracted from red, green and blue (0 to 1)
        "PIXEL_STD": [0.229, 0.224, 0.225],  # normalize: divisors
        "CROP_PADDING": 4,  # random_crop: pixels added around the image
        "RRCROP_SCALE": (0.08, 1.0),  # random_resized_crop: smallest and largest share of the area
        "CUTOUT_N": 1,  # cutout: number of holes
        "CUTOUT_LEN": 16,  # cutout: side of a hole, in pixels
        "GN_MEAN": 0.0,  # gaussian_noise: mean
        "GN_STD": 0.15,  # gaussian_noise: standard deviation
        "RANDAUGMENT_N": 2,  # randaugment: operations on an image
        "RANDAUGMENT_M": 10,  # randaugment: strength, 0 to 30
        "COLORJITTER_B": 0.4,  # colorjitter: brightness
        "COLORJITTER_C": 0.4,  # colorjitter: contrast
        "COLORJITTER_S": 0.4,  # colorjitter: saturation
        "COLORJITTER_H": 0.1,  # colorjitter: hue, 0 to 0.5
        "RGS_P": 0.2,  # randomgrayscale: probability
        "GB_P": 0.5,  # gaussian_blur: probability
        "GB_K": 21,  # gaussian_blur: kernel size in pixels, odd
    },
    "DATASET": {
        "ROOT": "",  # folder of all data sets (--root)
        "NAME": "",  # name of the data set's reader
        "SOURCE_DOMAINS": (),  # names of the domains to train on (--source-domains)
        "TARGET_DOMAINS": (),  # names of the domains to test on (--target-domains)
        "NUM_LABELED": -1,  # for readers of other repositories: number of labelled images
        "NUM_SHOTS": -1,  # images per class, -1 for all (0: also all, in evaluations only)
        "VAL_PERCENT": 0.1,  # for readers of other repositories: share of the images for validation
        "STL10_FOLD": -1,  # for readers of other repositories: STL-10's fold
        "CIFAR_C_TYPE": "",  # for readers of other repositories: CIFAR-C's corruption
        "CIFAR_C_LEVEL": 1,  # for readers of other repositories: CIFAR-C's severity
        "ALL_AS_UNLABELED": False,  # for readers of other repositories: use labelled images as unlabelled too
    },
    "DATALOADER": {
        "NUM_WORKERS": 4,  # processes that read and augment images; 0 for none
        "K_TRANSFORMS": 1,  # augmented views per training image
        "RETURN_IMG0": False,  # the image without augmentation as well, as img0
        "TRAIN_X": _SAMPLED_LOADER,  # the loader of labelled images
        "TRAIN_U": {  # the loader of unlabelled images
            "SAME_AS_X": True,  # the same settings as TRAIN_X
            **_SAMPLED_LOADER,
        },
        "TEST": {
            "SAMPLER": "SequentialSampler",  # order of images
            "BATCH_SIZE": 32,  # images in a test batch
        },
    },
    "MODEL": {
        "INIT_WEIGHTS": "",  # checkpoint file whose learned tensors a new training starts from
        "BACKBONE": {
            "NAME": "",  # of a CLIP or a path to its file (--backbone)
            "PRETRAINED": True,  # ResNets of Dassl: with ImageNet's weights
        },
        "HEAD": {  # layers between backbone and classifier in trainers of Dassl's kind
            "NAME": "",  # name of the head, mlp; empty for none (--head)
            "HIDDEN_LAYERS": (),  # widths of its layers
            "ACTIVATION": "relu",  # relu or leaky_relu
            "BN": True,  # batch normalisation in each layer
            "DROPOUT": 0.0,  # share of values that are dropped in training
        },
    },
    "OPTIM": {
        "NAME": "adam",  # adam, amsgrad, sgd, rmsprop, radam or adamw
        "LR": 0.0003,  # learning rate
        "WEIGHT_DECAY": 5e-4,  # weight decay
        "MOMENTUM": 0.9,  # momentum of sgd and rmsprop
        "SGD_DAMPNING": 0,  # dampening of the momentum of sgd
        "SGD_NESTEROV": False,  # Nesterov momentum of sgd
        "RMSPROP_ALPHA": 0.99,  # smoothing of rmsprop
        "ADAM_BETA1": 0.9,  # decay of the first moment of adam and its kin
        "ADAM_BETA2": 0.999,  # decay of the second moment
        "ADAM_EPS": 1e-8,  # added to the denominator of adam, amsgrad, radam and adamw
        "STAGED_LR": False,  # two learning rates, see NEW_LAYERS
        "NEW_LAYERS": (),  # staged learning rate: these children get LR, the others LR * BASE_LR_MULT
        "BASE_LR_MULT": 0.1,  # staged learning rate: factor for all other layers
        "LR_SCHEDULER": "single_step",  # single_step, multi_step or cosine
        "STEPSIZE": (-1,),  # epochs between steps (single_step) or of the steps (multi_step); below 1 for MAX_EPOCH
        "GAMMA": 0.1,  # factor of the learning rate at a step
        "MAX_EPOCH": 10,  # epochs
        "WARMUP_EPOCH": -1,  # epochs of warm-up; below 1 for none
        "WARMUP_TYPE": "linear",  # linear or constant
        "WARMUP_CONS_LR": 1e-5,  # learning rate of a constant warm-up
        "WARMUP_MIN_LR": 1e-5,  # first learning rate of a linear warm-up
        "WARMUP_RECOUNT": True,  # the schedule counts its epochs from the end of the warm-up
    },
    "TRAIN": {
        "CHECKPOINT_FREQ": 0,  # epochs; 0 for the last epoch only
        "PRINT_FREQ": 10,  # batches
        "EXTEND": False,  # continue a run in OUTPUT_DIR (or RESUME) that had fewer epochs
        "COUNT_ITER": "train_x",  # length of an epoch with two loaders: train_x, train_u or smaller_one
    },
    "TEST": {
        "EVALUATOR": "Classification",  # name of the evaluator
        "PER_CLASS_RESULT": False,  # print the accuracy of each class and keep it in result.json
        "COMPUTE_CMAT": False,  # write the confusion matrix to cmat.pt; rows are true classes and sum to 1
        "NO_TEST": False,  # no test after training
        "SPLIT": "test",  # what is tested: test or val
        "FINAL_MODEL": "last_step",  # model to test after training: last_step, or best_val (best on validation images)
    },
    # Settings of the trainers that Dassl ships. None of them is here; the nodes let its YAML files merge.
    "TRAINER": {
        "NAME": "",  # name of the trainer (--trainer)
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
