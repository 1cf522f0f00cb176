"""What a prompt-learning method is: a few learned tensors, and two encoders that are pure functions of them.

`Prompts` owns the learned tensors under the names that published checkpoints give them. The frozen CLIP is used, not
owned: it is neither saved nor trained. Encoders take the tensors as a dict (`theta`), so that a training scheme may
pass adapted ones.

Shape legend: B images, C classes, n prompt tokens, d tower width, e joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from clip.clip import shared_tokenizer, tokenize
from clip.model import CLIP, VisionTransformer
from clip.packed_text import PackedPrompts, TextTrace, encode_prompts
from clip.published_start import PromptSizes, draw_prompt
from clip.recompute import recomputed
from clip.towers import AutogradTrace, ConstantTrace, ImageTrace, RecomputedTrace, Trace
from dassl.utils import UserError
from trainers.core.gradients import Theta
from trainers.core.templates import readable, tokenize_prompts

CONTEXT = "prompt_learner.ctx"
LONGEST_CONTEXT_FROM_WORDS = 4  # published rule: a longer context starts from noise


def at_least_float32(x: Tensor) -> Tensor:
    """x, widened if it is half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def normalised(features: Tensor) -> Tensor:
    """Features [..., e] with unit norm, in float32 at least."""
    features = at_least_float32(features)
    return features / features.norm(dim=-1, keepdim=True)


class Prompts(nn.Module):
    """The learned tensors of a method around a frozen CLIP. Subclasses say how the encoders use them."""

    text_depends_on_image = False
    class_specific = False
    """Whether the learned tensors stand for the classes they were learned for, and for no others."""
    text_prompts: Sequence[str] | None = None
    """Names of the learned tensors, if the text tower takes them as they are and depends on no others: the context,
    then those of deeper layers. None: it depends on the learned tensors in some other way."""
    image_prompts: Sequence[str] | None = None
    """As `text_prompts`, of the image tower: one a layer."""

    context: Any = None
    """What encodes the class names: `ContextPrompts`, or another one with `recompute_in_chunks`. None: nothing does."""
    deep_names: Sequence[str] = ()
    """Names of the learned tensors that the context takes in deeper layers of the text tower."""

    def __init__(self, clip: CLIP, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        self._frozen = (clip,)  # in a tuple, so that it is not a submodule
        self.learn(tensors)

    def learn(self, tensors: Mapping[str, Tensor]) -> None:
        """Add learned tensors with these start values."""
        for name, tensor in tensors.items():
            _add_parameter(self, name, nn.Parameter(tensor.detach().float().clone()))

    @property
    def clip(self) -> CLIP:
        """The frozen model."""
        return self._frozen[0]

    def tensors(self) -> dict[str, Tensor]:
        """theta: every learned tensor by name."""
        return dict(self.named_parameters())

    def text_features(self, theta: Theta) -> Tensor:
        """Class features [C, e], not normalised; here of the learned context, and of prompts in deeper layers."""
        if not isinstance(self.context, ContextPrompts):
            raise NotImplementedError(f"{type(self).__name__} does not say how it encodes class names")
        return self.context.encode(self.clip, theta[CONTEXT], [theta[name] for name in self.deep_names])

    def image_features(self, theta: Theta, images: Tensor) -> Tensor:
        """Image features [B, e], not normalised. images [B, 3, H, W]"""
        return self.clip.encode_image(images, self.visual_prompts(theta))

    def visual_prompts(self, theta: Theta) -> Sequence[Tensor]:
        """Visual prompts of layers 0, 1, ..., each [n, d]."""
        return [theta[name] for name in self.image_prompts or ()]

    def text_trace(self, theta: Theta) -> Trace:
        """`text_features` and their derivatives with respect to `text_prompts`; to all of theta if that is None."""
        if self.text_prompts is None:
            return _trace_by_autograd(self.text_features, theta)
        if not self.text_prompts:
            return ConstantTrace(self.text_features(theta))
        context, *deep = (theta[name] for name in self.text_prompts)
        return self.context.trace(self.clip, context, deep)

    def image_trace(self, theta: Theta, images: Tensor) -> Trace:
        """As `text_trace`, of `image_features` and `image_prompts`."""
        if self.image_prompts is None:
            return _trace_by_autograd(lambda theta: self.image_features(theta, images), theta)
        if not self.image_prompts:
            return ConstantTrace(self.image_features(theta, images))
        assert isinstance(self.clip.visual, VisionTransformer), "only a ViT takes visual prompts"
        prompts = self.visual_prompts(theta)
        return ImageTrace(self.clip.visual.tower(images, len(prompts[0]), len(prompts)), prompts)

    def similarity(self, image_features: Tensor, text_features: Tensor) -> Tensor:
        """Logits [B, C] of normalised features [B, e] and [C, e]."""
        return self.clip.logit_scale.exp() * image_features @ text_features.t()

    def logits(self, theta: Theta, images: Tensor, text: Tensor | None = None) -> Tensor:
        """Logits [B, C]; `text` takes normalised class features computed before."""
        if text is None:
            text = normalised(self.text_features(theta))
        return self.similarity(normalised(self.image_features(theta, images)), text)


def linear_tensors(name: str, layer: nn.Linear) -> dict[str, Tensor]:
    """Start values of a learned linear layer, under the names that `linear` reads."""
    return {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}


def linear(theta: Theta, name: str, x: Tensor) -> Tensor:
    """The learned linear layer of that name, [..., in] -> [..., out]."""
    return F.linear(x, theta[f"{name}.weight"], theta[f"{name}.bias"])


def _trace_by_autograd(features: Callable[[Theta], Tensor], theta: Theta) -> AutogradTrace:
    return AutogradTrace(lambda *tensors: features(dict(zip(theta, tensors, strict=True))), list(theta.values()))


def _add_parameter(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Register under a dotted name, with a plain module for each part of it."""
    *path, leaf = name.split(".")
    for part in path:
        if part not in module._modules:
            module.add_module(part, nn.Module())
        module = module.get_submodule(part)
    module.register_parameter(leaf, parameter)


# --- text side -------------------------------------------------------------------------------------------------------


class ContextPrompts:
    """Class prompts "[context] NAME." whose context rows are learned.

    Args:
        n_ctx: number of learned rows. Fewer than `ctx_init` has tokens: its last words stay ordinary tokens.
        ctx_init: words that the learned rows start from; "" starts from noise.
        position: where the class name stands, "end", "middle" or "front" (CoOp, section 3.1).
        class_specific: one context per class.
        template: the whole prompt with "{}" for the class name, whose first `n_ctx` tokens are the learned rows;
            "": the context's words, the name and a full stop.

    Raises:
        UserError: the context or a class name does not fit.
    """

    def __init__(
        self,
        clip: CLIP,
        classnames: Sequence[str],
        n_ctx: int,
        ctx_init: str = "",
        position: str = "end",
        class_specific: bool = False,
        template: str = "",
    ) -> None:
        if n_ctx < 1:
            raise UserError(f"a text context needs at least 1 token, not {n_ctx}")
        if position not in ("end", "middle", "front"):
            raise UserError(f"unknown CLASS_TOKEN_POSITION {position!r}: choose end, middle or front")
        if n_ctx > clip.context_length - 3:
            raise UserError(f"N_CTX {n_ctx} leaves no room for class names in {clip.context_length} positions")
        words = readable(ctx_init) if ctx_init else " ".join(["X"] * n_ctx)
        tokenizer = shared_tokenizer()
        available = len(tokenizer.encode(words))
        if available < n_ctx:
            raise UserError(f"CTX_INIT {ctx_init!r} has {available} tokens, but N_CTX asks for {n_ctx}")
        names = [readable(name) for name in classnames]
        tokens = tokenize_prompts([(template or f"{words} {{}}.").format(name) for name in names], clip)

        learned = torch.full_like(tokens, -1)  # [C, L] index of the learned row at each place
        learned[:, 1 : 1 + n_ctx] = torch.arange(n_ctx)
        if class_specific:
            learned[:, 1 : 1 + n_ctx] += n_ctx * torch.arange(len(names))[:, None]
        before = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
        for row, name in enumerate(names if position != "end" else ()):
            order = _name_after(before, n_ctx, len(tokenizer.encode(name)), tokens.shape[1])
            tokens[row], learned[row] = tokens[row, order], learned[row, order]

        self.tokens, self.learned, self.class_specific = tokens, learned, class_specific
        self.packed = PackedPrompts.from_tokens(tokens, learned).to(clip.logit_scale.device)
        self.chunks: list[PackedPrompts] = []
        self.initial = self._initial_context(clip, words if ctx_init else "", n_ctx, len(names), class_specific)

    @staticmethod
    def _initial_context(clip: CLIP, words: str, n_ctx: int, classes: int, class_specific: bool) -> Tensor:
        """Start values [n, d], or [C, n, d] when class-specific."""
        table = clip.token_embedding.weight
        copies = (classes,) if class_specific else ()
        if not words:
            return draw_prompt(*copies, n_ctx, table.shape[1], dtype=start_dtype(clip))
        ids = tokenize(words)[0, 1 : 1 + n_ctx].to(table.device)
        return table[ids].float().expand(*copies, -1, -1)

    def encode(self, clip: CLIP, context: Tensor, deep: Sequence[Tensor] = ()) -> Tensor:
        """Text features [..., C, e], not normalised, for context [..., n, d] (class-specific: [C, n, d])."""
        if self.class_specific:
            context = context.flatten(0, 1)  # [C * n, d]

        def encode(packed: PackedPrompts, context: Tensor, *deep: Tensor) -> tuple[Tensor]:
            return (encode_prompts(clip, packed, *packed.embed(clip, context), deep),)

        if not self.chunks:
            return encode(self.packed, context, *deep)[0]
        return torch.cat([recomputed(partial(encode, chunk), context, *deep)[0] for chunk in self.chunks], dim=-2)

    def trace(self, clip: CLIP, context: Tensor, deep: Sequence[Tensor]) -> Trace:
        """Text features [C, e] with their derivatives with respect to the context and the deep prompts, [n, d] each."""
        if self.class_specific:
            raise UserError("a context for each class has no trace: choose a context that all classes share")
        if not self.chunks:
            return TextTrace(clip, self.packed, context, deep)
        return RecomputedTrace([partial(TextTrace, clip, chunk, context, deep) for chunk in self.chunks])

    def recompute_in_chunks(self, classes: int) -> None:
        """From now on encode this many classes at a time, again in the backward passes instead of keeping them."""
        self.chunks = [
            PackedPrompts.from_tokens(*part).to(self.packed.last.device)
            for part in zip(self.tokens.split(classes), self.learned.split(classes), strict=True)
        ]


def _name_after(before: int, n_ctx: int, name_length: int, length: int) -> Tensor:
    """Order that moves the name's tokens after the first `before` context tokens: indices [L]."""
    start, name = 1 + n_ctx, 1 + n_ctx + name_length
    pieces = (range(1 + before), range(start, name), range(1 + before, start), range(name, length))
    return torch.tensor([index for piece in pieces for index in piece])


def start_dtype(clip: CLIP) -> torch.dtype:
    """Precision in which the published code draws a context: float16 in a float16 model; bfloat16 has no such start."""
    return clip.dtype if clip.dtype == torch.float16 else torch.float32


def context_length(ctx_init: str, n_ctx: int) -> int:
    """Number of context tokens in CoOp and its kin: that of the words, or `n_ctx` without words."""
    return len(shared_tokenizer().encode(readable(ctx_init))) if ctx_init else n_ctx


def deep_text_names(depth: int) -> list[str]:
    """Names of the text prompts of layers 1 .. depth - 1."""
    return [f"text_encoder.transformer.resblocks.{layer}.VPT_shallow" for layer in range(1, depth)]


def context_words(ctx_init: str, n_ctx: int) -> str:
    """Words that a context of the deep-prompt methods starts from: none when it is longer than four tokens."""
    return ctx_init if n_ctx <= LONGEST_CONTEXT_FROM_WORDS else ""


def check_text_depth(clip: CLIP, depth: int, key: str) -> None:
    """Check that 1 <= depth <= number of text layers.

    Raises:
        UserError: it is not.
    """
    layers = len(clip.transformer.resblocks)
    if not 1 <= depth <= layers:
        raise UserError(f"{key} is {depth}, but must lie between 1 and the {layers} layers of the text tower")


# --- image side ------------------------------------------------------------------------------------------------------


def visual_names(depth: int) -> list[str]:
    """Names of the visual prompts of layers 0 .. depth - 1."""
    deep = [f"image_encoder.transformer.resblocks.{layer}.VPT_shallow" for layer in range(1, depth)]
    return ["image_encoder.VPT", *deep][:depth]


def check_vision_depth(clip: CLIP, depth: int, key: str) -> None:
    """Check that the image tower is a ViT with at least `depth` layers, or that `depth` is 0.

    Raises:
        UserError: it is not.
    """
    if depth == 0:
        return
    if not isinstance(clip.visual, VisionTransformer):
        raise UserError(f"{key} is {depth}, but a ResNet image tower takes no visual prompts: choose a ViT backbone")
    layers = len(clip.visual.transformer.resblocks)
    if not 0 < depth <= layers:
        raise UserError(f"{key} is {depth}, but must lie between 0 and the {layers} layers of the image tower")


def vit_of(clip: CLIP, method: str) -> VisionTransformer:
    """The image tower, if it is a ViT, for a method that adapts its blocks.

    Raises:
        UserError: it is a ResNet.
    """
    if not isinstance(clip.visual, VisionTransformer):
        raise UserError(f"{method} adapts the blocks of a ViT: choose a ViT backbone, not a ResNet")
    return clip.visual


def visual_prompt_sizes(clip: CLIP, n: int, depth: int, key: str) -> PromptSizes:
    """Checked sizes of the visual prompts of layers 0 .. depth - 1.

    Args:
        clip: the model that is to take them.
        n: number of tokens of each.
        depth: number of layers with their own prompt.
        key: of the depth in the config, for error messages.

    Returns:
        The sizes.

    Raises:
        UserError: no tokens, or the image tower does not take them.
    """
    check_vision_depth(clip, depth, key)
    if depth and n < 1:
        raise UserError(f"N_CTX_VISION is {n}, but visual prompts need at least 1 token")
    return PromptSizes(n, depth)
