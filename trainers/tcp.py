"""TCP: prompts made from what the text tower says of a class.

Yao, Zhang, Xu, "TCP: Textual-based Class-aware Prompt tuning for Visual-Language Model", CVPR 2024. Beside a learned
context, four rows of each class are T(û0_c), a small network of the frozen features û0_c of the class's hand-written
prompt. They replace the rows after the start mark at the input of a deeper layer. The learned class features stay near
the frozen ones: L = CE + W (1 - mean_c ŵ_c · û0_c).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from clip.class_prompts import ClassPrompts
from clip.clip import shared_tokenizer
from clip.model import CLIP, QuickGELU
from clip.published_start import draw_clip
from dassl.config.ranges import at_least
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError
from trainers.core.facts import BASE_TO_NEW, CROSS_DATASET, PublishedRow, Recipes
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
from trainers.core.templates import method_template, template_features
from trainers.core.trainer import PromptTrainer

META_NET = "prompt_learner.meta_net"
CLASS_ROWS = 4
REDUCTION = 4


def prompt_template(dataset: str, n_ctx: int) -> str:
    """The published prompt of a data set; a context longer than the words before the name gets more placeholders."""
    template = method_template("tcp", dataset, "X X X X {}.")
    in_front = len(shared_tokenizer().encode(template.partition("{}")[0]))
    return "X " * (n_ctx - in_front) + template


class TCPPrompts(Prompts):
    """Learns `prompt_learner.ctx` [n, d] and the two linear layers of T, e -> e/4 -> 4 d."""

    def __init__(self, clip: CLIP, context: ContextPrompts, layer: int, teacher: Tensor) -> None:
        joint, width = clip.text_projection.shape[1], clip.transformer.width
        draw_clip(clip)  # the published code builds a second CLIP, for the teacher
        tensors = {CONTEXT: context.initial}
        tensors |= linear_tensors(f"{META_NET}.linear1", nn.Linear(joint, joint // REDUCTION))
        tensors |= linear_tensors(f"{META_NET}.linear2", nn.Linear(joint // REDUCTION, CLASS_ROWS * width))
        super().__init__(clip, tensors)
        device = clip.logit_scale.device
        self.context = ClassPrompts(context.tokens, context.learned, CLASS_ROWS, layer, device)
        self.activation, self.teacher = QuickGELU(), teacher
        self.image_prompts = ()

    def class_rows(self, theta: Theta) -> Tensor:
        """T(û0_c) for all classes, [C, 4, d]."""
        hidden = linear(theta, f"{META_NET}.linear1", self.teacher)
        rows = linear(theta, f"{META_NET}.linear2", self.activation(hidden))
        return rows.unflatten(-1, (CLASS_ROWS, -1))  # [C, 4, d]

    def text_features(self, theta: Theta) -> Tensor:
        return self.context.encode(self.clip, theta[CONTEXT], self.class_rows(theta))


@TRAINER_REGISTRY.register()
class TCP(PromptTrainer):
    """Textual-based class-aware prompt tuning."""

    config_node = "TCP"
    paper_date = "2023-11"
    recipes = {
        "tcp": Recipes("_ep100_ctxv1", by_dataset={name: "vit_b16_ep25_ctxv1" for name in ("imagenet", "sun397")})
    }
    published = (PublishedRow("TCP", "vit_b16_ep100_ctxv1", (BASE_TO_NEW, CROSS_DATASET)),)
    registered_name = learned_part = "prompt_learner"
    learned_names = (r"meta_net\.",)
    ranges = {"CLASS_LAYER": at_least(1)}
    defaults = dict(
        N_CTX=4,  # number of context tokens
        CTX_INIT="",  # words that the context starts from; they then set its length
        PREC="fp16",  # fp16, bf16, fp32, amp
        W=8.0,  # weight of the distance from the frozen class features
        CLASS_LAYER=8,  # text layer, counted from 0, that the class rows enter
    )

    def build_prompts(self, clip: CLIP, classnames: list[str]) -> Prompts:
        s, dataset = self.settings, self.cfg.DATASET.NAME
        layers = len(clip.transformer.resblocks)
        if not 1 <= s.CLASS_LAYER < layers:
            raise UserError(
                f"TRAINER.TCP.CLASS_LAYER is {s.CLASS_LAYER}, but the backbone's text tower has the layers 0 to "
                f"{layers - 1}: set it between 1 and {layers - 1}"
            )
        n_ctx = context_length(s.CTX_INIT, s.N_CTX)
        draw_clip(clip)
        context = ContextPrompts(clip, classnames, n_ctx, s.CTX_INIT, template=prompt_template(dataset, n_ctx))
        teacher = method_template("tcp_teacher", dataset)
        features = normalised(next(template_features(clip, classnames, [teacher])))  # û0 [C, e]
        return TCPPrompts(clip, context, s.CLASS_LAYER, features)

    def objective(self, theta: Theta, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        text, _, logits = self.encoded(theta, image)
        assert isinstance(self.prompts, TCPPrompts)
        distance = self.settings.W * (1 - (text * self.prompts.teacher).sum(dim=-1).mean())
        return self.summed(logits, label, loss_base=F.cross_entropy(logits, label), loss_text=distance)
