"""Small trainers to test with: a tiny data set in EuroSAT's layout, a configuration, a float64 form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from golden_data import COMPACT
from PIL import Image
from torch import Tensor

import train
from clip import clip
from clip.backbones import checkpoint as weights
from dassl.config import get_cfg_default
from dassl.engine import build_trainer
from trainers.core import method

CLASSNAMES = [
    "face",
    "wild_cat",
    "sea_or_lake",
    "Highway or Road",
    "2012 BMW X6 SUV",
    "annual crop land",
    "Egyptian_Mau",
]
"""The class names of the golden data, whose tokens the compact token table holds."""

NODES = {
    "CoOp": "COOP",
    "CoCoOp": "COCOOP",
    "VPT": "VPT",
    "IVLP": "IVLP",
    "MaPLe": "MAPLE",
    "KgCoOp": "KGCOOP",
    "ProGrad": "PROGRAD",
    "PromptSRC": "PROMPTSRC",
    "TCP": "TCP",
    "MultiModalAdapter": "MMADAPTER",
    "CoPrompt": "COPROMPT",
    "ProMetaR": "PROMETAR",
}
"""Config node of each trainer that learns something."""
FOR_TINY_TOWERS = {
    "PROMPT_DEPTH": 2,
    "PROMPT_DEPTH_VISION": 2,
    "PROMPT_DEPTH_TEXT": 2,
    "CLASS_LAYER": 2,
    "ADAPTER_START": 2,
    "ADAPTER_END": 3,
    "ADAPTER_SCALE": 0.1,
}
"""Settings that fit towers of three layers, and show in their logits."""
NODES |= {"LinearProbe": "LINEARPROBE", "CLIPLoRA": "CLIPLORA"}
WITHOUT_RECORDING = {"LinearProbe", "CLIPLoRA"}
"""Trainers that are tested against their definitions: their published code was not recorded."""
ZERO_SHOT_NODES = {"ZeroshotCLIP": "ZEROSHOTCLIP", "ZeroshotCLIP2": "ZEROSHOTCLIP2"}

STRONG_META_STEP = ["TRAINER.PROMETAR.ADAPT_LR", "0.5", "TRAINER.PROMETAR.LR_RATIO", "1.0", "OPTIM_VNET.LR", "10.0"]
"""With the published 5e-4 twice and 3e-4, a wrong outer gradient would drown in the rounding."""


def write_data(
    root: Path, images_per_part: tuple[tuple[str, int], ...] = (("train", 4), ("val", 1), ("test", 2))
) -> None:
    """Random 64 x 64 images of the seven classes."""
    split, rng = {part: [] for part, _ in images_per_part}, np.random.default_rng(0)
    for label, name in enumerate(CLASSNAMES):
        (root / "eurosat" / "2750" / f"c{label}").mkdir(parents=True)
        for part, count in images_per_part:
            for i in range(count):
                relative = f"c{label}/{part}_{i}.jpg"
                pixels = rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / "eurosat" / "2750" / relative)
                split[part].append([relative, label, name])
    (root / "eurosat" / "split_zhou_EuroSAT.json").write_text(json.dumps(split))


def make_cfg(trainer: str, backbone: Path, data: Path, output: Path, options: list | dict = ()):
    """Configuration of a run in float32 on the CPU; SGD with momentum, rate 0.0025, four images a batch.

    Args:
        options: KEY VALUE pairs that overrule the rest. A key without a dot is one of the trainer's own node, if it
            has it, else one of the tree's top (USE_CUDA).
    """
    cfg = get_cfg_default()
    train.extend_cfg(cfg)
    cfg.TRAINER.NAME = trainer
    cfg.MODEL.BACKBONE.NAME = str(backbone)
    cfg.DATASET.NAME, cfg.DATASET.ROOT, cfg.DATASET.NUM_SHOTS = "EuroSAT", str(data), 4
    cfg.INPUT.SIZE, cfg.INPUT.TRANSFORMS = (64, 64), ("normalize",)
    cfg.DATALOADER.NUM_WORKERS, cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 0, 4
    cfg.OUTPUT_DIR, cfg.VERBOSE, cfg.USE_CUDA = str(output), False, False
    cfg.SEED = 1
    for node in (cfg.OPTIM, cfg.OPTIM_VNET):
        node.NAME, node.LR, node.LR_SCHEDULER, node.MAX_EPOCH = "sgd", 0.0025, "cosine", 2
    node = (NODES | ZERO_SHOT_NODES).get(trainer)
    own = cfg.TRAINER[node] if node else {}
    if node:
        own.PREC = "fp32"
        for key in own.keys() & FOR_TINY_TOWERS.keys():
            own[key] = FOR_TINY_TOWERS[key]
    if trainer == "CoPrompt":
        own.DESCRIPTIONS, cfg.DATALOADER.K_TRANSFORMS = str(COMPACT / "coprompt_descriptions.json"), 2
    pairs = list(options.items()) if isinstance(options, dict) else list(zip(options[::2], options[1::2], strict=True))
    for key, value in pairs:
        cfg.merge_from_list([f"TRAINER.{node}.{key}" if key in own else key, value])
    return cfg


def build_in_float64(cfg, monkeypatch):
    """The trainer with towers, prompts and modulator in float64."""
    load = method.load_clip
    monkeypatch.setattr(method, "load_clip", lambda *arguments: load(*arguments).double())
    trainer = build_trainer(cfg)
    for name in trainer.get_model_names():
        trainer._models[name].double()
    if hasattr(trainer, "prompts"):
        trainer.prompts.double()
    return trainer


def set_position(trainer, batch: int, batches_per_epoch: int | None = None, epochs: int = 10) -> None:
    """Tell a trainer that was never started where it stands; without a length, inside an endless first epoch."""
    length = batches_per_epoch or 10**6
    trainer.num_batches, trainer.max_epoch = length, epochs
    trainer.epoch, trainer.batch_idx = divmod(batch, length)
    trainer.set_model_mode("train")


def learned(trainer) -> dict[str, Tensor]:
    """Copies of the learned tensors by name, and of the modulator's."""
    tensors = {}
    for name in trainer.get_model_names():
        tensors |= {key: value.detach().clone() for key, value in trainer._models[name].state_dict().items()}
    return tensors


def load_tiny_clip(path: Path):
    """The tiny CLIP of the golden data, float32."""
    return weights.clip_from_state_dict(weights.read_state_dict(path), source=str(path))


__all__ = ["CLASSNAMES", "NODES", "build_in_float64", "build_trainer", "clip", "learned", "load_tiny_clip"]
