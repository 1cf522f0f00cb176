"""ProMetaR's step in plain `torch.autograd`: an implementation of its formulas that shares no code with the trainer.

L = cross-entropy, R_txt = 50 mean|w - w0|, R_img = 20 mean|f - f0|
g = dL/dtheta, r = dR_txt/dtheta (text tensors) or dR_img/dtheta (visual ones)
gamma = sigmoid(W2 W1 [g ; r]), each value repeated DIM_RATE times
theta' = theta - ADAPT_LR (g + gamma r)   on the support
outer = LR_RATIO mean(lam CE(., y_q) + (1 - lam) CE(., y_s[mix]))   at theta', features mixed before normalisation
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import plain_clip
import torch
import torch.nn.functional as F
from plain_clip import unit
from torch import Tensor
from torch.autograd import grad

from clip.backbones.open_clip_files import open_clip_module
from clip.clip import tokenize

Theta = dict[str, Tensor]


def teacher_text_features(state: Mapping[str, Tensor], names: list[str]) -> Tensor:
    """w0 [C, e]: the mean over the first 60 templates, then normalised."""
    templates = open_clip_module("zero_shot_metadata").OPENAI_IMAGENET_TEMPLATES[:60]
    texts = [template(name) for template in templates for name in names]
    features = plain_clip.text_features(state, tokenize(texts))
    return unit(features.unflatten(0, (60, len(names))).mean(dim=0))


@dataclass
class Encoders:
    """Prompted features, not normalised, as functions of theta, for one family of prompts."""

    text: Callable[[Theta], Tensor]
    image: Callable[[Theta, Tensor], Tensor]


def encoders(family: str, state: Mapping[str, Tensor], names: list[str], context: int) -> Encoders:
    """Plain encoders of IVLP, CoOp or VPT with the words "a photo of a"; `context` rows of them are learned."""
    tokens = tokenize([f"a photo of a {name}." for name in names])
    fixed = plain_clip.text_features(state, tokens)

    def side(theta: Theta, tower: str) -> list[Tensor]:
        deep = sorted(name for name in theta if name.startswith(tower) and "resblocks" in name)
        return [theta[name] for name in deep]

    def text(theta: Theta) -> Tensor:
        if family == "VPT":
            return fixed
        assert len(theta["prompt_learner.ctx"]) == context
        return plain_clip.prompted_text_features(state, tokens, theta["prompt_learner.ctx"], side(theta, "text"))

    def image(theta: Theta, images: Tensor) -> Tensor:
        if family == "CoOp":
            return plain_clip.image_features(state, images)
        return plain_clip.image_features(state, images, [theta["image_encoder.VPT"], *side(theta, "image")])

    return Encoders(text, image)


@dataclass
class MetaByHand:
    """The scheme for given encoders."""

    encoders: Encoders
    state: Mapping[str, Tensor]
    teacher_text: Tensor
    adapt_lr: float
    lr_ratio: float
    dim_rate: int
    first_order: bool = False

    def losses(self, theta: Theta, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """L, R_txt, R_img"""
        text, image = unit(self.encoders.text(theta)), unit(self.encoders.image(theta, images))
        teacher = unit(plain_clip.image_features(self.state, images))
        logits = self.state["logit_scale"].exp() * image @ text.t()
        distances = 50 * (text - self.teacher_text).abs().mean(), 20 * (image - teacher).abs().mean()
        return F.cross_entropy(logits, labels), *distances

    def modulated(self, theta: Theta, phi: Theta, images: Tensor, labels: Tensor, create_graph: bool) -> Theta:
        """g + gamma r for every prompt tensor; with `create_graph`, differentiable in theta."""
        loss, r_text, r_image = self.losses(theta, images, labels)
        result, index = {}, {"vision": 0, "text": 0}
        for name, tensor in theta.items():
            side = "vision" if name.startswith("image_encoder") else "text"
            (g,) = grad(loss, tensor, create_graph=create_graph, retain_graph=True)
            (r,) = grad(r_image if side == "vision" else r_text, tensor, create_graph=create_graph, retain_graph=True)
            net = f"linear_{side}_gamma.{index[side]}"
            index[side] += 1
            hidden = phi[f"{net}.0.weight"] @ torch.cat([g.flatten(), r.flatten()])
            gamma = torch.sigmoid(phi[f"{net}.1.weight"] @ hidden)
            gamma = gamma[:, None].expand(-1, self.dim_rate).reshape(tensor.shape)
            result[name] = g + gamma * r
        return result

    def adapted(self, theta: Theta, phi: Theta, images: Tensor, labels: Tensor) -> Theta:
        modulated = self.modulated(theta, phi, images, labels, create_graph=not self.first_order)
        return {name: tensor - self.adapt_lr * modulated[name] for name, tensor in theta.items()}

    def query_loss(self, theta: Theta, images: Tensor, labels: Tensor, task) -> Tensor:
        partner, lam = task.support[task.mix], task.lam
        text = unit(self.encoders.text(theta))
        query, mate = (self.encoders.image(theta, images[ids]) for ids in (task.query, partner))
        mixed = unit(lam[:, None] * query + (1 - lam[:, None]) * mate)
        logits = self.state["logit_scale"].exp() * mixed @ text.t()
        log_p = logits.log_softmax(dim=-1)
        rows = torch.arange(len(lam))
        each = -lam * log_p[rows, labels[task.query]] - (1 - lam) * log_p[rows, labels[partner]]
        return self.lr_ratio * each.mean()

    def outer(self, theta: Theta, phi: Theta, images: Tensor, labels: Tensor, task) -> Tensor:
        """The query loss after adaptation to the support."""
        fast = self.adapted(theta, phi, images[task.support], labels[task.support])
        return self.query_loss(fast, images, labels, task)

    def outer_gradients(self, theta: Theta, phi: Theta, images: Tensor, labels: Tensor, task):
        """Outer loss and its gradients with respect to theta and phi, reverse over reverse."""
        theta, phi = ({k: v.detach().requires_grad_() for k, v in tensors.items()} for tensors in (theta, phi))
        loss = self.outer(theta, phi, images, labels, task)
        gradients = grad(loss, [*theta.values(), *phi.values()])
        by_name = dict(zip([*theta, *phi], gradients, strict=True))
        return loss.detach(), {k: by_name[k] for k in theta}, {k: by_name[k] for k in phi}


def sgd(parameters: Theta, gradients: Theta, buffers: Theta, lr: float, decay: float = 5e-4) -> None:
    """One step of SGD with momentum 0.9, in place."""
    for name, parameter in parameters.items():
        g = gradients[name] + decay * parameter
        buffers[name] = 0.9 * buffers[name] + g if name in buffers else g
        parameters[name] = parameter - lr * buffers[name]
