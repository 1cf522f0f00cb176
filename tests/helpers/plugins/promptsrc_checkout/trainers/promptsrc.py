import torch
import torch.nn as nn
from torch.nn import functional as F

from clip import clip
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.optim import build_lr_scheduler, build_optimizer

from .imagenet_templates import IMAGENET_TEMPLATES


def load_clip_to_cpu(cfg, zero_shot_model=False):
    model_path = clip._download(clip._MODELS[cfg.MODEL.BACKBONE.NAME])
    settings, on = cfg.TRAINER.PROMPTSRC, int(not zero_shot_model)
    design_details = {
        "trainer": "IVLP",
        "vision_depth": settings.PROMPT_DEPTH_VISION * on,
        "language_depth": settings.PROMPT_DEPTH_TEXT * on,
        "vision_ctx": settings.N_CTX_VISION * on,
        "language_ctx": settings.N_CTX_TEXT * on,
    }
    return clip.build_model(torch.load(model_path, map_location="cpu"), design_details)


class TextEncoder(nn.Module):
    def __init__(self, clip_model):
        super().__init__()
        self.transformer = clip_model.transformer
        self.positional_embedding = clip_model.positional_embedding
        self.ln_final = clip_model.ln_final
        self.text_projection = clip_model.text_projection

    def forward(self, prompts, tokenized_prompts):
        x = (prompts + self.positional_embedding).permute(1, 0, 2)
        x = self.ln_final(self.transformer(x).permute(1, 0, 2))
        return x[torch.arange(x.shape[0]), tokenized_prompts.argmax(dim=-1)] @ self.text_projection


class VLPromptLearner(nn.Module):
    def __init__(self, cfg, classnames, clip_model):
        super().__init__()
        words, n_ctx = cfg.TRAINER.PROMPTSRC.CTX_INIT, cfg.TRAINER.PROMPTSRC.N_CTX_TEXT
        names = [name.replace("_", " ") for name in classnames]
        self.tokenized_prompts = torch.cat([clip.tokenize(f"{words} {name}.") for name in names])
        frozen = load_clip_to_cpu(cfg, zero_shot_model=True).float()
        self.ZS_image_encoder = frozen.visual
        with torch.no_grad():
            ctx = clip_model.token_embedding(clip.tokenize(words))[0, 1 : 1 + n_ctx]
            embedding = clip_model.token_embedding(self.tokenized_prompts)
            features = [
                frozen.encode_text(torch.cat([clip.tokenize(template.replace("{}", name)) for name in names]))
                for template in IMAGENET_TEMPLATES
            ]
        self.fixed_embeddings = F.normalize(torch.stack(features).mean(dim=0), dim=-1)
        self.ctx = nn.Parameter(ctx.clone())
        self.register_buffer("token_prefix", embedding[:, :1, :])
        self.register_buffer("token_suffix", embedding[:, 1 + n_ctx :, :])

    def forward(self):
        ctx = self.ctx.unsqueeze(0).expand(len(self.token_prefix), -1, -1)
        return torch.cat([self.token_prefix, ctx, self.token_suffix], dim=1)


class CustomCLIP(nn.Module):
    def __init__(self, cfg, classnames, clip_model):
        super().__init__()
        self.prompt_learner = VLPromptLearner(cfg, classnames, clip_model)
        self.image_encoder = clip_model.visual
        self.text_encoder = TextEncoder(clip_model)
        self.logit_scale = clip_model.logit_scale

    def forward(self, image):
        learner, scale = self.prompt_learner, self.logit_scale.exp()
        text = F.normalize(self.text_encoder(learner(), learner.tokenized_prompts), dim=-1)
        image_features = F.normalize(self.image_encoder(image), dim=-1)
        logits = scale * image_features @ text.t()
        if not learner.training:
            return logits
        with torch.no_grad():
            fixed_image = F.normalize(learner.ZS_image_encoder(image), dim=-1)
            fixed_logits = scale * fixed_image @ learner.fixed_embeddings.t()
        return logits, fixed_logits, text, learner.fixed_embeddings, image_features, fixed_image


@TRAINER_REGISTRY.register()
class PromptSRC(TrainerX):
    def build_model(self):
        cfg = self.cfg
        clip_model = load_clip_to_cpu(cfg).float()
        self.model = CustomCLIP(cfg, self.dm.dataset.classnames, clip_model)
        for name, param in self.model.named_parameters():
            learned = "VPT" in name or "prompt_learner" in name
            param.requires_grad_(learned and "ZS_image_encoder" not in name)
        self.model.to(self.device)
        self.optim = build_optimizer(self.model, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("VLPromptLearner", self.model, self.optim, self.sched)

    def forward_backward(self, batch):
        settings = self.cfg.TRAINER.PROMPTSRC
        image, label = batch["img"].to(self.device), batch["label"].to(self.device)
        logits, fixed_logits, text, fixed_text, image_features, fixed_image = self.model(image)
        loss = F.cross_entropy(logits, label)
        loss = loss + F.l1_loss(text, fixed_text) * settings.TEXT_LOSS_WEIGHT
        loss = loss + F.l1_loss(image_features, fixed_image) * settings.IMAGE_LOSS_WEIGHT
        log_p, log_q = F.log_softmax(logits, dim=1), F.log_softmax(fixed_logits, dim=1)
        loss = loss + F.kl_div(log_p, log_q, reduction="sum", log_target=True) / logits.numel()
        self.optim.zero_grad()
        loss.backward()
        self.optim.step()
        return {"loss": loss.item()}

    def load_model(self, directory, epoch=None):
        state_dict = torch.load(f"{directory}/VLPromptLearner/model.pth.tar-{epoch}")["state_dict"]
        self.model.load_state_dict(state_dict, strict=False)
