"""ProMetaR's step in plain `torch.autograd`: an implementation of its formulas that shares no code with the trainer.

L = cross-entropy, R = 50 mean|w - w0| + 20 mean|f - f0| [+ KL(p0 || p) / (B C), PromptSRC's]
g = dL/dtheta, r = dR/dtheta
gamma = sigmoid(W2 W1 [g ; r]), each value repeated DIM_RATE times; by rows where W1 is as wide as a row
theta' = theta - ADAPT_LR (g + gamma r)   on the support
outer = LR_RATIO mean(lam CE(., y_q) + (1 - lam) CE(., y_s[mix]))   at theta', features mixed before normalisation

Where a method multiplies the gradients of a tensor by a factor (MMA), g, r and the gradient at theta' all have it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import plain_clip
import torch
import torch.nn.functional as F
from plain_clip import unit
from plain_mma import mma_image, mma_text
from torch import Tensor
from torch.autograd import grad

from clip.backbones.open_clip_files import open_clip_module
from clip.clip import tokenize

Theta = dict[str, Tensor]

MMA_SCALE = 0.1
MMA_OPTIONS = {"ADAPTER_START": 0, "ADAPTER_END": 1, "ADAPTER_DIM": 8, "ADAPTER_SCALE": MMA_SCALE}
FAMILY_OPTIONS = {
    "MaPLe": {"N_CTX_VISION": 2},
    "PromptSRC": {"REGULARIZER": "promptsrc"},
    "MultiModalAdapter": {f"TRAINER.MMADAPTER.{key}": value for key, value in MMA_OPTIONS.items()},
}
"""Settings of a run on a family, beyond its name, with which `scheme` agrees."""


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
    """Plain encoders of a family with the words "a photo of a"; `context` rows of them are learned.

    MMA: adapters at the embeddings and beside the first block, as `MMA_OPTIONS` says.
    """
    tokens = tokenize([f"a photo of a {name}." for name in names])
    fixed = plain_clip.text_features(state, tokens)

    if family == "MultiModalAdapter":
        where = range(2), MMA_SCALE
        return Encoders(
            lambda theta: mma_text(state, tokens, theta, *where),
            lambda theta, images: mma_image(state, images, theta, *where),
        )

    def side(theta: Theta, tower: str) -> list[Tensor]:
        deep = sorted(name for name in theta if name.startswith(tower) and "resblocks" in name)
        return [theta[name] for name in deep]

    def projected(theta: Theta) -> list[Tensor]:
        pairs = [("prompt_learner.proj", "prompt_learner.ctx")]
        pairs += [
            (name.replace("prompts_text", "prompt_projections"), name) for name in theta if "prompts_text" in name
        ]
        return [theta[rows] @ theta[f"{map_}.weight"].t() + theta[f"{map_}.bias"] for map_, rows in pairs]

    def text(theta: Theta) -> Tensor:
        if family == "VPT":
            return fixed
        assert len(theta["prompt_learner.ctx"]) == context
        deep = [theta[name] for name in theta if "prompts_text" in name] or side(theta, "text")
        return plain_clip.prompted_text_features(state, tokens, theta["prompt_learner.ctx"], deep)

    def image(theta: Theta, images: Tensor) -> Tensor:
        if family == "CoOp":
            return plain_clip.image_features(state, images)
        if family == "MaPLe":
            return plain_clip.image_features(state, images, projected(theta))
        return plain_clip.image_features(state, images, [theta["image_encoder.VPT"], *side(theta, "image")])

    return Encoders(text, image)


def nets(theta: Iterable[str]) -> dict[str, str]:
    """The modulator's network of each tensor; those of the image tower alone are counted by themselves."""
    found, index = {}, {"vision": 0, "text": 0}
    for name in theta:
        side = "vision" if name.startswith("image_encoder") or "visual_adapter" in name else "text"
        found[name] = f"linear_{side}_gamma.{index[side]}"
        index[side] += 1
    return found


def mma_factor(name: str) -> float:
    """What MMA multiplies the gradients of an adapter by: 1/s, but not at the embeddings."""
    layer = int(name.split(".")[2])
    return 1 / MMA_SCALE if layer > 0 else 1.0


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
    with_divergence: bool = False
    factor: Callable[[str], float] = lambda name: 1.0

    def losses(self, theta: Theta, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """L and the parts of R"""
        text, image = unit(self.encoders.text(theta)), unit(self.encoders.image(theta, images))
        teacher = unit(plain_clip.image_features(self.state, images))
        logits = self.state["logit_scale"].exp() * image @ text.t()
        distances = 50 * (text - self.teacher_text).abs().mean(), 20 * (image - teacher).abs().mean()
        if self.with_divergence:
            log_p0 = (self.state["logit_scale"].exp() * teacher @ self.teacher_text.t()).log_softmax(dim=-1)
            distances += ((log_p0.exp() * (log_p0 - logits.log_softmax(dim=-1))).mean(),)
        return F.cross_entropy(logits, labels), *distances

    def modulated(self, theta: Theta, phi: Theta, images: Tensor, labels: Tensor, create_graph: bool) -> Theta:
        """g + gamma r for every prompt tensor; with `create_graph`, differentiable in theta."""
        loss, *regularizers = self.losses(theta, images, labels)
        result = {}
        for (name, tensor), net in zip(theta.items(), nets(theta).values(), strict=True):
            g, r = (
                self.factor(name) * grad(value, tensor, create_graph=create_graph, retain_graph=True)[0]
                for value in (loss, sum(regularizers))
            )
            first, second = phi[f"{net}.0.weight"], phi[f"{net}.1.weight"]
            width = first.shape[1] // 2
            pair = torch.cat([g.reshape(-1, width), r.reshape(-1, width)], dim=1)  # [1 or rows, 2 width]
            gamma = torch.sigmoid(pair @ first.t() @ second.t())
            gamma = gamma[..., None].expand(-1, -1, self.dim_rate).reshape(tensor.shape)
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
        names = {net: name for name, net in nets(theta).items()}
        return (
            loss.detach(),
            {k: self.factor(k) * by_name[k] for k in theta},
            {k: self.factor(names[".".join(k.split(".")[:2])]) * by_name[k] for k in phi},
        )


def scheme(
    family: str,
    state: Mapping[str, Tensor],
    names: list[str],
    teacher_text: Tensor,
    settings: Mapping[str, Any],
    first_order: bool = False,
) -> MetaByHand:
    """The scheme on a family, with the settings of a run on it."""
    return MetaByHand(
        encoders(family, state, names, settings["N_CTX_TEXT"]),
        state,
        teacher_text,
        settings["ADAPT_LR"],
        settings["LR_RATIO"],
        settings["DIM_RATE"],
        first_order,
        with_divergence=settings["REGULARIZER"] == "promptsrc",
        factor=mma_factor if family == "MultiModalAdapter" else lambda name: 1.0,
    )


def sgd(parameters: Theta, gradients: Theta, buffers: Theta, lr: float, decay: float = 5e-4) -> None:
    """One step of SGD with momentum 0.9, in place."""
    for name, parameter in parameters.items():
        g = gradients[name] + decay * parameter
        buffers[name] = 0.9 * buffers[name] + g if name in buffers else g
        parameters[name] = parameter - lr * buffers[name]
