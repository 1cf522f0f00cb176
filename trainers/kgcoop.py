"""KgCoOp: CoOp whose class features stay near those of a hand-written prompt.

Yao, Zhang, Xu, "Visual-Language Prompt Tuning with Knowledge-guided Context Optimization", CVPR 2023. With w_c, the
normalised text feature of class c under the learned context, and w0_c, that of the data set's template under the frozen
CLIP,

    loss = cross-entropy + W * (1 - mean over classes of w_c . w0_c)

The context is CoOp's, with the class name at the end. The squared distance |w_c - w0_c|^2 is twice the bracket.

Shape legend: B images, C classes, e joint embedding.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from clip.published_start import draw_clip, draw_prompt
from dassl.engine import TRAINER_REGISTRY
from trainers.coop import CoOp
from trainers.core.facts import BASE_TO_NEW, PublishedRow, Recipes
from trainers.core.prompts import Theta, start_dtype
from trainers.core.templates import method_template


@TRAINER_REGISTRY.register()
class KgCoOp(CoOp):
    """Knowledge-guided Context Optimization."""

    config_node = "KGCOOP"
    paper_date = "2023-03"
    recipes = {"kgcoop": Recipes("_ep100_ctxv1")}
    published = (PublishedRow("KgCoOp", "vit_b16_ep100_ctxv1", (BASE_TO_NEW,)),)
    unused_in_checkpoints = ("meta_net.linear1.weight", "meta_net.linear1.bias")
    defaults = dict(
        N_CTX=4,  # number of context tokens
        CTX_INIT="a photo of a",  # words that the context starts from, whose length counts; "" for noise
        CSC=False,  # class-specific context
        W=8.0,  # weight of the distance to the hand-written prompt
        PREC="fp16",  # fp16, bf16, fp32, amp
    )

    def prepare_training(self) -> None:
        super().prepare_training()
        self._draw_unused_parts()
        self.teacher_text = self.teacher_text_features([method_template("kgcoop", self.cfg.DATASET.NAME)])  # w0 [C, e]

    def _draw_unused_parts(self) -> None:
        """Take from the generator what the published code draws next: parts that it never uses, and the teacher."""
        clip = self.prompts.clip
        draw_prompt(1, 512, dtype=start_dtype(clip))
        draw_clip(clip)
        for inputs, outputs, bias in ((512, 512, True), (512, 128, False), (128, 512, False)):
            nn.Linear(inputs, outputs, bias)

    def objective(self, theta: Theta, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        text, _, logits = self.encoded(theta, image)
        distance = self.settings.W * (1 - (text * self.teacher_text).sum(dim=-1).mean())
        return self.summed(logits, label, loss_base=F.cross_entropy(logits, label), loss_text=distance)
