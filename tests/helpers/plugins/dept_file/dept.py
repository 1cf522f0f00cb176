import os.path as osp

import torch.nn as nn
from torch.nn import functional as F

from dassl.data.data_manager import build_transform
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.engine.trainer import SummaryWriter
from dassl.optim import build_lr_scheduler, build_optimizer
from trainers.coop import load_clip_to_cpu


@TRAINER_REGISTRY.register()
class ExtrasOfDePT(TrainerX):
    """A linear layer on the frozen image features."""

    def build_model(self):
        cfg = self.cfg
        self.test_transform = build_transform(cfg, is_train=False)
        self.clip_model = load_clip_to_cpu(cfg).float().to(self.device)
        self.model = nn.Linear(self.clip_model.visual.output_dim, self.num_classes).to(self.device)
        self.optim = build_optimizer(self.model, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("linear_probe", self.model, self.optim, self.sched)

    def init_writer(self, log_dir):
        self._writer = SummaryWriter(log_dir=osp.join(log_dir, "own"))

    def forward_backward(self, batch):
        logits, _ = self.model_inference(batch["img"].to(self.device))
        loss = F.cross_entropy(logits, batch["label"].to(self.device))
        self.model_backward_and_update(loss)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss.item()}

    def model_inference(self, image):
        features = self.clip_model.encode_image(image).detach()
        return self.model(features), features

    def after_train(self):
        self.test(is_final=True)
        self.close_writer()
