"""VPT: learned tokens in the image tower (Jia et al., "Visual Prompt Tuning", ECCV 2022), as used beside MaPLe.

n tokens join the patches at layer 0 and are replaced by fresh ones at each layer below the depth. Class prompts stay
the fixed words CTX_INIT.
"""

from __future__ import annotations

import torch
from torch import Tensor
from yacs.config import CfgNode

from clip.model import CLIP
from clip.published_start import PromptSizes, draw_clip
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError
from trainers.core.facts import BASE_TO_NEW, PublishedRow, Recipes
from trainers.core.prompts import Prompts, Theta, readable, visual_names, visual_prompt_sizes
from trainers.core.templates import tokenize_prompts
from trainers.core.trainer import PromptTrainer


class VPTPrompts(Prompts):
    """Learns `image_encoder.VPT` and one `VPT_shallow` per deeper layer, each [n, d]."""

    def __init__(self, clip: CLIP, classnames: list[str], words: str, sizes: PromptSizes) -> None:
        names = visual_names(sizes.depth)
        super().__init__(clip, dict(zip(names, draw_clip(clip, visual=sizes).visual, strict=True)))
        self.text_prompts, self.image_prompts = (), names
        tokens = tokenize_prompts([f"{readable(words)} {readable(name)}.".strip() for name in classnames], clip)
        with torch.no_grad():
            self._fixed_text = clip.encode_text(tokens.to(clip.logit_scale.device))

    def text_features(self, theta: Theta) -> Tensor:
        return self._fixed_text


@TRAINER_REGISTRY.register()
class VPT(PromptTrainer):
    """Visual prompt tuning; deep when PROMPT_DEPTH_VISION > 1."""

    config_node = "VPT"
    registered_name = "prompt_learner"
    learned_names = (r"(^|\.)VPT(_shallow)?$",)
    paper_date = "2022-03-23"
    recipes = {"vpt": Recipes("_c2_ep5_batch4_4")}
    published = (PublishedRow("VPT-deep (4 ctx, 5 ep)", "vit_b16_c2_ep5_batch4_4", (BASE_TO_NEW,)),)
    defaults = dict(
        N_CTX_VISION=2,  # number of visual tokens
        CTX_INIT="a photo of a",  # fixed words before the class name
        PREC="fp16",  # fp16, bf16, fp32, amp
        PROMPT_DEPTH_VISION=1,  # layers with tokens of their own
    )

    @staticmethod
    def family(clip: CLIP, classnames: list[str], settings: CfgNode, key: str) -> Prompts:
        s, depth = settings, f"{key}.PROMPT_DEPTH_VISION"
        if s.PROMPT_DEPTH_VISION == 0:
            raise UserError(f"{depth} is 0: nothing would be learned, set it to 1 or more")
        sizes = visual_prompt_sizes(clip, s.N_CTX_VISION, s.PROMPT_DEPTH_VISION, depth)
        return VPTPrompts(clip, classnames, s.CTX_INIT, sizes)
