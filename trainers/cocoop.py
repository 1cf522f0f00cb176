"""CoCoOp: a context that depends on the image.

Zhou et al., "Conditional Prompt Learning for Vision-Language Models", CVPR 2022. v_m(x) = v_m + h(f(x)) with
h = Linear(e, e/16)-ReLU-Linear(e/16, d) on the normalised image features (eq. 3): one prompt set per image.
All images of a batch are encoded in one pass; each image's context is computed once for all classes.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clip.model import CLIP
from clip.published_start import draw_clip
from clip.recompute import recomputed
from dassl.engine import TRAINER_REGISTRY
from trainers.core.facts import ALL_SETTINGS, PublishedRow, Recipes
from trainers.core.prompts import (
    CONTEXT,
    ContextPrompts,
    Prompts,
    Theta,
    context_length,
    linear,
    linear_tensors,
    normalised,
)
from trainers.core.trainer import PromptTrainer

META_NET = "prompt_learner.meta_net"
REDUCTION = 16
ROWS_AT_ONCE = 1 << 16
"""Bound on the text rows that are encoded at a time (images x packed rows)."""


class CoCoOpPrompts(Prompts):
    """Learns `prompt_learner.ctx` [n, d] and the meta net's two linear layers."""

    text_depends_on_image = True

    def __init__(self, clip: CLIP, context: ContextPrompts) -> None:
        joint, width = clip.text_projection.shape[1], clip.transformer.width
        tensors = {CONTEXT: context.initial}
        tensors |= linear_tensors(f"{META_NET}.linear1", nn.Linear(joint, joint // REDUCTION))
        tensors |= linear_tensors(f"{META_NET}.linear2", nn.Linear(joint // REDUCTION, width))
        super().__init__(clip, tensors)
        self.context = context

    def logits(self, theta: Theta, images: Tensor, text: Tensor | None = None) -> Tensor:
        features = normalised(self.image_features(theta, images))  # [B, e]
        contexts = self.conditioned_context(theta, features)  # [B, n, d]
        chunk = max(1, ROWS_AT_ONCE // len(self.context.packed.suffix))
        if len(images) <= chunk:
            return self._similarity_per_image(features, contexts)
        parts = [  # the rows of a chunk are freed at once, and computed again in the backward pass
            recomputed(lambda *inputs: (self._similarity_per_image(*inputs),), *part)[0]
            for part in zip(features.split(chunk), contexts.split(chunk), strict=True)
        ]
        return torch.cat(parts)

    def _similarity_per_image(self, features: Tensor, contexts: Tensor) -> Tensor:
        """Logits [B, C] of normalised image features [B, e], each with its own context [n, d] of contexts [B, n, d]"""
        text = normalised(self.context.encode(self.clip, contexts))  # [B, C, e]
        return self.clip.logit_scale.exp() * torch.einsum("be,bce->bc", features, text)

    def conditioned_context(self, theta: Theta, features: Tensor) -> Tensor:
        """Normalised image features [B, e] -> one context per image [B, n, d] (eq. 3)"""
        hidden = linear(theta, f"{META_NET}.linear1", features).relu()
        shift = linear(theta, f"{META_NET}.linear2", hidden)  # [B, d]
        return theta[CONTEXT] + shift[:, None]


@TRAINER_REGISTRY.register()
class CoCoOp(PromptTrainer):
    """Conditional Context Optimization."""

    config_node = "COCOOP"
    learned_names = (r"meta_net\.",)
    registered_name = learned_part = "prompt_learner"
    paper_date = "2022-03-10"
    recipes = {"cocoop": Recipes("_c4_ep10_batch1_ctxv1")}
    published = (PublishedRow("CoCoOp", "vit_b16_c4_ep10_batch1_ctxv1", ALL_SETTINGS),)
    defaults = dict(
        N_CTX=16,  # number of context tokens
        CTX_INIT="",  # words that the context starts from; they then set its length
        PREC="fp16",  # fp16, bf16, fp32, amp
    )

    def build_prompts(self, clip: CLIP, classnames: list[str]) -> Prompts:
        s = self.settings
        n_ctx = context_length(s.CTX_INIT, s.N_CTX)
        draw_clip(clip)
        return CoCoOpPrompts(clip, ContextPrompts(clip, classnames, n_ctx, s.CTX_INIT))
