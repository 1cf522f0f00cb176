"""A trainer file in the manner of the PromptSRC repository: prompts inside the towers, a frozen CLIP beside them.

Written for the tests; it uses `dassl`, `clip` and the lineage's list of templates. With both weights 0 and no
aggregation it is independent vision-language prompting.
"""

import copy
import os.path as osp

import numpy as np
import torch
import torch.nn as nn
from torch.cuda.amp import GradScaler, autocast
from torch.nn import functional as F

from clip import clip
from clip.simple_tokenizer import SimpleTokenizer as _Tokenizer
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import count_num_param, load_checkpoint, load_pretrained_weights
from trainers.core.imagenet_templates import IMAGENET_TEMPLATES

_tokenizer = _Tokenizer()


def load_clip_to_cpu(cfg, zero_shot_model=False):
    url = clip._MODELS[cfg.MODEL.BACKBONE.NAME]
    model_path = clip._download(url)
    try:
        model = torch.jit.load(model_path, map_location="cpu").eval()
        state_dict = None
    except RuntimeError:
        state_dict = torch.load(model_path, map_location="cpu")
    settings = cfg.TRAINER.PROMPTSRC
    design_details = {
        "trainer": "IVLP",
        "vision_depth": 0 if zero_shot_model else settings.PROMPT_DEPTH_VISION,
        "language_depth": 0 if zero_shot_model else settings.PROMPT_DEPTH_TEXT,
        "vision_ctx": 0 if zero_shot_model else settings.N_CTX_VISION,
        "language_ctx": 0 if zero_shot_model else settings.N_CTX_TEXT,
    }
    return clip.build_model(state_dict or model.state_dict(), design_details)


class TextEncoder(nn.Module):
    def __init__(self, clip_model):
        super().__init__()
        self.transformer = clip_model.transformer
        self.positional_embedding = clip_model.positional_embedding
        self.ln_final = clip_model.ln_final
        self.text_projection = clip_model.text_projection
        self.dtype = clip_model.dtype

    def forward(self, prompts, tokenized_prompts):
        x = prompts + self.positional_embedding.type(self.dtype)
        x = x.permute(1, 0, 2)  # positions first
        x = self.transformer(x)
        x = x.permute(1, 0, 2)
        x = self.ln_final(x).type(self.dtype)
        return x[torch.arange(x.shape[0]), tokenized_prompts.argmax(dim=-1)] @ self.text_projection


class VLPromptLearner(nn.Module):
    def __init__(self, cfg, classnames, clip_model):
        super().__init__()
        settings = cfg.TRAINER.PROMPTSRC
        assert settings.PROMPT_DEPTH_TEXT >= 1, "language prompting needs a depth of 1 at least"
        n_ctx, words = settings.N_CTX_TEXT, settings.CTX_INIT
        dtype = clip_model.dtype
        assert cfg.INPUT.SIZE[0] == clip_model.visual.input_resolution
        if words and n_ctx <= 4:
            words = words.replace("_", " ")
            with torch.no_grad():
                embedding = clip_model.token_embedding(clip.tokenize(words)).type(dtype)
            ctx_vectors = embedding[0, 1 : 1 + n_ctx, :]
        else:
            ctx_vectors = torch.empty(n_ctx, clip_model.ln_final.weight.shape[0], dtype=dtype)
            nn.init.normal_(ctx_vectors, std=0.02)
            words = " ".join(["X"] * n_ctx)
        self.ctx = nn.Parameter(ctx_vectors)

        classnames = [name.replace("_", " ") for name in classnames]
        self.name_lens = [len(_tokenizer.encode(name)) for name in classnames]
        self.tokenized_prompts = torch.cat([clip.tokenize(f"{words} {name}.") for name in classnames])
        frozen = load_clip_to_cpu(cfg, zero_shot_model=True).float()
        with torch.no_grad():
            embedding = clip_model.token_embedding(self.tokenized_prompts).type(dtype)
            self.ZS_image_encoder = load_clip_to_cpu(cfg, zero_shot_model=True).float().visual
            features = []
            for template in IMAGENET_TEMPLATES[:60]:
                texts = [template.replace("{}", name) for name in classnames]
                features.append(frozen.encode_text(torch.cat([clip.tokenize(text) for text in texts])))
        self.fixed_embeddings = torch.stack(features).mean(dim=0)
        self.register_buffer("token_prefix", embedding[:, :1, :])
        self.register_buffer("token_suffix", embedding[:, 1 + n_ctx :, :])
        self.n_cls = len(classnames)

    def forward(self):
        ctx = self.ctx.unsqueeze(0).expand(self.n_cls, -1, -1)
        return torch.cat([self.token_prefix, ctx, self.token_suffix], dim=1)


class CustomCLIP(nn.Module):
    def __init__(self, cfg, classnames, clip_model):
        super().__init__()
        self.prompt_learner = VLPromptLearner(cfg, classnames, clip_model)
        self.tokenized_prompts = self.prompt_learner.tokenized_prompts
        self.image_encoder = clip_model.visual
        self.text_encoder = TextEncoder(clip_model)
        self.logit_scale = clip_model.logit_scale
        self.dtype = clip_model.dtype

    def forward(self, image, label=None):
        text_features = self.text_encoder(self.prompt_learner(), self.tokenized_prompts)
        image_features = self.image_encoder(image.type(self.dtype))
        image_features = image_features / image_features.norm(dim=-1, keepdim=True)
        text_features = text_features / text_features.norm(dim=-1, keepdim=True)
        logits = self.logit_scale.exp() * image_features @ text_features.t()
        if not self.prompt_learner.training:
            return logits
        fixed = self.prompt_learner.fixed_embeddings.to(logits.device)
        fixed = fixed / fixed.norm(dim=-1, keepdim=True)
        with torch.no_grad():
            zero_shot = self.prompt_learner.ZS_image_encoder(image.float())
            zero_shot = zero_shot / zero_shot.norm(dim=-1, keepdim=True)
        return F.cross_entropy(logits, label), text_features, fixed, image_features, zero_shot, logits


@TRAINER_REGISTRY.register()
class ForeignPromptSRC(TrainerX):
    def check_cfg(self, cfg):
        assert cfg.TRAINER.PROMPTSRC.PREC in ["fp16", "fp32", "amp"]

    def build_model(self):
        cfg = self.cfg
        clip_model = load_clip_to_cpu(cfg)
        if cfg.TRAINER.PROMPTSRC.PREC in ["fp32", "amp"]:
            clip_model.float()
        self.model = CustomCLIP(cfg, self.dm.dataset.classnames, clip_model)
        for name, param in self.model.named_parameters():
            if "ZS_image_encoder" in name:
                param.requires_grad_(False)
            elif "prompt_learner" not in name:
                param.requires_grad_("VPT" in name)  # prompts live in the towers too
        enabled = {name for name, param in self.model.named_parameters() if param.requires_grad}
        print(f"Parameters to be updated: {enabled} of {count_num_param(self.model):,} values")
        if cfg.MODEL.INIT_WEIGHTS:
            load_pretrained_weights(self.model, cfg.MODEL.INIT_WEIGHTS)
        self.model.to(self.device)
        self.optim = build_optimizer(self.model, cfg.OPTIM)
        self.sched = build_lr_scheduler(self.optim, cfg.OPTIM)
        self.register_model("VLPromptLearner", self.model, self.optim, self.sched)
        # running average of the prompts, weighed by a Gaussian over epochs
        settings, epochs = cfg.TRAINER.PROMPTSRC, np.arange(1, cfg.OPTIM.MAX_EPOCH + 1)
        weights = np.exp(-((epochs - settings.GPA_MEAN) ** 2) / (2 * settings.GPA_STD**2))
        self.epoch_weights = weights / weights.sum()
        self.average = None
        self.scaler = GradScaler() if settings.PREC == "amp" else None
        if torch.cuda.device_count() > 1:
            self.model = nn.DataParallel(self.model)

    def forward_backward(self, batch):
        image, label = self.parse_batch_train(batch)
        if self.cfg.TRAINER.PROMPTSRC.PREC == "amp":
            with autocast():
                loss = self.total_loss(image, label)
            self.optim.zero_grad()
            self.scaler.scale(loss).backward()
            self.scaler.step(self.optim)
            self.scaler.update()
        else:
            loss = self.total_loss(image, label)
            self.optim.zero_grad()
            loss.backward()
            self.optim.step()
        if (self.batch_idx + 1) == self.num_batches:
            self.update_lr()
            self.aggregate()
        return {"loss": loss.item(), "acc": compute_accuracy(self.logits, label)[0].item()}

    def total_loss(self, image, label):
        self.ce, text, fixed, image_features, zero_shot, self.logits = self.model(image, label)
        settings = self.cfg.TRAINER.PROMPTSRC
        self.loss_text = F.l1_loss(text, fixed) * settings.TEXT_LOSS_WEIGHT
        self.loss_image = F.l1_loss(image_features, zero_shot) * settings.IMAGE_LOSS_WEIGHT
        return self.ce + self.loss_text + self.loss_image

    def aggregate(self):
        if not self.cfg.TRAINER.PROMPTSRC.GPA:
            return
        weight = self.epoch_weights[self.epoch]
        state = copy.deepcopy(self.model.state_dict())
        scaled = {name: value * weight for name, value in state.items()}
        if self.average is None:
            self.average = scaled
        else:
            self.average = {name: self.average[name] + value for name, value in scaled.items()}
        if self.epoch + 1 == self.max_epoch:
            self.model.load_state_dict(self.average)

    def parse_batch_train(self, batch):
        return batch["img"].to(self.device), batch["label"].to(self.device)

    def load_model(self, directory, epoch=None):
        if not directory:
            print("Note that load_model() is skipped as no pretrained model is given")
            return
        model_file = "model-best.pth.tar" if epoch is None else "model.pth.tar-" + str(epoch)
        for name in self.get_model_names():
            model_path = osp.join(directory, name, model_file)
            if not osp.exists(model_path):
                raise FileNotFoundError(f'Model not found at "{model_path}"')
            state_dict = load_checkpoint(model_path)["state_dict"]
            for fixed in ("prompt_learner.token_prefix", "prompt_learner.token_suffix"):
                state_dict.pop(fixed, None)
            self._models[name].load_state_dict(state_dict, strict=False)
