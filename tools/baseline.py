"""The methods computed as their authors' code computes them, to time the trainers against and to check them.

Same results, no economy: 77 positions for every class; every row of every layer; one image at a time in CoCoOp; text
features encoded anew for each test batch; in ProMetaR three gradient calls a pass, each with a graph, and the
teacher run again in the meta step. Only the copy of the whole CLIP that the published ProMetaR makes on every batch is
left out. Contexts with the class name at the end are covered.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from clip.model import causal_attention, full_attention
from clip.recompute import twice_differentiable_attention
from trainers.cocoop import CoCoOpPrompts
from trainers.core.prompts import CONTEXT, Prompts, Theta, normalized
from trainers.core.trainer import PromptTrainer, descend
from trainers.prometar import ProMetaR, is_visual, modulated, sample_task


class PlainPrompts:
    """The encoders of a method's prompts, computed plainly."""

    def __init__(self, prompts: Prompts) -> None:
        self.prompts, self.clip = prompts, prompts.clip

    def text_features(self, theta: Theta, context: Tensor | None = None) -> Tensor:
        """[C, e], not normalised."""
        method, clip = self.prompts, self.clip
        if not hasattr(method, "context"):  # fixed class prompts
            return method.text_features(theta)
        tokens = method.context.tokens.to(clip.logit_scale.device)
        context = theta[CONTEXT] if context is None else context
        rows = clip.token_embedding(tokens)  # [C, 77, d]
        rows = torch.cat([rows[:, :1], context.expand(len(rows), -1, -1), rows[:, 1 + len(context) :]], dim=1)
        x = (rows + clip.positional_embedding).to(clip.dtype)
        deep = [theta[name] for name in getattr(method, "deep_names", ())]
        for layer, block in enumerate(clip.transformer.resblocks):
            if 0 < layer <= len(deep):
                prompt = deep[layer - 1].to(x.dtype).expand(len(x), -1, -1)
                x = torch.cat([x[:, :1], prompt, x[:, 1 + prompt.shape[1] :]], dim=1)
            x = block.transform(x, causal_attention)
        x = clip.ln_final(x)
        return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ clip.text_projection.to(x.dtype)

    def image_features(self, theta: Theta, images: Tensor) -> Tensor:
        """[B, e], not normalised."""
        return self.encode_image(images, self.prompts.visual_prompts(theta))

    def encode_image(self, images: Tensor, prompts: Sequence[Tensor] = ()) -> Tensor:
        """[B, e], not normalised: the image tower with every row of every layer."""
        visual = self.clip.visual
        if not hasattr(visual, "transformer"):
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
            x = visual.transformer.resblocks[layer].transform(x, full_attention)
        return visual.ln_post(x[:, 0]) @ visual.proj.to(x.dtype)

    def logits(self, theta: Theta, images: Tensor) -> Tensor:
        """[B, C]"""
        image = normalized(self.image_features(theta, images))
        if not isinstance(self.prompts, CoCoOpPrompts):
            return self.prompts.similarity(image, normalized(self.text_features(theta)))
        contexts = self.prompts.conditioned_context(theta, image)  # [B, n, d]
        rows = []
        for features, context in zip(image, contexts, strict=True):
            rows.append(self.prompts.similarity(features, normalized(self.text_features(theta, context))))
        return torch.stack(rows)


def plain_evaluation(trainer: PromptTrainer, images: Tensor) -> Tensor:
    """Logits [B, C] of a test batch, class features encoded again."""
    with torch.no_grad(), trainer.precision.autocast():
        return PlainPrompts(trainer.prompts).logits(trainer.prompts.tensors(), images)


def plain_step(trainer: PromptTrainer, batch: dict) -> float:
    """One training step of `trainer`, computed plainly; returns the loss that the trainer reports."""
    if isinstance(trainer, ProMetaR):
        return _plain_prometar_step(trainer, batch)
    images, labels = trainer.parse_batch_train(batch)
    theta = trainer.prompts.tensors()
    with trainer.precision.autocast():
        logits = PlainPrompts(trainer.prompts).logits(theta, images)
    loss = F.cross_entropy(logits.float(), labels)
    gradients = torch.autograd.grad(trainer.scaler.scale(loss), list(theta.values()))
    trainer.update_prompts(dict(zip(theta, gradients, strict=True)))
    return loss.item()


def _plain_prometar_step(trainer: ProMetaR, batch: dict) -> float:
    settings, plain = trainer.settings, PlainPrompts(trainer.prompts)
    images, labels = trainer.parse_batch_train(batch)
    theta, phi = trainer.prompts.tensors(), dict(trainer.modulator.named_parameters())

    def modulated_gradient(theta: Theta, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """g + gamma * r, every part with its graph."""
        with torch.no_grad(), trainer.precision.autocast():
            teacher = normalized(plain.encode_image(images))
        with trainer.precision.autocast(), twice_differentiable_attention():
            text = normalized(plain.text_features(theta))
            image = normalized(plain.image_features(theta, images))
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
        gamma = functional_call(trainer.modulator, phi, (g, r))
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
        text = normalized(plain.text_features(fast))
        query, partner = (plain.image_features(fast, images[index]) for index in (task.query, partners))
        mixed = normalized(lam[:, None] * query + (1 - lam[:, None]) * partner)
        logits = plain.prompts.similarity(mixed, text).float()
    query_loss = lam * F.cross_entropy(logits, labels[task.query], reduction="none")
    query_loss = query_loss + (1 - lam) * F.cross_entropy(logits, labels[partners], reduction="none")
    loss = settings.LR_RATIO * query_loss.mean()
    gradients = torch.autograd.grad(loss, [*theta.values(), *phi.values()])
    descend(trainer.optim, trainer.prompts, dict(zip(theta, gradients[: len(theta)], strict=True)))
    descend(trainer.modulator_optim, trainer.modulator, dict(zip(phi, gradients[len(theta) :], strict=True)))
    return loss.item()
