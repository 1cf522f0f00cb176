"""CoOp: learned context words in the class prompts.

Zhou et al., "Learning to Prompt for Vision-Language Models", IJCV 2022. A prompt is
[v_1] ... [v_M] [CLASS] (eq. 2), the class name at the end, in the middle or in front; v is shared by all classes or,
with CSC, one per class. Trained with the cross-entropy of CLIP's logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from yacs.config import CfgNode

from clip.clip import as_upstream, load
from clip.model import CLIP
from clip.published_start import draw_clip
from dassl.engine import TRAINER_REGISTRY
from trainers.core.facts import BASE_TO_NEW, FEW_SHOT, TRANSFER, PublishedRow, Recipes
from trainers.core.prompts import CONTEXT, ContextPrompts, Prompts, context_length, context_words
from trainers.core.trainer import PromptTrainer


def load_clip_to_cpu(cfg: CfgNode) -> CLIP:
    """The configured backbone on the CPU, for trainer files of other repositories, which import it from here."""
    model, _ = load(cfg.MODEL.BACKBONE.NAME, device="cpu")
    return as_upstream(model)


EPOCHS_BY_SHOTS = {1: "_ep50", 2: "_ep100", 4: "_ep100", 8: "", 16: ""}
"""Config files of few-shot classification: 50, 100 or 200 epochs (CoOp, section 4.1)."""


class CoOpPrompts(Prompts):
    """Learns `prompt_learner.ctx` [n, d], or [C, n, d] when class-specific."""

    def __init__(self, clip: CLIP, context: ContextPrompts) -> None:
        super().__init__(clip, {CONTEXT: context.initial})
        self.context, self.class_specific = context, context.class_specific
        # rows that belong to one class each are not a prompt of the whole tower
        self.text_prompts, self.image_prompts = None if self.class_specific else [CONTEXT], ()


@TRAINER_REGISTRY.register()
class CoOp(PromptTrainer):
    """Context Optimization."""

    config_node = "COOP"
    registered_name = learned_part = "prompt_learner"
    learned_names = (r"(^|\.)ctx$",)
    paper_date = "2021-09"
    recipes = {"coop": Recipes("_ep50_ctxv1", few_shot_by_shots=EPOCHS_BY_SHOTS)}
    published = (
        PublishedRow("CoOp", "vit_b16_ep50_ctxv1", (BASE_TO_NEW, *TRANSFER)),
        PublishedRow("CoOp", "vit_b16_ctxv1", (BASE_TO_NEW,)),
        PublishedRow("CoOp", "vit_b16_epochs_by_shots", (FEW_SHOT,)),
    )
    defaults = dict(
        N_CTX=16,  # number of context tokens
        CSC=False,  # class-specific context
        CTX_INIT="",  # words that the context starts from; they then set its length
        PREC="fp16",  # fp16, bf16, fp32, amp
        CLASS_TOKEN_POSITION="end",  # end, middle or front
    )

    def build_prompts(self, clip: CLIP, classnames: list[str]) -> Prompts:
        s = self.settings
        n_ctx = context_length(s.CTX_INIT, s.N_CTX)
        draw_clip(clip)
        context = ContextPrompts(clip, classnames, n_ctx, s.CTX_INIT, s.get("CLASS_TOKEN_POSITION", "end"), s.CSC)
        return CoOpPrompts(clip, context)

    @staticmethod
    def script_subfolder(nodes: Mapping[str, Mapping[str, Any]]) -> str:
        """Folder below the config's that CoOp's scripts use; `nodes` are those under TRAINER."""
        coop = nodes["COOP"]
        return f"nctx{coop['N_CTX']}_csc{coop['CSC']}_ctp{coop['CLASS_TOKEN_POSITION']}"

    @staticmethod
    def family(clip: CLIP, classnames: list[str], settings: CfgNode, key: str) -> Prompts:
        s = settings
        draw_clip(clip)
        context = ContextPrompts(clip, classnames, s.N_CTX_TEXT, context_words(s.CTX_INIT, s.N_CTX_TEXT))
        return CoOpPrompts(clip, context)
