"""CLIPs whose towers hold prompts, as trainer files of the MaPLe and PromptSRC repositories expect them.

Such files call `clip.build_model(state_dict, design_details)` and use the result in one of two ways:

* *Owned prompts* (`vision_depth`, `language_depth`: VPT, IVLP, PromptSRC and what follows them): the prompts are
  parameters of the towers, under the published names `visual.VPT`, `visual.transformer.resblocks.<i>.VPT_shallow` and
  `transformer.resblocks.<i>.VPT_shallow` (0 < i < depth); the towers are called as those of a plain CLIP.
* *Given prompts* (`maple_length`: MaPLe and what follows it): the towers have no prompts; they are called as
  `visual(images, prompts of layer 0, prompts of layers 1, 2, ...)` and `transformer([rows, prompts of layers 1, 2, ...,
  0])`, which returns such a list.

The trainers of this project need none of this: their towers take prompts as arguments (`clip.model`,
`clip.packed_text`).

Shape legend: B images, N sequences, L positions, n prompt tokens, d tower width, e joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from clip.model import CLIP, ResidualAttentionBlock, Transformer, VisionTransformer
from clip.published_start import PromptSizes, draw_clip
from dassl.utils.errors import UserError

Placement = Callable[[Tensor, Tensor], Tensor]
"""Puts a prompt [n, d] into rows [L, N, d], positions first."""


@dataclass(frozen=True)
class Design:
    """`design_details` without the trainer's name. Depths count the layers with their own prompts.

    The text prompt of layer 0 is the trainer's own context, so that `language_depth` 1 puts nothing into the tower.
    """

    vision_depth: int = 0
    vision_ctx: int = 0
    language_depth: int = 0
    language_ctx: int = 0
    maple_length: int = 0

    @classmethod
    def read(cls, details: Mapping[str, object]) -> Design:
        """The known entries.

        Raises:
            UserError: an unknown entry, or a value, asks for something that cannot be built.
        """
        known = {field.name for field in fields(cls)}
        for name, value in details.items():
            if name in known and not isinstance(value, int):
                raise UserError(f"design_details {name} is {value!r}: expected a whole number")
            if name not in known | {"trainer"} and value:
                raise UserError(f"design_details {name} is unknown: only {', '.join(sorted(known))} can be built")
        if details.get("trainer") == "MaPLe" and not details.get("maple_length"):
            raise UserError("design_details of trainer MaPLe need maple_length, the number of prompt tokens")
        return cls(**{name: value for name, value in details.items() if name in known and isinstance(value, int)})

    def check(self, clip: CLIP) -> None:
        """Check that the towers of `clip` can take these prompts.

        Raises:
            UserError: they cannot, or the design contradicts itself.
        """
        transformers = {"language": clip.transformer}
        if isinstance(clip.visual, VisionTransformer):
            transformers["vision"] = clip.visual.transformer
        elif self.vision_depth or self.maple_length:
            raise UserError(
                "design_details ask for visual prompts, which a ResNet does not take: choose a ViT backbone"
            )
        if self.maple_length and (self.vision_depth or self.language_depth):
            raise UserError("design_details ask for prompts both owned (depth) and given (maple_length): choose one")
        for side, first in (("vision", 0), ("language", 1)):
            depth, n = getattr(self, f"{side}_depth"), getattr(self, f"{side}_ctx")
            layers = len(transformers[side].blocks) if depth else 0
            if not 0 <= depth <= layers:
                raise UserError(f"design_details {side}_depth is {depth}, but the tower has {layers} layers")
            if depth > first and n < 1:
                raise UserError(f"design_details {side}_ctx is {n}, but each of {depth} layers is to have prompts")
        if self.language_ctx > clip.context_length - 2:
            raise UserError(f"design_details language_ctx is {self.language_ctx}: too long for {clip.context_length}")


def with_prompts(clip: CLIP, details: Mapping[str, object]) -> CLIP:
    """`clip` rebuilt to hold or take prompts; do not use the plain one afterwards.

    Prompts start as noise. As published, building the model draws from PyTorch's global CPU generator, whatever
    prompts it has (see `clip.published_start`).

    Args:
        clip: a plain CLIP.
        details: `design_details`; empty for a CLIP without prompts.

    Returns:
        The model, of the same weights.

    Raises:
        UserError: details that are unknown or do not fit.
    """
    design = Design.read(details)
    design.check(clip)
    start = draw_clip(
        clip,
        visual=PromptSizes(design.vision_ctx, design.vision_depth),
        text=PromptSizes(design.language_ctx, design.language_depth),
    )
    if design.maple_length and isinstance(clip.visual, VisionTransformer):
        clip.visual = VisionGivenPrompts(clip.visual)
        _rebuild(clip.visual.transformer, lambda layer, block: BlockGivenPrompts(block, at_end, layer == 0))
        _rebuild(clip.transformer, lambda layer, block: BlockGivenPrompts(block, behind_start, layer == 0))
    if design.vision_depth and isinstance(clip.visual, VisionTransformer):
        clip.visual = VisionOwnPrompts(clip.visual, start.visual)
    if design.language_depth > 1:
        clip = CLIPOwnTextPrompts(clip, start.text)
    return clip


# --- where a prompt goes ---------------------------------------------------------------------------------------------


def at_end(x: Tensor, prompt: Tensor) -> Tensor:
    """x [L, N, d] with its last n rows replaced by prompt [n, d]"""
    return torch.cat([x[: -len(prompt)], _for_each_sequence(prompt, x)])


def behind_start(x: Tensor, prompt: Tensor) -> Tensor:
    """x [L, N, d] with rows 1..n replaced by prompt [n, d]"""
    return torch.cat([x[:1], _for_each_sequence(prompt, x), x[1 + len(prompt) :]])


def _for_each_sequence(prompt: Tensor, x: Tensor) -> Tensor:
    """prompt [n, d] -> [n, N, d]"""
    return prompt.to(x.dtype)[:, None].expand(-1, x.shape[1], -1)


# --- owned prompts ---------------------------------------------------------------------------------------------------


class BlockOwnPrompt(ResidualAttentionBlock):
    """Block that puts its own prompt `VPT_shallow` [n, d] into its input."""

    def __init__(self, block: ResidualAttentionBlock, place: Placement, prompt: Tensor) -> None:
        _take_over(self, block)
        self.place = place
        self.VPT_shallow = _own_prompt(prompt, block.ln_1)

    def forward(self, x: Tensor) -> Tensor:
        """x [L, N, d] -> [L, N, d]"""
        return super().forward(self.place(x, self.VPT_shallow))


class VisionOwnPrompts(VisionTransformer):
    """Image tower with prompts [n, d] of its first layers: `VPT` at layer 0, its blocks' `VPT_shallow` after it."""

    def __init__(self, tower: VisionTransformer, prompts: Sequence[Tensor]) -> None:
        _take_over(self, tower)
        first, *deep = prompts
        self.VPT = _own_prompt(first, tower.ln_pre)
        _give_prompts(self.transformer, at_end, deep)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - as the files that use it call it
        self, images: Tensor
    ) -> Tensor:
        """images [B, 3, H, W] -> image features [B, e], not normalised"""
        blocks = self.transformer.resblocks
        deep = [block.VPT_shallow for block in blocks if isinstance(block, BlockOwnPrompt)]
        return super().forward(images, [self.VPT, *deep])


class CLIPOwnTextPrompts(CLIP):
    """CLIP whose text blocks own prompts: rows after the start mark are replaced, whatever stands there."""

    def __init__(self, clip: CLIP, prompts: Sequence[Tensor]) -> None:
        _take_over(self, clip)
        _give_prompts(self.transformer, behind_start, prompts)

    def encode_text(self, text: Tensor) -> Tensor:
        """Token ids [N, L] -> text features [N, e], not normalised; computed at every position."""
        x = (self.token_embedding(text) + self.positional_embedding[: text.shape[1]]).to(self.dtype)
        x = self.ln_final(self.transformer(x.transpose(0, 1)).transpose(0, 1))  # [N, L, d]
        return x[torch.arange(len(x)), text.argmax(dim=-1)] @ self.text_projection


def _give_prompts(transformer: Transformer, place: Placement, prompts: Sequence[Tensor]) -> None:
    """Blocks 1, 2, ... get the given prompts, one each."""

    def rebuilt(layer: int, block: ResidualAttentionBlock) -> ResidualAttentionBlock:
        return BlockOwnPrompt(block, place, prompts[layer - 1]) if 0 < layer <= len(prompts) else block

    _rebuild(transformer, rebuilt)


def _own_prompt(prompt: Tensor, norm: nn.LayerNorm) -> nn.Parameter:
    """[n, d] in float32, whatever the precision of the tower; on the device of `norm`"""
    return nn.Parameter(prompt.to(norm.weight.device))


# --- given prompts ---------------------------------------------------------------------------------------------------


class BlockGivenPrompts(ResidualAttentionBlock):
    """Block that takes [rows [L, N, d], prompts of the deeper layers (n, d), how many have been used] and returns such.

    Every block but the first takes the next prompt, until none is left.
    """

    def __init__(self, block: ResidualAttentionBlock, place: Placement, is_first: bool) -> None:
        _take_over(self, block)
        self.place, self.is_first = place, is_first

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - as the files that use it call it
        self, inputs: Sequence
    ) -> list:
        x, deep, used = inputs
        if not self.is_first and used < len(deep):
            x = self.place(x, deep[used])
            used += 1
        return [super().forward(x), deep, used]


class VisionGivenPrompts(VisionTransformer):
    """Image tower that gets the prompts of layer 0, [n, d], and of the deeper layers."""

    def __init__(self, tower: VisionTransformer) -> None:
        _take_over(self, tower)

    def forward(  # pyright: ignore[reportIncompatibleMethodOverride] - as the files that use it call it
        self, images: Tensor, shared_ctx: Tensor, compound_deeper_prompts: Sequence[Tensor]
    ) -> Tensor:
        """images [B, 3, H, W] -> image features [B, e], not normalised"""
        return super().forward(images, [shared_ctx, *compound_deeper_prompts])


# --- rebuilding ------------------------------------------------------------------------------------------------------


def _rebuild(
    transformer: Transformer, rebuilt: Callable[[int, ResidualAttentionBlock], ResidualAttentionBlock]
) -> None:
    transformer.resblocks = nn.Sequential(*(rebuilt(layer, block) for layer, block in enumerate(transformer.blocks)))


def _take_over(new: nn.Module, old: nn.Module) -> None:
    """Everything that `old` is made of belongs to `new`, of a subclass; do not use `old` afterwards."""
    new.__setstate__(vars(old))
