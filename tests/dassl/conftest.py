"""A data set of 24 tiny images and a trainer for it, on nothing but the core."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY, DatasetBase, Datum
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.modeling.backbone import BACKBONE_REGISTRY, Backbone

CLASSNAMES = ["red", "green", "blue"]


@DATASET_REGISTRY.register(force=True)
class ToyColours(DatasetBase):
    """Images whose channel of the class's colour is bright; domains alternate."""

    domains = ["even", "odd"]

    def __init__(self, cfg):
        splits = {name: self._items(cfg.DATASET.ROOT, name, count) for name, count in (("train", 5), ("test", 3))}
        val = self._items(cfg.DATASET.ROOT, "val", cfg.DATASET.NUM_LABELED) if cfg.DATASET.NUM_LABELED > 0 else []
        unlabelled = splits["train"] if cfg.DATASET.ALL_AS_UNLABELED else None
        super().__init__(train_x=splits["train"], train_u=unlabelled, val=val, test=splits["test"])

    @staticmethod
    def _items(root, split, per_class):
        return [
            Datum(f"{root}/{split}_{label}_{i}.png", label, domain=i % 2, classname=name)
            for label, name in enumerate(CLASSNAMES)
            for i in range(per_class)
        ]


@BACKBONE_REGISTRY.register(force=True)
class channel_means(Backbone):  # noqa: N801 - the registry uses the name
    def __init__(self, pretrained=True):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self._out_features = 3

    def forward(self, x):
        return x.mean(dim=(2, 3)) * self.scale


@TRAINER_REGISTRY.register(force=True)
class ToyTrainer(TrainerX):
    """Cross-entropy, in the style of the lineage's trainer files."""

    def forward_backward(self, batch):
        image, label, _ = self.parse_batch_train(batch)
        output = self.model(image)
        loss = F.cross_entropy(output, label)
        self.model_backward_and_update(loss)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}


@pytest.fixture(scope="session")
def image_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    rng = np.random.default_rng(0)
    for split, per_class in (("train", 5), ("val", 2), ("test", 3)):
        for label in range(3):
            for i in range(per_class):
                pixels = rng.integers(0, 120, (20, 24, 3), dtype=np.uint8)
                pixels[..., label] += 120
                Image.fromarray(pixels).save(root / f"{split}_{label}_{i}.png")
    return root


@pytest.fixture
def cfg(image_root, tmp_path):
    cfg = get_cfg_default()
    cfg.DATASET.NAME = "ToyColours"
    cfg.DATASET.ROOT = str(image_root)
    cfg.TRAINER.NAME = "ToyTrainer"
    cfg.MODEL.BACKBONE.NAME = "channel_means"
    cfg.INPUT.SIZE = (16, 16)
    cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.TRAIN_X.BATCH_SIZE = 4
    cfg.OPTIM.NAME = "sgd"
    cfg.OPTIM.LR = 0.1
    cfg.OPTIM.LR_SCHEDULER = "cosine"
    cfg.OPTIM.MAX_EPOCH = 4
    cfg.OPTIM.WARMUP_EPOCH = 1
    cfg.OPTIM.WARMUP_TYPE = "constant"
    cfg.OUTPUT_DIR = str(tmp_path / "out")
    cfg.VERBOSE = False
    return cfg
