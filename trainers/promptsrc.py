"""PromptSRC: IVLP's prompts, regularised by the frozen CLIP and averaged over the epochs.

Khattak et al., "Self-regulating Prompts: Foundational Model Adaptation without Forgetting", ICCV 2023. With w_c and
f(x), the normalised features of the prompted CLIP, z its logits, and w0_c, f0(x), z0 those of the frozen one,

    loss = cross-entropy of z + TEXT_LOSS_WEIGHT mean|w - w0| + IMAGE_LOSS_WEIGHT mean|f - f0| + KL(p0 || p)

p = softmax(z), p0 = softmax(z0); w0 is the mean over 60 templates. After the last epoch N, the prompts are replaced by
their mean over the ends of all epochs e, with weights proportional to exp(-(e - GPA_MEAN)^2 / (2 GPA_STD^2)).

Shape legend: B images, C classes, e joint embedding.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.published_start import draw_clip
from dassl.config.ranges import FINITE, POSITIVE
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import MismatchError
from trainers.core.divergence import REDUCTIONS, divergence
from trainers.core.facts import BASE_TO_NEW, FEW_SHOT, TRANSFER, PublishedRow, Recipes
from trainers.core.prompts import Theta
from trainers.core.trainer import PromptTrainer
from trainers.ivlp import IVLP

AGGREGATION = "gaussian_aggregation"
"""Key of the training state: the mean so far, and after the last epoch the prompts that it replaced."""
NO_MEAN = "does not have PromptSRC's mean of the prompts of all epochs before"


@TRAINER_REGISTRY.register()
class PromptSRC(PromptTrainer):
    """Prompting with self-regulating constraints."""

    config_node = "PROMPTSRC"
    registered_name = "VLPromptLearner"
    paper_date = "2023-07"
    recipes = {
        "promptsrc": Recipes(
            "_c2_ep20_batch4_4+4ctx",
            cross_dataset="_c2_ep20_batch4_4+4ctx_cross_datasets",
            few_shot="_c2_ep50_batch4_4+4ctx_few_shot",
            few_shot_by_dataset=dict.fromkeys(
                ("stanford_cars", "oxford_flowers", "fgvc_aircraft", "dtd", "eurosat"),
                "vit_b16_c2_ep50_batch4_4+4ctx_few_shot_gpa45",
            ),
        )
    }
    published = (
        PublishedRow("PromptSRC", "vit_b16_c2_ep20_batch4_4+4ctx", (BASE_TO_NEW,)),
        PublishedRow("PromptSRC", "vit_b16_c2_ep20_batch4_4+4ctx_cross_datasets", TRANSFER),
        PublishedRow("PromptSRC", "vit_b16_c2_ep50_batch4_4+4ctx_few_shot", (FEW_SHOT,)),
    )
    ranges = {"GPA_MEAN": FINITE, "GPA_STD": POSITIVE}
    choices = {"KL_REDUCTION": REDUCTIONS}
    family = staticmethod(IVLP.family)
    defaults = dict(
        N_CTX_VISION=4,  # number of visual tokens
        N_CTX_TEXT=4,  # number of context tokens
        CTX_INIT="a photo of a",  # words that the context starts from (up to 4 tokens)
        PREC="fp16",  # fp16, bf16, fp32, amp
        PROMPT_DEPTH_VISION=9,  # layers with visual tokens of their own, 0 for none
        PROMPT_DEPTH_TEXT=9,  # layers with text tokens of their own, 1 for the context alone
        TEXT_LOSS_WEIGHT=25.0,  # weight of the distance between class features
        IMAGE_LOSS_WEIGHT=10.0,  # weight of the distance between image features
        KL_REDUCTION="mean",  # KL divided by images and classes (mean, as published), or by images (batchmean)
        GPA_MEAN=15.0,  # epoch with the largest weight in the final mean of the prompts
        GPA_STD=1.0,  # width of the weights around it, in epochs
    )

    def prepare_training(self) -> None:
        super().prepare_training()
        for _ in ("text teacher", "image teacher"):  # the published code builds a CLIP for each
            draw_clip(self.prompts.clip)
        self.teacher_text = self.teacher_text_features()  # w0 [C, e]
        self.mean_prompts: dict[str, Tensor] = {}
        self.replaced_prompts: dict[str, Tensor] = {}

    def objective(self, theta: Theta, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        teacher = self.teacher_image_features(image)  # f0 [B, e]
        text, features, logits = self.encoded(theta, image)
        teacher_logits = self.similarity(teacher, self.teacher_text)  # [B, C]
        return self.summed(
            logits,
            label,
            loss_base=F.cross_entropy(logits, label),
            loss_text=self.settings.TEXT_LOSS_WEIGHT * (text - self.teacher_text).abs().mean(),
            loss_image=self.settings.IMAGE_LOSS_WEIGHT * (features - teacher).abs().mean(),
            loss_logits=divergence(teacher_logits, logits, self.settings.KL_REDUCTION),
        )

    def forward_backward(self, batch: dict) -> dict[str, float]:
        numbers = super().forward_backward(batch)
        if self.batch_idx + 1 == self.num_batches:
            self.aggregate_prompts()
        return numbers

    @torch.no_grad()
    def aggregate_prompts(self) -> None:
        """Take the prompts at the end of an epoch into their mean; at the end of the last, replace them by it.

        The mean M_e of the first e epochs is kept, M_e = M_(e-1) + g_e / (g_1 + ... + g_e) (theta_e - M_(e-1)). It does
        not depend on the number of epochs that follow, so a run can be extended.
        """
        share = self.epoch_weights(self.epoch + 1)[-1].item()
        for name, own in self.theta().items():
            before = self.mean_prompts.get(name, torch.zeros_like(own))
            self.mean_prompts[name] = before + share * (own - before)
        if self.epoch + 1 == self.max_epoch:
            self.replaced_prompts = {name: own.clone() for name, own in self.theta().items()}
            self._set_prompts(self.mean_prompts)

    def epoch_weights(self, epochs: int) -> Tensor:
        """Weights [epochs] of the first epochs in their mean, float64; their sum is 1."""
        distance = (torch.arange(1, epochs + 1, dtype=torch.float64) - self.settings.GPA_MEAN) / self.settings.GPA_STD
        return (-(distance**2) / 2).softmax(dim=0)  # of the exponents, so that not all weights can underflow

    def _set_prompts(self, values: Theta) -> None:
        for name, own in self.theta().items():
            own.copy_(values[name].to(own).view_as(own))

    def training_state(self) -> dict[str, Any]:
        return super().training_state() | {AGGREGATION: {"mean": self.mean_prompts, "replaced": self.replaced_prompts}}

    def load_training_state(self, state: dict[str, Any]) -> None:
        """As the base class's; a finished run that is extended continues from the prompts that the mean replaced."""
        super().load_training_state(state)
        mean, replaced = state[AGGREGATION]["mean"], state[AGGREGATION]["replaced"]  # {} within the first epoch
        self.mean_prompts = {name: mean[name].to(own).view_as(own) for name, own in self.theta().items() if mean}
        if replaced and self.start_epoch < self.max_epoch:
            self._set_prompts(replaced)

    def before_train(self) -> None:
        super().before_train()
        if 0 < self.start_epoch < self.max_epoch and self._resumed_state is None:
            raise MismatchError(f"the checkpoint to resume from {NO_MEAN}: start a new run with MODEL.INIT_WEIGHTS")
