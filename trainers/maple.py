"""MaPLe: visual prompts that are projections of the text prompts.

Khattak et al., "MaPLe: Multi-modal Prompt Learning", CVPR 2023. Per layer below the depth, text tokens
P_l are learned and F_l(P_l), a linear map, are the visual tokens (eq. 7).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from yacs.config import CfgNode

from clip.model import CLIP
from clip.published_start import draw_clip, draw_prompt
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError
from trainers.core.facts import BASE_TO_NEW, FEW_SHOT, TRANSFER, PublishedRow, Recipes
from trainers.core.prompts import (
    CONTEXT,
    ContextPrompts,
    Prompts,
    Theta,
    check_text_depth,
    check_vision_depth,
    context_words,
    linear,
    linear_tensors,
    vit_of,
)
from trainers.core.trainer import PromptTrainer

LAYERS = "prompt_learner.compound_prompts_text"
PROJECTIONS = "prompt_learner.compound_prompt_projections"


class MaPLePrompts(Prompts):
    """Learns the context and one text prompt per deeper layer, [n, d_text], and a projection for each.

    Args:
        n_ctx: n, number of tokens in each tower.
        ctx_init: words that a context of up to 4 tokens starts from.
        depth: number of layers with tokens of their own.
        key: of the depth in the config, for error messages.
    """

    def __init__(self, clip: CLIP, classnames: list[str], n_ctx: int, ctx_init: str, depth: int, key: str) -> None:
        check_text_depth(clip, depth, key)
        check_vision_depth(clip, depth, key)
        vision_width = vit_of(clip, "MaPLe").transformer.width
        draw_clip(clip)
        context = ContextPrompts(clip, classnames, n_ctx, context_words(ctx_init, n_ctx))
        text_width = clip.transformer.width
        deep = range(depth - 1)

        tensors = {CONTEXT: context.initial}
        tensors |= linear_tensors("prompt_learner.proj", nn.Linear(text_width, vision_width))
        tensors |= {f"{LAYERS}.{i}": draw_prompt(n_ctx, text_width) for i in deep}
        common = nn.Linear(text_width, vision_width)  # every deeper projection starts from the same values
        for i in deep:
            tensors |= linear_tensors(f"{PROJECTIONS}.{i}", common)
        super().__init__(clip, tensors)
        self.context, self.deep_names = context, [f"{LAYERS}.{i}" for i in deep]
        self.text_prompts = [CONTEXT, *self.deep_names]

    def visual_prompts(self, theta: Theta) -> Sequence[Tensor]:
        pairs = [("prompt_learner.proj", CONTEXT)] + [
            (f"{PROJECTIONS}.{i}", name) for i, name in enumerate(self.deep_names)
        ]
        return [linear(theta, name, theta[text]) for name, text in pairs]


@TRAINER_REGISTRY.register()
class MaPLe(PromptTrainer):
    """Multi-modal prompt learning."""

    config_node = "MAPLE"
    registered_name = "MultiModalPromptLearner"
    learned_names = ("compound_prompt", r"^(prompt_learner\.)?proj\.")
    paper_date = "2022-10-06"
    recipes = {"maple": Recipes("_c2_ep5_batch4_2ctx", cross_dataset="_c2_ep5_batch4_2ctx_cross_datasets")}
    published = (
        PublishedRow("MaPLe", "vit_b16_c2_ep5_batch4_2ctx", (BASE_TO_NEW, FEW_SHOT)),
        PublishedRow("MaPLe", "vit_b16_c2_ep5_batch4_2ctx_cross_datasets", TRANSFER),
    )
    defaults = dict(
        N_CTX=2,  # number of tokens in each tower
        CTX_INIT="a photo of a",  # words that the context starts from (up to 4 tokens)
        PREC="fp16",  # fp16, bf16, fp32, amp
        PROMPT_DEPTH=9,  # layers with tokens of their own
    )

    def build_prompts(self, clip: CLIP, classnames: list[str]) -> Prompts:
        s = self.settings
        return MaPLePrompts(clip, classnames, s.N_CTX, s.CTX_INIT, s.PROMPT_DEPTH, "TRAINER.MAPLE.PROMPT_DEPTH")

    @staticmethod
    def family(clip: CLIP, classnames: list[str], settings: CfgNode, key: str) -> Prompts:
        s = settings
        for name in ("N_CTX", "PROMPT_DEPTH"):
            text, vision = s[f"{name}_TEXT"], s[f"{name}_VISION"]
            if text != vision:
                raise UserError(
                    f"{key}.{name}_TEXT is {text} and {name}_VISION {vision}: MaPLe's visual tokens are projections of "
                    "its text tokens, set both to the same number"
                )
        return MaPLePrompts(clip, classnames, s.N_CTX_TEXT, s.CTX_INIT, s.PROMPT_DEPTH_TEXT, f"{key}.PROMPT_DEPTH_TEXT")
