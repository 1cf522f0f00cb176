"""The methods computed as their authors' code computes them, to time the trainers against and to check them.

Same results, no economy: 77 positions for every class; every row of every layer; one image at a time in CoCoOp; text
features encoded anew for each test batch; two backward passes in ProGrad; in ProMetaR three gradient calls a pass, each
with a graph, and the teacher run again in the meta step. Only the copy of the whole CLIP that the published ProMetaR
makes on every batch is left out. Contexts with the class name at the end are covered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar, cast
from unittest import mock

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from clip.model import CLIP, Attention, ResidualAttentionBlock, VisionTransformer, causal_attention, full_attention
from clip.recompute import twice_differentiable_attention
from trainers.clip_lora import TEXT as LORA_TEXT
from trainers.clip_lora import VISUAL as LORA_VISUAL
from trainers.clip_lora import LowRankPrompts
from trainers.cocoop import CoCoOpPrompts
from trainers.coprompt import CoPromptPrompts
from trainers.core.gradients import descend
from trainers.core.modulator import is_visual
from trainers.core.prompts import CONTEXT, Prompts, Theta, normalised
from trainers.core.trainer import PromptTrainer
from trainers.mma import TEXT, VISUAL, MMAPrompts
from trainers.prograd import ProGrad, without_opposition
from trainers.prometar import ProMetaR, modulated, sample_task
from trainers.tcp import TCPPrompts

P = TypeVar("P", bound=Prompts)


class PlainPrompts(Generic[P]):
    """The encoders of a method's prompts, computed plainly."""

    def __init__(self, prompts: P) -> None:
        self.prompts, self.clip = prompts, prompts.clip
        self._fixed_text = prompts.text_features  # kept: a step calls `text_features` in the place of it

    def text_features(self, theta: Theta, context: Tensor | None = None) -> Tensor:
        """[C, e], not normalised."""
        method, clip = self.prompts, self.clip
        if method.context is None:  # fixed class prompts
            return self._fixed_text(theta)
        tokens = method.context.tokens.to(clip.logit_scale.device)
        context = theta.get(CONTEXT) if context is None else context
        rows = clip.token_embedding(tokens)  # [C, 77, d]
        if context is not None:
            rows = torch.cat([rows[:, :1], context.expand(len(rows), -1, -1), rows[:, 1 + len(context) :]], dim=1)
        x = (self.embedded(theta, TEXT, rows) + clip.positional_embedding).to(clip.dtype)
        deep = [theta[name] for name in getattr(method, "deep_names", ())]
        for layer in range(len(clip.transformer.resblocks)):
            if 0 < layer <= len(deep):
                prompt = deep[layer - 1].to(x.dtype).expand(len(x), -1, -1)
                x = torch.cat([x[:, :1], prompt, x[:, 1 + prompt.shape[1] :]], dim=1)
            x = self.layer(theta, TEXT, layer, x)
        x = clip.ln_final(x)
        return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ clip.text_projection.to(x.dtype)

    def image_features(self, theta: Theta, images: Tensor) -> Tensor:
        """[B, e], not normalised."""
        return self.encode_image(images, self.prompts.visual_prompts(theta), theta)

    def layer(self, theta: Theta, side: str, layer: int, x: Tensor) -> Tensor:
        """One block of a tower, all rows x [N, L, d]."""
        attention = causal_attention if side == TEXT else full_attention
        return self.block(side, layer).transform(x, attention)

    def block(self, side: str, layer: int) -> ResidualAttentionBlock:
        """A block of the text or the image tower."""
        tower = self.clip.transformer if side == TEXT else image_tower(self.clip).transformer
        return cast(ResidualAttentionBlock, tower.resblocks[layer])

    def embedded(self, theta: Theta, side: str, x: Tensor) -> Tensor:
        """The rows that a tower starts from, [N, L, d]: its text side's before the positions are added."""
        return x

    def encode_image(self, images: Tensor, prompts: Sequence[Tensor] = (), theta: Theta | None = None) -> Tensor:
        """[B, e], not normalised: the image tower with every row of every layer; without `theta` the frozen one."""
        visual = self.clip.visual
        if not isinstance(visual, VisionTransformer):
            return visual(images)
        x = visual.conv1(images.to(self.clip.dtype)).flatten(2).transpose(1, 2)  # [B, patches, d]
        start = visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)
        x = torch.cat([start, x], dim=1) + visual.positional_embedding.to(x.dtype)
        length = x.shape[1]
        for layer, prompt in enumerate([*prompts, *[None] * (len(visual.transformer.resblocks) - len(prompts))]):
            if prompt is not None:
                x = torch.cat([x[:, :length], prompt.to(x.dtype).expand(len(x), -1, -1)], dim=1)
            if layer == 0:
                x = visual.ln_pre(x)
                x = x if theta is None else self.embedded(theta, VISUAL, x)
            x = PlainPrompts.layer(self, {}, VISUAL, layer, x) if theta is None else self.layer(theta, VISUAL, layer, x)
        return visual.ln_post(x[:, 0]) @ visual.proj.to(x.dtype)

    def logits(self, theta: Theta, images: Tensor) -> Tensor:
        """[B, C]"""
        image = normalised(self.image_features(theta, images))
        if not isinstance(self.prompts, CoCoOpPrompts):
            return self.prompts.similarity(image, normalised(self.text_features(theta)))
        contexts = self.prompts.conditioned_context(theta, image)  # [B, n, d]
        rows = []
        for features, context in zip(image, contexts, strict=True):
            rows.append(self.prompts.similarity(features, normalised(self.text_features(theta, context))))
        return torch.stack(rows)


def image_tower(clip: CLIP) -> VisionTransformer:
    """The image tower of a CLIP that is a ViT."""
    assert isinstance(clip.visual, VisionTransformer), "a ResNet has no blocks"
    return clip.visual


class PlainTCP(PlainPrompts[TCPPrompts]):
    """TCP's: every class has all its rows in every layer."""

    def layer(self, theta: Theta, side: str, layer: int, x: Tensor) -> Tensor:
        if side == TEXT and layer == self.prompts.context.layer:
            rows = self.prompts.class_rows(theta).to(x.dtype)  # [C, m, d]
            x = torch.cat([x[:, :1], rows, x[:, 1 + rows.shape[1] :]], dim=1)
        return super().layer(theta, side, layer, x)


class PlainMMA(PlainPrompts[MMAPrompts]):
    """MMA's: every row of every layer, those that never change too."""

    def embedded(self, theta: Theta, side: str, x: Tensor) -> Tensor:
        return x + self.prompts.adapter(theta, side, 0, x) if 0 in self.prompts.layers else x

    def layer(self, theta: Theta, side: str, layer: int, x: Tensor) -> Tensor:
        y = super().layer(theta, side, layer, x)
        if layer + 1 not in self.prompts.layers:
            return y
        return y + self.prompts.adapter(theta, side, layer + 1, self.block(side, layer).ln_1(x))


class PlainCoPrompt(PlainPrompts[CoPromptPrompts]):
    """CoPrompt's: MaPLe's, and the adapters behind the towers."""

    def text_features(self, theta: Theta, context: Tensor | None = None) -> Tensor:
        return self.prompts.adapted(theta, "adapter_text", super().text_features(theta))

    def image_features(self, theta: Theta, images: Tensor) -> Tensor:
        return self.prompts.adapted(theta, "adapter_image", super().image_features(theta, images))


class PlainLoRA(PlainPrompts[LowRankPrompts]):
    """CLIP-LoRA's without dropout: the weights of q, k and v with B A added, in every block."""

    def image_features(self, theta: Theta, images: Tensor, kept: None = None) -> Tensor:
        return self.encode_image(images, (), theta)

    def layer(self, theta: Theta, side: str, layer: int, x: Tensor) -> Tensor:
        prefix, attention = (LORA_TEXT, causal_attention) if side == TEXT else (LORA_VISUAL, full_attention)
        block = self.block(side, layer)
        a, b = theta[f"{prefix}.{layer}.A"], theta[f"{prefix}.{layer}.B"]  # [3, r, d], [3, d, r]
        added = self.prompts.gamma * (b @ a).flatten(0, 1)  # [3 d, d]
        weight = block.attn.in_proj_weight
        return functional_call(
            _Transform(block), {"block.attn.in_proj_weight": weight + added.to(weight)}, (x, attention)
        )


class _Transform(nn.Module):
    """`ResidualAttentionBlock.transform` as a forward pass, which can be called with other weights."""

    def __init__(self, block: ResidualAttentionBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor, attention: Attention) -> Tensor:
        return self.block.transform(x, attention)


PLAIN = {LowRankPrompts: PlainLoRA, TCPPrompts: PlainTCP, MMAPrompts: PlainMMA, CoPromptPrompts: PlainCoPrompt}


def plain_prompts(prompts: Prompts) -> PlainPrompts:
    """The plain encoders of a method's prompts."""
    return PLAIN.get(type(prompts), PlainPrompts)(prompts)


def plain_evaluation(trainer: PromptTrainer, images: Tensor) -> Tensor:
    """Logits [B, C] of a test batch, class features encoded again."""
    with torch.no_grad(), trainer.precision.autocast():
        return plain_prompts(trainer.prompts).logits(trainer.prompts.tensors(), images)


def plain_step(trainer: PromptTrainer, batch: dict) -> float:
    """One training step of `trainer`, computed plainly; returns the loss that the trainer reports."""
    if isinstance(trainer, ProMetaR):
        return _plain_prometar_step(trainer, batch)
    inputs, theta, plain = trainer.parse_batch_train(batch), trainer.prompts.tensors(), plain_prompts(trainer.prompts)
    loss, *opposing = _plain_losses(trainer, plain, theta, inputs)

    def gradient_of(loss: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(trainer.scaler.scale(loss), list(theta.values()), retain_graph=bool(opposing))

    gradients = gradient_of(loss)
    for other in opposing:
        pairs = zip(gradients, gradient_of(other), strict=True)
        gradients = tuple(without_opposition(a, b, trainer.settings.LAMBDA) for a, b in pairs)
    trainer.update_prompts(dict(zip(theta, gradients, strict=True)))
    return loss.item()


def _plain_losses(
    trainer: PromptTrainer, plain: PlainPrompts, theta: Theta, inputs: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The loss that is minimised; in ProGrad also the one whose gradient is not to be opposed."""
    if isinstance(trainer, ProGrad):
        return _plain_prograd_losses(trainer, plain, theta, *inputs)
    if type(trainer).objective is PromptTrainer.objective:
        images, labels = inputs
        with trainer.precision.autocast():
            return (F.cross_entropy(plain.logits(theta, images).float(), labels),)
    with (
        mock.patch.object(trainer.prompts, "text_features", plain.text_features),
        mock.patch.object(trainer.prompts, "image_features", plain.image_features),
        mock.patch.object(trainer.prompts.clip, "encode_image", plain.encode_image),
    ):
        return (trainer.objective(theta, *inputs)[0],)


def _plain_prograd_losses(
    trainer: ProGrad, plain: PlainPrompts, theta: Theta, images: Tensor, labels: Tensor
) -> tuple[Tensor, Tensor]:
    """xe, and kl as the cross-entropy from the frozen CLIP's distribution."""
    t = trainer.settings.T
    with trainer.precision.autocast():
        image = normalised(plain.image_features(theta, images))
        logits = plain.prompts.similarity(image, normalised(plain.text_features(theta))).float()  # [B, C]
    with torch.no_grad(), trainer.precision.autocast():
        teacher_image = normalised(plain.encode_image(images))
        p0 = (plain.prompts.similarity(teacher_image, trainer.teacher_text).float() / t).softmax(dim=-1)
    kl = -(t**2) * (p0 * (logits / t).log_softmax(dim=-1)).sum(dim=-1).mean()
    return F.cross_entropy(logits, labels), kl


def _plain_prometar_step(trainer: ProMetaR, batch: dict) -> float:
    settings, plain = trainer.settings, PlainPrompts(trainer.prompts)
    images, labels = trainer.parse_batch_train(batch)
    theta, phi = trainer.prompts.tensors(), dict(trainer.modulator.named_parameters())

    def modulated_gradient(theta: Theta, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """g + gamma * r, every part with its graph."""
        with torch.no_grad(), trainer.precision.autocast():
            teacher = normalised(plain.encode_image(images))
        with trainer.precision.autocast(), twice_differentiable_attention():
            text = normalised(plain.text_features(theta))
            image = normalised(plain.image_features(theta, images))
            logits = plain.prompts.similarity(image, text)
        losses = (
            F.cross_entropy(logits.float(), labels),
            settings.TEXT_LOSS_WEIGHT * (text - trainer.teacher_text).abs().mean(),
            settings.IMAGE_LOSS_WEIGHT * (image - teacher).abs().mean(),
        )
        g, r_text, r_image = (
            torch.autograd.grad(loss, list(theta.values()), create_graph=True, allow_unused=True) for loss in losses
        )
        g = {name: value for name, value in zip(theta, g, strict=True)}
        r = {
            name: on_image if is_visual(name) else on_text
            for name, on_text, on_image in zip(theta, r_text, r_image, strict=True)
        }
        gamma = functional_call(trainer.modulator, dict[str, Tensor](phi), (g, r))
        return modulated(g, gamma, r)

    update = modulated_gradient(theta, images, labels)
    descend(trainer.optim, trainer.prompts, {name: value.detach() for name, value in update.items()})

    task = sample_task(batch["label"].cpu(), settings.MIXUP_ALPHA, settings.MIXUP_BETA)
    if task is None:
        return 0.0
    update = modulated_gradient(theta, images[task.support], labels[task.support])
    fast = {name: theta[name] - settings.ADAPT_LR * update[name] for name in theta}
    partners, lam = task.support[task.mix], task.lam.to(images.device)
    with torch.no_grad(), trainer.precision.autocast():
        plain.encode_image(images[task.query])  # the teacher's query features, which nothing uses
    with trainer.precision.autocast():
        text = normalised(plain.text_features(fast))
        query, partner = (plain.image_features(fast, images[index]) for index in (task.query, partners))
        mixed = normalised(lam[:, None] * query + (1 - lam[:, None]) * partner)
        logits = plain.prompts.similarity(mixed, text).float()
    query_loss = lam * F.cross_entropy(logits, labels[task.query], reduction="none")
    query_loss = query_loss + (1 - lam) * F.cross_entropy(logits, labels[partners], reduction="none")
    loss = settings.LR_RATIO * query_loss.mean()
    gradients = torch.autograd.grad(loss, [*theta.values(), *phi.values()])
    descend(trainer.optim, trainer.prompts, dict(zip(theta, gradients[: len(theta)], strict=True)))
    descend(trainer.modulator_optim, trainer.modulator, dict(zip(phi, gradients[len(theta) :], strict=True)))
    return loss.item()
