"""ProMetaR: prompt learning via meta-regularization (Park, Ko, Kim, CVPR 2024).

Prompts theta are trained with two updates a batch, both by the same optimiser:

A. *Base step.* theta <- SGD(theta, g + gamma * r) on the whole batch, where g is the gradient of the cross-entropy L, r
   that of the regularisers R that keep the prompted features near those of the unprompted CLIP, and
   gamma = M_phi(g, r) in (0, 1) weighs r entry by entry (the gradient modulator).
B. *Meta step.* One class of the batch is the query, the others the support. Adapt on the support,
   theta' = theta - a (g + gamma * r), and step theta and phi down the gradient of the query's loss at theta', whose
   features are mixed with support features (task augmentation). The gradient passes through the adaptation.

| symbol | here | |
| --- | --- | --- |
| theta, theta' | `theta`, `adapted` | learned tensors by name, [n, d] each; the same after the inner update |
| M, phi | `GradientModulator`, `phi` | the network (`trainers.core.modulator`); its weights by name |
| L; R | `Losses` | cross-entropy; weighted distances from the teacher's features (and logits), summed |
| g, r, gamma | `g`, `r`, `gamma` | dL/dtheta, dR/dtheta, M_phi(g, r); shapes of theta |
| w0, f0 | `teacher_text`, `Batch.teacher` | normalised features of the unprompted CLIP, [C, e] and [B, e] |
| a | `ADAPT_LR` | rate of the inner update |

All that the scheme knows of the tensors that it trains is their names, and which of them belong to the image tower.

Shapes: B images of a batch, q of the query, s of the support, C classes, n prompt tokens, d width, e joint embedding.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call
from yacs.config import CfgNode

from clip.model import CLIP
from clip.published_start import draw_clip
from dassl.config import get_cfg_default
from dassl.config.ranges import at_least
from dassl.engine import TRAINER_REGISTRY
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from trainers.core.divergence import divergence
from trainers.core.facts import BASE_TO_NEW, TRANSFER, PublishedRow, Recipes
from trainers.core.families import build_family
from trainers.core.gradients import Gradients, add, descend, multiply, vjp_with_aux
from trainers.core.meta_monitor import MetaMonitor
from trainers.core.modulator import GradientModulator
from trainers.core.prompts import Prompts, Theta, normalised
from trainers.core.ranges import IN_FLOAT32
from trainers.core.tasks import Batch, Task, sample_task
from trainers.core.trainer import PromptTrainer

MODULATOR = "GradientModulator"
REGULARIZERS = ("l1", "promptsrc")


class MetaRegularization(PromptTrainer):
    """The two updates of a batch, and the scheme behind them. `ProMetaR` below builds what they work on."""

    teacher_text: Tensor
    modulator: GradientModulator
    modulator_optim: torch.optim.Optimizer
    monitor: MetaMonitor

    def forward_backward(self, batch: dict) -> dict[str, float]:
        images, labels = self.parse_batch_train(batch)
        # A. base step
        update, teacher, reported = self.captured(self.base_step, (self.theta(), self.phi()), images, labels)
        descend(self.optim, self.prompts, update)
        # B. meta step, from theta as A has left it; a batch of one class skips it and reports a loss of 0, as published
        task = sample_task(batch["label"].cpu(), self.settings.MIXUP_ALPHA, self.settings.MIXUP_BETA)
        if task is None:
            numbers = self.finite_numbers({"loss": torch.zeros_like(reported["loss_base"])} | reported)
        else:
            whole, task = Batch(images, labels, teacher), task.to(self.device)
            loss, on_theta, on_phi, inner = self.captured(self.meta_step, (self.theta(), self.phi()), whole, task)
            numbers = self.finite_numbers({"loss": loss} | reported)
            if self.monitor.due(self.batch_idx):
                self.monitor.record(*inner, outer=on_theta)
            descend(self.optim, self.prompts, on_theta)
            descend(self.modulator_optim, self.modulator, on_phi)
        if self.batch_idx + 1 == self.num_batches:
            self.update_lr(None if self.cfg.OPTIM_VNET.STEP_LR else self.registered_name)
        return numbers

    def base_step(
        self, theta: Theta, phi: Theta, images: Tensor, labels: Tensor
    ) -> tuple[Gradients, Tensor, dict[str, Tensor]]:
        """What step A computes: g + gamma r, f0 [B, e], and losses and accuracy by the names that are logged."""
        teacher = self.teacher_image_features(images)
        g, r, losses = self.gradients(theta, Batch(images, labels, teacher))
        reported = {"loss_base": losses.base, "loss_text": losses.text, "loss_image": losses.image}
        if self.settings.REGULARIZER == "promptsrc":
            reported["loss_logits"] = losses.divergence
        reported["acc"] = compute_accuracy(losses.logits, labels)[0]
        return modulated(g, self.gamma(phi, g, r), r), teacher, reported

    def meta_step(
        self, theta: Theta, phi: Theta, batch: Batch, task: Task
    ) -> tuple[Tensor, Gradients, Gradients, Inner]:
        """What step B computes: `outer_gradient`, times LR_RATIO."""
        loss, on_theta, on_phi, inner = self.outer_gradient(theta, phi, batch, task)
        lowered, ratio = self.precision.lowered, self.settings.LR_RATIO
        return ratio * loss, lowered(on_theta, ratio), lowered(on_phi, ratio), inner

    # --- the scheme: pure functions, in the order of the equations ---------------------------------------------------

    def losses(self, text: Tensor, image: Tensor, batch: Batch) -> tuple[tuple[Tensor, Tensor], Losses]:
        """L and R of features text [C, e] and image [B, e] that are not normalised, and their parts."""
        text, image = normalised(text), normalised(image)
        logits = self.similarity(image, text)  # [B, C]
        base = F.cross_entropy(logits, batch.labels)
        text_loss = self.settings.TEXT_LOSS_WEIGHT * (text - self.teacher_text).abs().mean()
        image_loss = self.settings.IMAGE_LOSS_WEIGHT * (image - batch.teacher).abs().mean()
        logit_loss = self.divergence(logits, batch)
        # one R serves all tensors: R_txt has no gradient for those of the image tower, and R_img none for those of text
        return (base, text_loss + image_loss + logit_loss), Losses(base, text_loss, image_loss, logit_loss, logits)

    def divergence(self, logits: Tensor, batch: Batch) -> Tensor:
        """KL(p0 || p) of the unprompted CLIP's logits [B, C] and these, divided by B C; 0 where R is without it."""
        if self.settings.REGULARIZER != "promptsrc":
            return logits.new_zeros(())
        return divergence(self.similarity(batch.teacher, self.teacher_text), logits, "mean")

    def gradients(self, theta: Theta, batch: Batch) -> tuple[Gradients, Gradients, Losses]:
        """g = dL/dtheta and r = dR/dtheta, and the losses."""
        # L and R are differentiated by the features; then both are pulled back to theta by one pass through each tower
        (g, r), losses = self.linearised(theta, batch.images).gradients(partial(self.losses, batch=batch))
        return g, r, losses

    def gamma(self, phi: Theta, g: Gradients, r: Gradients) -> Gradients:
        """gamma = M_phi(g, r)"""
        return functional_call(self.modulator, dict(phi), (g, r))

    def adapted(self, theta: Theta, phi: Theta, g: Gradients, r: Gradients) -> tuple[Gradients, Inner]:
        """theta' = theta - a (g + gamma r), and what it is made of."""
        gamma, rate = self.gamma(phi, g, r), self.settings.ADAPT_LR
        update = modulated(g, gamma, r)
        return add(theta, update, -rate), Inner(g, r, gamma, update)

    def query_loss(self, text: Tensor, image: Tensor, labels: Tensor, task: Task) -> Tensor:
        """Cross-entropy of the query's images, mixed with those of the support, with both labels.

        Args:
            text: features [C, e], not normalised.
            image: features [2 q, e] of `task.images()`, not normalised.
            labels: [2 q] of the same images.
            task: says how they are mixed.
        """
        lam = task.lam.to(image.device)  # [q]
        query, partner = image.chunk(2)  # [q, e] each
        mixed = lam[:, None] * query + (1 - lam[:, None]) * partner
        logits = self.similarity(normalised(mixed), normalised(text))  # [q, C]
        query_labels, partner_labels = labels.chunk(2)
        per_image = lam * F.cross_entropy(logits, query_labels, reduction="none")
        per_image = per_image + (1 - lam) * F.cross_entropy(logits, partner_labels, reduction="none")
        return per_image.mean()

    def query_gradient(self, theta: Theta, batch: Batch, task: Task) -> tuple[Gradients, Tensor]:
        """Gradient of the query loss at prompts theta, lifted (`Precision.lift`), and the loss."""
        both = batch.at(task.images())

        def of_features(text: Tensor, image: Tensor) -> tuple[tuple[Tensor], Tensor]:
            loss = self.query_loss(text, image, both.labels, task)
            return (loss,), loss

        (v,), loss = self.linearised(theta, both.images).gradients(of_features, scale=self.precision.lift)
        return v, loss

    def outer_gradient(
        self, theta: Theta, phi: Theta, batch: Batch, task: Task
    ) -> tuple[Tensor, Gradients, Gradients, Inner]:
        """The query loss at theta', its gradients with respect to theta and phi, both lifted, and the inner update.

        With v the gradient at theta', and v_g, v_r what of it arrives at g and r, the gradient with respect to theta is
        v + H_L v_g + H_R v_r: g and r are gradients, whose derivatives are the (symmetric) Hessians of L and R.
        """
        support = batch.at(task.support)
        features = self.linearised(theta, support.images)
        # as in `gradients`, and what differentiates g and r once more
        (g, r), hessians = features.gradients_and_hessians(partial(self.losses, batch=support))
        # theta is a constant in here: its own derivative, 1, is the v in the sum below
        adapted, pullback, inner = vjp_with_aux(partial(self.adapted, theta), phi, g, r)
        v, loss = self.query_gradient(adapted, batch, task)
        on_phi, v_g, v_r = pullback(v)
        if self.settings.FAST_ADAPTATION:  # g and r count as constants, too
            return loss, v, on_phi, inner
        return loss, add(v, hessians(v_g, v_r)), on_phi, inner

    # --- what stands around it ---------------------------------------------------------------------------------------

    def phi(self) -> dict[str, Tensor]:
        """The modulator's weights without gradients; not copies."""
        return {name: tensor.detach() for name, tensor in self.modulator.named_parameters()}

    def after_epoch(self) -> None:
        self.monitor.report(self.epoch, self.write_scalar)
        super().after_epoch()


def modulated(g: Gradients, gamma: Gradients, r: Gradients) -> Gradients:
    """g + gamma r for every learned tensor."""
    return add(g, multiply(gamma, r))


class Losses(NamedTuple):
    """L and the parts of R (scalars, weighted), and the logits [B, C]."""

    base: Tensor
    text: Tensor
    image: Tensor
    divergence: Tensor
    logits: Tensor


class Inner(NamedTuple):
    """An inner update, g + gamma r, and its parts."""

    g: Gradients
    r: Gradients
    gamma: Gradients
    update: Gradients


@TRAINER_REGISTRY.register()
class ProMetaR(MetaRegularization):
    """Prompt learning via meta-regularization."""

    config_node = "PROMETAR"
    registered_name = "VLPromptLearner"
    only_to_resume = frozenset({MODULATOR})
    paper_date = "2024-04"
    recipes = {
        "prometar": Recipes(
            "_c2_ep10_batch4_4+4ctx",
            cross_dataset="_c2_ep10_batch4_4+4ctx_cross_datasets",
            few_shot="_c2_ep50_batch4_4+4ctx_few_shot",
        ),
        "prometar_coop": Recipes("_c2_ep10_batch4_4ctx_coop", name="ProMetaR on CoOp"),
        "prometar_vpt": Recipes("_c2_ep10_batch4_4ctx_vpt", name="ProMetaR on VPT"),
        "prometar_maple": Recipes("_c2_ep10_batch4_2ctx_maple", name="ProMetaR on MaPLe"),
        "prometar_promptsrc": Recipes("_c2_ep10_batch4_4+4ctx_promptsrc", name="ProMetaR on PromptSRC"),
        "prometar_mma": Recipes("_ep10_batch4_mma", name="ProMetaR on MMA"),
    }
    published = (
        PublishedRow("ProMetaR", "vit_b16_c2_ep10_batch4_4+4ctx", (BASE_TO_NEW,)),
        PublishedRow("ProMetaR", "vit_b16_c2_ep10_batch4_4+4ctx_cross_datasets", TRANSFER),
    )
    tells_only = ("TRAINER.PROMETAR.KEEP_MODULATOR", "TRAINER.PROMETAR.MONITOR")
    choices = {"REGULARIZER": REGULARIZERS}
    ranges = {
        **dict.fromkeys(("ADAPT_LR", "LR_RATIO"), at_least(0)),
        **dict.fromkeys(("MIXUP_ALPHA", "MIXUP_BETA"), IN_FLOAT32),
        "DIM_RATE": at_least(1),
    }

    def build_prompts(self, clip: CLIP, classnames: list[str]) -> Prompts:
        return build_family(self.settings.PROMPTS, clip, classnames, self.cfg.TRAINER, self.config_node)

    def prepare_training(self) -> None:
        super().prepare_training()
        for _ in ("text teacher", "image teacher"):  # the published code builds a CLIP for each; here one serves all
            draw_clip(self.prompts.clip)
        self.teacher_text = self.teacher_text_features()
        self.modulator = GradientModulator(self.prompts.tensors(), self.settings.DIM_RATE).to(self.device)
        self.modulator_optim = build_optimizer(self.modulator, self.cfg.OPTIM_VNET)
        self.modulator_sched = build_lr_scheduler(self.modulator_optim, self.cfg.OPTIM_VNET)
        self.register_model(MODULATOR, self.modulator, self.modulator_optim, self.modulator_sched)
        self.monitor = MetaMonitor(every=self.cfg.TRAIN.PRINT_FREQ if self.settings.MONITOR else 0)

    def training_state(self) -> dict[str, Any]:
        return super().training_state() | self.monitor.state()

    def load_training_state(self, state: dict[str, Any]) -> None:
        super().load_training_state(state)
        self.monitor.restore(state)

    def keeps_models_of_training(self) -> bool:
        return self.settings.KEEP_MODULATOR

    defaults = dict(
        PROMPTS="IVLP",  # what to train: IVLP, CoOp, VPT, MaPLe, PromptSRC or MultiModalAdapter (MMA)
        N_CTX_VISION=4,  # number of visual tokens
        N_CTX_TEXT=4,  # number of context tokens
        CTX_INIT="a photo of a",  # words that the context starts from (up to 4 tokens)
        PREC="fp16",  # fp16, bf16, fp32, amp
        PROMPT_DEPTH_VISION=9,  # layers with visual tokens of their own, 0 for none
        PROMPT_DEPTH_TEXT=9,  # layers with text tokens of their own, 1 for the context alone
        REGULARIZER="l1",  # R: R_txt + R_img (l1), or that and the divergence of the logits (promptsrc)
        TEXT_LOSS_WEIGHT=50.0,  # weight of R_txt
        IMAGE_LOSS_WEIGHT=20.0,  # weight of R_img
        ADAPT_LR=0.0005,  # a, rate of the inner update
        LR_RATIO=0.0005,  # factor of the query loss
        FAST_ADAPTATION=False,  # first order: g and r are constants in the inner update
        MIXUP_ALPHA=0.5,  # lambda ~ Beta(MIXUP_ALPHA, MIXUP_BETA)
        MIXUP_BETA=0.5,  # see MIXUP_ALPHA
        DIM_RATE=8,  # entries of a prompt that share one gamma
        KEEP_MODULATOR=False,  # keep phi's checkpoint when training has finished
        MONITOR=True,  # log what gamma does and how inner and outer gradients align
    )

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        super().add_config(cfg)
        cfg.OPTIM_VNET = get_cfg_default().OPTIM  # phi's own optimiser and schedule, with the defaults of theta's
        cfg.OPTIM_VNET.STEP_LR = False  # follow the schedule; the published code stays at the first rate
