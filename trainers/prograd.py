"""ProGrad: CoOp that steps only where the frozen CLIP does not object.

Zhu et al., "Prompt-aligned Gradient for Prompt Tuning", ICCV 2023. With z the logits of the learned prompts, z0 those
of the data set's template under the frozen CLIP, both of the same image features,

    xe = cross-entropy of z,    kl = - T^2 * mean over images of sum_c softmax(z0 / T)_c log softmax(z / T)_c

a = d xe / d context and b = d kl / d context, the context is updated along

    g = a - LAMBDA (a . b^) b^   with b^ = b / |b|,   if a . b < 0;   g = a otherwise

Both gradients are pulled through the text tower together, after one forward pass.

Shape legend: B images, C classes, n context tokens, d text width, e joint embedding.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.model import CLIP
from clip.published_start import draw_clip, draw_prompt
from dassl.config.ranges import POSITIVE, at_least
from dassl.engine import TRAINER_REGISTRY
from dassl.metrics import compute_accuracy
from dassl.utils import UserError
from trainers.coop import EPOCHS_BY_SHOTS, CoOp, CoOpPrompts
from trainers.core.facts import BASE_TO_NEW, PublishedRow, Recipes
from trainers.core.gradients import Gradients
from trainers.core.prompts import ContextPrompts, Prompts, Theta, normalised, start_dtype
from trainers.core.templates import method_template

TEMPLATE = "template"
"""As CTX_INIT: the words of the data set's template."""


@TRAINER_REGISTRY.register()
class ProGrad(CoOp):
    """Prompt-aligned Gradient."""

    config_node = "PROGRAD"
    paper_date = "2022-05"
    recipes = {
        "prograd": Recipes(
            "_ep100",
            cross_dataset="_ep50",
            few_shot_by_shots=EPOCHS_BY_SHOTS,
            few_shot_by_dataset=dict.fromkeys(
                ("oxford_flowers", "dtd", "eurosat"), dict.fromkeys((8, 16), "vit_b16_lambda08")
            ),
            by_dataset={"imagenet": "vit_b16_ep50"},
        )
    }
    published = (PublishedRow("ProGrad (as listed by KgCoOp)", "vit_b16_ep100", (BASE_TO_NEW,)),)
    choices = {"CTX_FILL": ("zeros", "noise")}
    ranges = {"LAMBDA": at_least(0), "T": POSITIVE}
    defaults = dict(
        N_CTX=16,  # number of context tokens
        CTX_INIT=TEMPLATE,  # "template": the last ones start from its words; other words; "" for noise
        CTX_FILL="zeros",  # start of the tokens before those words: zeros (as published) or noise
        CSC=False,  # class-specific context
        CLASS_TOKEN_POSITION="end",  # end, middle or front
        T=1.0,  # temperature of kl
        LAMBDA=1.0,  # share of the opposing part that is taken out of the gradient
        PREC="fp16",  # fp16, bf16, fp32, amp
    )

    @property
    def template(self) -> str:
        """The published template of the data set."""
        return method_template("prograd", self.cfg.DATASET.NAME)

    def build_prompts(self, clip: CLIP, classnames: list[str]) -> Prompts:
        s = self.settings
        for _ in ("prompted", "teacher"):  # the published code builds both before it draws the context
            draw_clip(clip)
        words = self.template.removesuffix(" {}.") if s.CTX_INIT == TEMPLATE else s.CTX_INIT
        fill = s.N_CTX - len(words.split())
        if words and fill < 0:
            raise UserError(
                f"TRAINER.PROGRAD.N_CTX is {s.N_CTX}, but the context starts from the {len(words.split())} words "
                f'{words!r}: use a larger N_CTX, or CTX_INIT ""'
            )
        text = " ".join(["X"] * fill + [words]) if words else ""
        context = ContextPrompts(clip, classnames, s.N_CTX, text, s.CLASS_TOKEN_POSITION, s.CSC)
        if words:
            context.initial = context.initial.clone()
            before = context.initial[..., :fill, :]  # the rows in front of the words
            before[:] = draw_prompt(*before.shape, dtype=start_dtype(clip)) if s.CTX_FILL == "noise" else 0.0
        return CoOpPrompts(clip, context)

    def prepare_training(self) -> None:
        super().prepare_training()
        self.teacher_text = self.teacher_text_features([self.template])  # w0 [C, e]

    def gradients_of(self, theta: Theta, scale: Tensor | None, *inputs: Tensor) -> tuple[Gradients, dict[str, Tensor]]:
        """As the base class's, with the part that opposes the frozen CLIP taken out."""
        image, label = inputs
        of_xe, of_kl, reported = self.both_gradients(theta, image, label, scale)
        (name,) = theta  # the context is the only learned tensor
        a, b = of_xe[name], of_kl[name]
        cosine = F.cosine_similarity(a.flatten(), b.flatten(), dim=0)
        return {name: without_opposition(a, b, self.settings.LAMBDA)}, reported | {"cos": cosine}

    def both_gradients(
        self, theta: Theta, image: Tensor, label: Tensor, scale: Tensor | None = None
    ) -> tuple[Gradients, Gradients, dict[str, Tensor]]:
        """Gradients of xe and of kl, times `scale` (None: 1), and what is reported of both."""

        def losses_of(text: Tensor, image: Tensor) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
            image, t = normalised(image), self.settings.T
            logits = self.similarity(image, normalised(text))  # [B, C]
            teacher = self.similarity(image, self.teacher_text)  # z0 [B, C]
            xe = F.cross_entropy(logits, label)
            kl = t**2 * F.cross_entropy(logits / t, (teacher / t).softmax(dim=-1))
            return (xe, kl), (xe, kl, logits)

        (of_xe, of_kl), (xe, kl, logits) = self.linearised(theta, image).gradients(losses_of, scale)
        return of_xe, of_kl, {"xe_loss": xe, "kl_loss": kl, "acc": compute_accuracy(logits, label)[0]}


def without_opposition(a: Tensor, b: Tensor, strength: float) -> Tensor:
    """The gradient a, less `strength` times its component along b where that points against b.

    A gradient b of zero opposes nothing. One that is not finite gives a result that is not: the update is skipped.
    """
    unit = b / b.norm()
    opposes_nothing = ((a * b).sum() >= 0) & b.isfinite().all()
    return torch.where(opposes_nothing, a, a - strength * (a * unit).sum() * unit)
