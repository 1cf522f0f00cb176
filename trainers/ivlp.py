"""IVLP: independent vision-language prompting, deep prompts in both towers (the baseline of Khattak et al., CVPR 2023).

Image side as VPT. Text side: the first n context rows are learned, and replaced by fresh learned rows at the input of
each layer below the depth.
"""

from __future__ import annotations

from yacs.config import CfgNode

from clip.model import CLIP
from clip.published_start import PromptSizes, draw_clip
from dassl.engine import TRAINER_REGISTRY
from trainers.core.facts import BASE_TO_NEW, PublishedRow, Recipes
from trainers.core.prompts import (
    CONTEXT,
    ContextPrompts,
    Prompts,
    check_text_depth,
    context_words,
    deep_text_names,
    visual_names,
    visual_prompt_sizes,
)
from trainers.core.trainer import PromptTrainer


class IVLPPrompts(Prompts):
    """Learns the context, a text prompt per deeper text layer, and the visual prompts; [n, d] each.

    Args:
        settings: node with N_CTX_TEXT, PROMPT_DEPTH_TEXT, N_CTX_VISION, PROMPT_DEPTH_VISION and CTX_INIT.
        key: where that node stands in the config, for error messages.
    """

    def __init__(self, clip: CLIP, classnames: list[str], settings: CfgNode, key: str) -> None:
        n_text, text_depth, vision_depth = settings.N_CTX_TEXT, settings.PROMPT_DEPTH_TEXT, settings.PROMPT_DEPTH_VISION
        check_text_depth(clip, text_depth, f"{key}.PROMPT_DEPTH_TEXT")
        sizes = visual_prompt_sizes(clip, settings.N_CTX_VISION, vision_depth, f"{key}.PROMPT_DEPTH_VISION")
        drawn = draw_clip(clip, visual=sizes, text=PromptSizes(n_text, text_depth))
        context = ContextPrompts(clip, classnames, n_text, context_words(settings.CTX_INIT, n_text))
        deep_names = deep_text_names(text_depth)
        deep = dict(zip(deep_names, drawn.text, strict=True))
        visual = dict(zip(visual_names(vision_depth), drawn.visual, strict=True))
        super().__init__(clip, {CONTEXT: context.initial} | visual | deep)
        self.context, self.deep_names = context, deep_names
        self.text_prompts, self.image_prompts = [CONTEXT, *deep_names], visual_names(vision_depth)


@TRAINER_REGISTRY.register()
class IVLP(PromptTrainer):
    """Independent vision-language prompting."""

    config_node = "IVLP"
    registered_name = "VLPromptLearner"
    paper_date = "2022-10-06"  # a baseline of MaPLe's paper
    recipes = {
        "ivlp": Recipes(
            "_c2_ep20_batch4_4+4ctx",
            cross_dataset="_c2_ep20_batch4_4+4ctx_cross_datasets",
            few_shot="_c2_ep50_batch4_4+4ctx_few_shot",
        )
    }
    published = tuple(
        PublishedRow(method, config, (BASE_TO_NEW,))
        for method, config in (
            ("DeepLanguagePrompting (4 ctx, 5 ep)", "vit_b16_c2_ep5_batch4_4ctx_language_only"),
            ("IVLP (2+2 ctx, 5 ep, MaPLe repo)", "vit_b16_c2_ep5_batch4_2+2ctx"),
            ("IVLP", "vit_b16_c2_ep20_batch4_4+4ctx"),
            ("IVLP (as rerun baseline in Promise summary; ProMetaR-style)", "vit_b16_c2_ep20_batch4_4+4ctx"),
        )
    )
    defaults = dict(
        N_CTX_VISION=2,  # number of visual tokens
        N_CTX_TEXT=2,  # number of context tokens
        CTX_INIT="a photo of a",  # words that the context starts from (up to 4 tokens)
        PREC="fp16",  # fp16, bf16, fp32, amp
        PROMPT_DEPTH_VISION=9,  # layers with visual tokens of their own, 0 for none
        PROMPT_DEPTH_TEXT=9,  # layers with text tokens of their own, 1 for the context alone
    )

    @staticmethod
    def family(clip: CLIP, classnames: list[str], settings: CfgNode, key: str) -> Prompts:
        return IVLPPrompts(clip, classnames, settings, key)
