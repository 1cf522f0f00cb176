import torch
import torch.nn as nn
from torch.nn import functional as F

from clip import clip
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from datasets.oxford_pets import OxfordPets


def load_clip_to_cpu(cfg):
    model_path = clip._download(clip._MODELS[cfg.MODEL.BACKBONE.NAME])
    return clip.build_model(torch.load(model_path, map_location="cpu"))


class PromptLearner(nn.Module):
    def __init__(self, cfg, classnames, clip_model):
        super().__init__()
        texts = [f"a photo of a {name.replace('_', ' ')}." for name in classnames]
        with torch.no_grad():
            features = clip_model.encode_text(torch.cat([clip.tokenize(text) for text in texts]))
        self.register_buffer("features", features)
        self.ctx = nn.Parameter(torch.zeros(features.shape[1]))

    def forward(self):
        return self.features + self.ctx


class CustomCLIP(nn.Module):
    def __init__(self, cfg, classnames, clip_model):
        super().__init__()
        self.prompt_learner = PromptLearner(cfg, classnames, clip_model)
        self.image_encoder = clip_model.visual
        self.logit_scale = clip_model.logit_scale

    def forward(self, image):
        image_features = F.normalize(self.image_encoder(image), dim=-1)
        return self.logit_scale.exp() * image_features @ F.normalize(self.prompt_learner(), dim=-1).t()


@TRAINER_REGISTRY.register()
class CoOp(TrainerX):
    """A shift of the text features, under CoOp's names."""

    reader = OxfordPets

    def build_model(self):
        cfg = self.cfg
        self.model = CustomCLIP(cfg, self.dm.dataset.classnames, load_clip_to_cpu(cfg).float())
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_("prompt_learner" in name)
        self.model.to(self.device)
        self.optim = build_optimizer(self.model.prompt_learner, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("prompt_learner", self.model.prompt_learner, self.optim, self.sched)

    def forward_backward(self, batch):
        image, label = batch["img"].to(self.device), batch["label"].to(self.device)
        output = self.model(image)
        loss = F.cross_entropy(output, label)
        self.model_backward_and_update(loss)
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
        return {"loss": loss.item(), "acc": compute_accuracy(output, label)[0].item()}
