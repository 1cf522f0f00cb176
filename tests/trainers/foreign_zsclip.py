"""A trainer file in the manner of the lineage's zero-shot trainers, which import from their neighbours in `trainers/`.

Written for the tests.
"""

import torch

from clip import clip
from dassl.engine import TRAINER_REGISTRY, TrainerX
from trainers.coop import load_clip_to_cpu
from trainers.core.imagenet_templates import IMAGENET_TEMPLATES, IMAGENET_TEMPLATES_SELECT
from trainers.zsclip import CUSTOM_TEMPLATES

assert len(IMAGENET_TEMPLATES) == 80


@TRAINER_REGISTRY.register()
class ForeignZeroshotCLIP2(TrainerX):
    def build_model(self):
        cfg = self.cfg
        clip_model = load_clip_to_cpu(cfg)
        clip_model.float()
        clip_model.to(self.device)
        for param in clip_model.parameters():
            param.requires_grad_(False)
        templates = list(IMAGENET_TEMPLATES_SELECT)
        if cfg.DATASET.NAME != "ImageNet":
            templates += [CUSTOM_TEMPLATES[cfg.DATASET.NAME]]
        mean_text_features = 0
        for template in templates:
            prompts = [template.format(name.replace("_", " ")) for name in self.dm.dataset.classnames]
            prompts = torch.cat([clip.tokenize(p) for p in prompts]).to(self.device)
            text_features = clip_model.encode_text(prompts)
            mean_text_features = mean_text_features + text_features / text_features.norm(dim=-1, keepdim=True)
        mean_text_features = mean_text_features / len(templates)
        self.text_features = mean_text_features / mean_text_features.norm(dim=-1, keepdim=True)
        self.clip_model = clip_model

    def model_inference(self, image):
        image_features = self.clip_model.encode_image(image)
        image_features = image_features / image_features.norm(dim=-1, keepdim=True)
        return self.clip_model.logit_scale.exp() * image_features @ self.text_features.t()
