"""ProMetaR: prompt learning via meta-regularization (Park, Ko, Kim, CVPR 2024).

Prompts theta are trained with two updates a batch, both by the same optimiser:

A. *Base step.* theta <- SGD(theta, g + gamma * r) on the whole batch, where g is the gradient of the cross-entropy L, r
   that of the regularisers R that keep the prompted features near those of the unprompted CLIP, and
   gamma = M_phi(g, r) in (0, 1) weighs r entry by entry (the gradient modulator).
B. *Meta step.* One class of the batch is the query, the others the support. Adapt on the support,
   theta' = theta - a (g + gamma * r), and step theta and phi down the gradient of the query's loss at theta', whose
   features are mixed with support features (task augmentation). The gradient passes through the adaptation.

`ProMetaR.forward_backward` reads like this list. The scheme knows nothing of the prompts it trains but their names, and
whether a name belongs to the image or the text side.

Shape legend: B images of a batch, q of the query, s of the support, C classes, n prompt tokens, d width, e joint
embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vjp
from torch.nn.attention import SDPBackend, sdpa_kernel
from yacs.config import CfgNode

from clip.model import CLIP
from clip.published_start import draw_clip
from dassl.engine import TRAINER_REGISTRY
from dassl.metrics import compute_accuracy
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.utils import UserError
from dassl.utils.files import remove_folder_atomically
from dassl.utils.torchtools import POINTER_NAME
from trainers.core.divergence import divergence
from trainers.core.facts import BASE_TO_NEW, TRANSFER, PublishedRow, Recipes
from trainers.core.families import build_family
from trainers.core.linearized import Gradients, Linearized, each, feature_cotangents
from trainers.core.meta_monitor import MetaMonitor
from trainers.core.prompts import Prompts, Theta, at_least_float32, normalized
from trainers.core.trainer import PromptTrainer, as_numbers

Inner = tuple[Gradients, Gradients, Gradients]
"""g, r and gamma of the inner update."""

MODULATOR = "GradientModulator"
MONITOR = "monitor"
"""Key of the training state within an epoch."""
MOST_WEIGHTS = 2**26
"""Of the network for one whole tensor (256 MiB). With `DIM_RATE` 8 that is enough for 20 tokens of width 768."""
REGULARIZERS = ("l1", "promptsrc")


class GradientModulator(nn.Module):
    """M_phi: for each learned tensor k, gamma_k = sigmoid(W2 W1 [g_k ; r_k]) in (0, 1), of k's shape (eq. 9).

    One gamma serves `dim_rate` adjacent entries. There is no activation between W1 and W2, and no bias.
    A network that reads a whole tensor grows with the square of its size. Where it would have more than `MOST_WEIGHTS`
    weights, the tensor is taken as rows, by its last axis, and one network serves all of them.

    Args:
        prompts: the tensors to be modulated.
        dim_rate: entries per gamma; must divide the size of every tensor, or of a row of it.
    """

    def __init__(self, prompts: Mapping[str, Tensor], dim_rate: int) -> None:
        super().__init__()
        self.linear_vision_gamma = nn.ModuleList()
        self.linear_text_gamma = nn.ModuleList()
        self.dim_rate = dim_rate
        self._index: dict[str, tuple[str, int]] = {}
        self._as_read: dict[str, tuple[int, ...]] = {}
        # visual layers are made first, as published: their start is drawn before that of the text side
        for name, prompt in sorted(prompts.items(), key=lambda named: not is_visual(named[0])):
            self._as_read[name] = shape_as_read(prompt, dim_rate)
            size = self._as_read[name][-1]
            if dim_rate < 1 or size % dim_rate:
                part = "a row of " * (size < prompt.numel())
                raise UserError(
                    f"TRAINER.PROMETAR.DIM_RATE {dim_rate} does not divide the {size} values of {part}{name}"
                )
            hidden = size // dim_rate
            side = "linear_vision_gamma" if is_visual(name) else "linear_text_gamma"
            self._index[name] = side, len(self[side])
            self[side].append(
                nn.Sequential(nn.Linear(2 * size, hidden, bias=False), nn.Linear(hidden, hidden, bias=False))
            )

    def __getitem__(self, side: str) -> nn.ModuleList:
        return getattr(self, side)

    def forward(self, g: Theta, r: Theta) -> Gradients:
        """gamma for every prompt tensor; g, r: gradients of L and R, of the prompts' shapes."""
        coarse = []
        for name, (side, index) in self._index.items():
            shape = self._as_read[name]
            pair = torch.cat([g[name].reshape(shape), r[name].reshape(shape)], dim=-1)  # [2 n d], or [rows, 2 d]
            coarse.append(self[side][index](pair).flatten())  # [n d / dim_rate]
        # the sigmoid and the repetition once for all tensors, not for each
        fine = torch.cat(coarse).sigmoid()[:, None].expand(-1, self.dim_rate).flatten()
        parts = fine.split([g[name].numel() for name in self._index])
        return {name: part.view_as(g[name]) for name, part in zip(self._index, parts, strict=True)}


def shape_as_read(tensor: Tensor, dim_rate: int) -> tuple[int, ...]:
    """The shape in which the modulator's network gets a tensor: [values], or [rows, values of a row]."""
    size = tensor.numel()
    hidden = size // max(dim_rate, 1)
    weights = 2 * size * hidden + hidden**2  # of W1 and W2
    return (size,) if weights <= MOST_WEIGHTS else (size // tensor.shape[-1], tensor.shape[-1])


def modulated(g: Gradients, gamma: Gradients, r: Gradients) -> Gradients:
    """g + gamma r for every prompt tensor."""
    return _for_each(torch._foreach_add, g, _for_each(torch._foreach_mul, gamma, r))


def _for_each(
    function: Callable[..., tuple[Tensor, ...]], first: Gradients, other: Gradients | float, **how: float
) -> Gradients:
    """A function of two lists of tensors, which is one operation for all of them, applied to tensors by name."""
    other = [other[name] for name in first] if isinstance(other, Mapping) else other
    return dict(zip(first, function(list(first.values()), other, **how), strict=True))


def is_visual(name: str) -> bool:
    """Whether a learned tensor belongs to the image tower alone, by its published name."""
    return name.startswith("image_encoder.") or ".visual_" in name


class Task(NamedTuple):
    """A query class against the rest of the batch. Indices into the batch, except `mix`."""

    query: Tensor
    """[q] images of the query class"""
    support: Tensor
    """[s] all others"""
    lam: Tensor
    """[q] weight of each query image in its mixture"""
    mix: Tensor
    """[q] index into `support` of each query image's partner"""

    def to(self, device: torch.device) -> Task:
        """The same task on `device`."""
        return Task(*(tensor.to(device, non_blocking=True) for tensor in self))

    def images(self) -> Tensor:
        """[2 q] the query images, then their partners"""
        return torch.cat([self.query, self.support[self.mix]])


def sample_task(labels: Tensor, alpha: float, beta: float) -> Task | None:
    """Draw a task from a batch's labels [B] (on the CPU), or None when they are all the same.

    The draws come from the global generator in this order: query class, lambda ~ Beta(alpha, beta), partners.
    """
    classes = labels.unique()
    if len(classes) < 2:
        return None
    is_query = labels == classes[torch.randperm(len(classes))[0]]
    query, support = is_query.nonzero().squeeze(1), (~is_query).nonzero().squeeze(1)
    lam = torch.distributions.Beta(alpha, beta).sample((len(query),))
    mix = torch.randint(len(support), (len(query),))
    return Task(query, support, lam, mix)


class Batch(NamedTuple):
    """Images [B, 3, H, W], labels [B] and the teacher's normalised image features [B, e]."""

    images: Tensor
    labels: Tensor
    teacher: Tensor

    def at(self, index: Tensor) -> Batch:
        """The images at `index`."""
        index = index.to(self.images.device, non_blocking=True)
        return Batch(self.images[index], self.labels[index], self.teacher[index])


@TRAINER_REGISTRY.register()
class ProMetaR(PromptTrainer):
    """Prompt learning via meta-regularization."""

    config_node = "PROMETAR"
    registered_name = "VLPromptLearner"
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

    @staticmethod
    def add_config(cfg: CfgNode) -> None:
        cfg.TRAINER.PROMETAR = CfgNode(
            dict(
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
        )
        cfg.OPTIM_VNET = CfgNode(
            dict(
                NAME="adam",
                LR=0.0003,
                WEIGHT_DECAY=5e-4,
                MOMENTUM=0.9,
                SGD_DAMPNING=0,
                SGD_NESTEROV=False,
                RMSPROP_ALPHA=0.99,
                ADAM_BETA1=0.9,
                ADAM_BETA2=0.999,
                ADAM_EPS=1e-8,
                STAGED_LR=False,
                NEW_LAYERS=(),
                BASE_LR_MULT=0.1,
                LR_SCHEDULER="single_step",
                STEPSIZE=(-1,),
                GAMMA=0.1,
                MAX_EPOCH=10,
                WARMUP_EPOCH=-1,
                WARMUP_TYPE="linear",
                WARMUP_CONS_LR=1e-5,
                WARMUP_MIN_LR=1e-5,
                WARMUP_RECOUNT=True,
                STEP_LR=False,  # follow the schedule; the published code stays at the first rate
            )
        )

    def check_cfg(self, cfg: CfgNode) -> None:
        super().check_cfg(cfg)
        if (chosen := cfg.TRAINER.PROMETAR.REGULARIZER) not in REGULARIZERS:
            raise UserError(f"TRAINER.PROMETAR.REGULARIZER is {chosen!r}: choose {' or '.join(REGULARIZERS)}")

    def build_prompts(self, clip: CLIP, classnames: list[str]) -> Prompts:
        return build_family(self.settings.PROMPTS, clip, classnames, self.cfg.TRAINER, self.config_node)

    def prepare_training(self) -> None:
        super().prepare_training()
        s = self.settings
        for _ in ("text teacher", "image teacher"):  # the published code builds a CLIP for each; here one serves all
            draw_clip(self.prompts.clip)
        # w0 [C, e]
        self.teacher_text = self.teacher_text_features()
        self.modulator = GradientModulator(self.prompts.tensors(), s.DIM_RATE).to(self.device)
        self.modulator_optim = build_optimizer(self.modulator, self.cfg.OPTIM_VNET)
        self.modulator_sched = build_lr_scheduler(self.modulator_optim, self.cfg.OPTIM_VNET)
        self.register_model(MODULATOR, self.modulator, self.modulator_optim, self.modulator_sched)
        self.monitor = MetaMonitor(every=self.cfg.TRAIN.PRINT_FREQ) if s.MONITOR else None

    # --- one batch ---------------------------------------------------------------------------------------------------

    def forward_backward(self, batch: dict) -> dict[str, float]:
        images, labels = self.parse_batch_train(batch)
        theta = self.theta()
        phi = {name: tensor.detach() for name, tensor in self.modulator.named_parameters()}
        # neither is copied: the optimisers' steps show in them

        # A. base step
        base = self.captured(self.base_step, (theta, phi), images, labels)
        descend(self.optim, self.prompts, base.update)

        # B. meta step
        task = sample_task(batch["label"].cpu(), self.settings.MIXUP_ALPHA, self.settings.MIXUP_BETA)
        meta = None
        if task is not None:
            meta = self.captured(
                self.meta_step, (theta, phi), Batch(images, labels, base.teacher), task.to(self.device)
            )
        outer_loss = torch.zeros_like(base.reported["loss_base"]) if meta is None else meta.loss
        numbers = as_numbers({"loss": outer_loss} | base.reported)  # the one time that a step waits for the device
        self.stop_if_not_finite(numbers)
        if meta is not None:
            if self.monitor is not None and self.monitor.due(self.batch_idx):
                self.monitor.record(*meta.inner, meta.theta_gradient)
            descend(self.optim, self.prompts, meta.theta_gradient)
            descend(self.modulator_optim, self.modulator, meta.phi_gradient)

        if self.batch_idx + 1 == self.num_batches:
            self.update_lr(None if self.cfg.OPTIM_VNET.STEP_LR else self.registered_name)
        return numbers

    def base_step(self, theta: Theta, phi: Theta, images: Tensor, labels: Tensor) -> BaseStep:
        """What the base step computes on the whole batch; changes nothing."""
        teacher = self.teacher_image_features(images)
        g, r, losses = self.gradients(theta, Batch(images, labels, teacher))
        gamma = self.gamma(phi, g, r)
        update = modulated(g, gamma, r)
        reported = {"loss_base": losses.base, "loss_text": losses.text, "loss_image": losses.image}
        if self.settings.REGULARIZER == "promptsrc":
            reported["loss_logits"] = losses.divergence
        return BaseStep(update, teacher, reported | {"acc": compute_accuracy(losses.logits, labels)[0]})

    def meta_step(self, theta: Theta, phi: Theta, batch: Batch, task: Task) -> MetaStep:
        """What the meta step computes at the prompts after the base step; changes nothing."""
        return MetaStep(*self.meta_gradient(theta, phi, batch, task))

    def gradients(self, theta: Theta, batch: Batch) -> tuple[Gradients, Gradients, Losses]:
        """g = dL/dtheta and r = dR/dtheta on a batch, and the losses."""
        with torch.no_grad(), self.precision.autocast():
            features = Linearized(self.prompts, theta, batch.images)
        cotangents, losses = self.feature_gradients(features.text, features.image, batch)
        g, r = each(features.pull(*cotangents))
        return g, r, losses

    def feature_gradients(self, text: Tensor, image: Tensor, batch: Batch) -> tuple[tuple[Tensor, Tensor], Losses]:
        """Gradients of L and of R with respect to the features text [C, e] and image [B, e]; [2, C, e] and [2, B, e].

        One R serves all tensors: R_txt has no gradient for those of the image tower, and R_img none for those of text.
        """

        def losses_of(text: Tensor, image: Tensor) -> tuple[tuple[Tensor, Tensor], Losses]:
            losses = self.feature_losses(text, image, batch)
            return (losses.base, losses.text + losses.image + losses.divergence), losses

        gradients, _, losses = feature_cotangents(losses_of, text, image)
        return gradients, losses

    def losses(self, theta: Theta, batch: Batch) -> Losses:
        """L and the parts of R of prompts theta, with their weights."""
        with self.precision.autocast():
            text, image = self.prompts.text_features(theta), self.prompts.image_features(theta, batch.images)
        return self.feature_losses(text, image, batch)

    def feature_losses(self, text: Tensor, image: Tensor, batch: Batch) -> Losses:
        """As `losses`, of features text [C, e] and image [B, e] that are not normalised."""
        text, image = normalized(text), normalized(image)
        with self.precision.autocast():
            logits = self.prompts.similarity(image, text)  # [B, C]
        base = F.cross_entropy(at_least_float32(logits), batch.labels)
        text_loss = self.settings.TEXT_LOSS_WEIGHT * (text - self.teacher_text).abs().mean()
        image_loss = self.settings.IMAGE_LOSS_WEIGHT * (image - batch.teacher).abs().mean()
        return Losses(base, text_loss, image_loss, self.divergence(logits, batch), logits)

    def divergence(self, logits: Tensor, batch: Batch) -> Tensor:
        """KL(p0 || p) of the unprompted CLIP's logits [B, C] and these, divided by B C; 0 where R is without it."""
        if self.settings.REGULARIZER != "promptsrc":
            return logits.new_zeros(())
        with self.precision.autocast():
            teacher_logits = self.prompts.similarity(batch.teacher, self.teacher_text)  # [B, C]
        return divergence(at_least_float32(teacher_logits), at_least_float32(logits), "mean")

    def gamma(self, phi: Theta, g: Gradients, r: Gradients) -> Gradients:
        """gamma_k = M_phi(g_k, r_k) for every prompt tensor."""
        return functional_call(self.modulator, dict(phi), (g, r))

    def meta_gradient(
        self, theta: Theta, phi: Theta, batch: Batch, task: Task
    ) -> tuple[Tensor, Gradients, Gradients, Inner]:
        """The query loss after adaptation to the support, its gradients with respect to theta and phi; g, r and gamma.

        With v the gradient of the query loss at theta', it passes directly to theta, and through g and r. These are
        gradients of L and R, whose second derivatives are symmetric: what comes back through g along a tangent is
        the derivative of g along it (forward over reverse).
        """
        support = batch.at(task.support)
        with torch.no_grad(), self.precision.autocast():
            features = Linearized(self.prompts, theta, support.images)
        cotangents, curvature, _ = vjp(
            lambda text, image: self.feature_gradients(text, image, support),
            features.text,
            features.image,
            has_aux=True,
        )
        g, r = each(features.pull(*cotangents))

        def adapt(g: Gradients, r: Gradients, phi: Theta) -> tuple[Gradients, Gradients]:
            gamma = self.gamma(phi, g, r)
            return _for_each(torch._foreach_add, theta, modulated(g, gamma, r), alpha=-self.settings.ADAPT_LR), gamma

        adapted, pullback, gamma = vjp(adapt, g, r, phi, has_aux=True)
        loss, theta_gradient = self.query_gradient(adapted, batch, task)  # scaled
        along_g, along_r, phi_gradient = pullback(theta_gradient)
        if not self.settings.FAST_ADAPTATION:
            tangents = {name: torch.stack([along_g[name], along_r[name]]) for name in theta}
            second = features.second(*curvature(features.push(tangents)))
            theta_gradient = _for_each(torch._foreach_add, theta_gradient, second)
        # LR_RATIO comes last: times 5e-4, the second-order terms would be lost in float16 towers
        ratio = self.settings.LR_RATIO / self.precision.second_order_scale
        theta_gradient, phi_gradient = (
            _for_each(torch._foreach_mul, part, ratio) for part in (theta_gradient, phi_gradient)
        )
        return self.settings.LR_RATIO * loss, theta_gradient, phi_gradient, (g, r, gamma)

    def query_gradient(self, theta: Theta, batch: Batch, task: Task) -> tuple[Tensor, Gradients]:
        """The query loss at prompts theta and its gradient, the latter times `Precision.second_order_scale`."""
        both = batch.at(task.images())
        with torch.no_grad(), self.precision.autocast():
            features = Linearized(self.prompts, theta, both.images)
        loss, pullback = vjp(
            lambda text, image: self.query_feature_loss(text, image, both.labels, task), features.text, features.image
        )
        on_text, on_image = pullback(torch.full_like(loss, self.precision.second_order_scale))
        (gradient,) = each(features.pull(on_text[None], on_image[None]))
        return loss, gradient

    def query_loss(self, theta: Theta, batch: Batch, task: Task) -> Tensor:
        """Cross-entropy of query images whose features are mixed with those of support images, with both labels."""
        both = batch.at(task.images())
        with self.precision.autocast():
            text, image = self.prompts.text_features(theta), self.prompts.image_features(theta, both.images)
        return self.query_feature_loss(text, image, both.labels, task)

    def query_feature_loss(self, text: Tensor, image: Tensor, labels: Tensor, task: Task) -> Tensor:
        """As `query_loss`, of features text [C, e] and image [2 q, e] that are not normalised, and labels [2 q]."""
        lam = task.lam.to(image.device)  # [q]
        with self.precision.autocast():
            query, partner = image.chunk(2)  # [q, e] each
            mixed = lam[:, None] * query + (1 - lam[:, None]) * partner
            logits = at_least_float32(self.prompts.similarity(normalized(mixed), normalized(text)))  # [q, C]
        query_labels, partner_labels = labels.chunk(2)
        per_image = lam * F.cross_entropy(logits, query_labels, reduction="none")
        per_image = per_image + (1 - lam) * F.cross_entropy(logits, partner_labels, reduction="none")
        return per_image.mean()

    # --- life cycle --------------------------------------------------------------------------------------------------

    def after_epoch(self) -> None:
        if self.monitor is not None:
            self.monitor.report(self.epoch, self.write_scalar)
        super().after_epoch()

    def training_state(self) -> dict[str, Any]:
        """As the base class's; within an epoch also what the monitor has collected."""
        collected = self.monitor.state() if self.monitor is not None else {}
        return super().training_state() | ({MONITOR: collected} if collected else {})

    def load_training_state(self, state: dict[str, Any]) -> None:
        super().load_training_state(state)
        if self.monitor is not None:
            self.monitor.restore(state.get(MONITOR, {}))

    def after_train(self) -> None:
        """phi is only needed to resume: remove its checkpoints when training has finished."""
        super().after_train()
        if not self.settings.KEEP_MODULATOR:
            remove_folder_atomically(Path(self.output_dir, MODULATOR))

    def resume_model_if_exist(self, directory: str, names: str | list[str] | None = None) -> int:
        """As Dassl's; prompts whose modulator was removed (a finished run) are resumed with a fresh phi."""
        prompts = Path(directory, self.registered_name)
        if (prompts / POINTER_NAME).is_file() and not Path(directory, MODULATOR).is_dir():
            print(f"No {MODULATOR} in {directory}: phi starts anew")
            names = self.registered_name
        return super().resume_model_if_exist(directory, names)

    def models_to_load(self, directory: str) -> list[str]:
        """As the base class's; the modulator only where it was kept."""
        names = super().models_to_load(directory)
        if MODULATOR in names and not Path(directory, MODULATOR).is_dir():
            print(f"No {MODULATOR} in {directory}: it keeps its initial values (only training needs it)")
            names.remove(MODULATOR)
        return names


class BaseStep(NamedTuple):
    """Results of `ProMetaR.base_step`."""

    update: Gradients
    """g + gamma * r"""
    teacher: Tensor
    """[B, e] f0"""
    reported: dict[str, Tensor]
    """losses and accuracy by the names under which they are logged"""


class MetaStep(NamedTuple):
    """Results of `ProMetaR.meta_step`."""

    loss: Tensor
    theta_gradient: Gradients
    phi_gradient: Gradients
    inner: Inner


class Losses(NamedTuple):
    """L and the parts of R (scalars, weighted), and the logits [B, C]."""

    base: Tensor
    text: Tensor
    image: Tensor
    divergence: Tensor
    logits: Tensor


def descend(optimizer: torch.optim.Optimizer, module: nn.Module, gradients: Gradients) -> None:
    """One optimiser step of a module's parameters along the given gradients."""
    for name, parameter in module.named_parameters():
        parameter.grad = gradients[name].to(parameter.dtype)
    optimizer.step()
    optimizer.zero_grad()


def twice_differentiable_attention() -> AbstractContextManager:
    """Fused attention kernels have no second derivative: use plain matrix products."""
    return sdpa_kernel(SDPBackend.MATH)
