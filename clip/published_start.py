"""The random numbers that the published code draws while it builds a CLIP.

The published trainers build CLIP as PyTorch modules, and only then copy the weights over what the modules drew for
themselves. Whatever is drawn later from the same seed (prompts, projections, the order of images, tasks) depends on how
many numbers that took. `draw_clip` takes the same numbers from PyTorch's global CPU generator, in the same order, and
keeps those that become prompts. The others are only counted: no module is built.

The order is that of construction: each layer as its module is made (PyTorch's own initialisation), then CLIP's
initialisation of the attention pool and the text tower. Prompts that live inside a tower are drawn where their layer is
built. All sizes are those of the given model.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from clip.model import CLIP, ModifiedResNet, ResidualAttentionBlock, Transformer, VisionTransformer

PROMPT_STD = 0.02
"""Standard deviation of every prompt that starts as noise."""

_NORMAL_BLOCK = 16
"""From this size on, PyTorch draws normal numbers in blocks."""

_SCRATCH = 1 << 18


class PromptSizes(NamedTuple):
    """Prompts of one tower: how many tokens each has, and how many layers have one."""

    tokens: int = 0
    depth: int = 0


class DrawnPrompts(NamedTuple):
    """Start values of the prompts inside the towers, each [n, d], float32, on the CPU."""

    visual: list[Tensor]
    """Layers 0 .. depth - 1."""
    text: list[Tensor]
    """Layers 1 .. depth - 1; the prompt of layer 0 is the trainer's own context."""


NO_PROMPTS = PromptSizes()


def draw_clip(clip: CLIP, visual: PromptSizes = NO_PROMPTS, text: PromptSizes = NO_PROMPTS) -> DrawnPrompts:
    """Advance PyTorch's global CPU generator as if the published code had built `clip`.

    Args:
        clip: only its sizes are used.
        visual: prompts that live in the image tower.
        text: prompts that live in the text tower.

    Returns:
        The prompts drawn on the way.
    """
    if isinstance(clip.visual, VisionTransformer):
        visual_prompts = _draw_vision_transformer(clip.visual, visual)
    else:
        visual_prompts = []
        _draw_resnet(clip.visual)
    text_prompts = _draw_transformer(clip.transformer, text)
    _skip_normal(clip.token_embedding.weight)  # PyTorch's initialisation
    _draw_clip_initialisation(clip)
    return DrawnPrompts(visual_prompts, text_prompts)


def draw_prompt(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Start values of a prompt that no words stand for: N(0, PROMPT_STD^2) of the given shape, on the CPU.

    Args:
        shape: usually [n, d].
        dtype: PyTorch draws other values in half precision than in single precision from the same state.
    """
    return torch.empty(*shape, dtype=dtype, device="cpu").normal_(std=PROMPT_STD)


# --- towers, in the order of construction ----------------------------------------------------------------------------


def _draw_vision_transformer(tower: VisionTransformer, prompts: PromptSizes) -> list[Tensor]:
    _skip_uniform(tower.conv1.weight)
    first = [draw_prompt(prompts.tokens, tower.transformer.width)] if prompts.depth else []
    _skip_normal(tower.class_embedding)
    _skip_normal(tower.positional_embedding)
    deep = _draw_transformer(tower.transformer, prompts)
    _skip_normal(tower.proj)
    return first + deep


def _draw_resnet(tower: ModifiedResNet) -> None:
    for module in tower.modules():
        if isinstance(module, nn.Conv2d):
            _skip_uniform(module.weight)
    pool = tower.attnpool
    _skip_normal(pool.positional_embedding)
    for layer in (pool.k_proj, pool.q_proj, pool.v_proj, pool.c_proj):
        _skip_linear(layer)


def _draw_transformer(transformer: Transformer, prompts: PromptSizes) -> list[Tensor]:
    """The blocks, and the prompts of layers 1 .. depth - 1."""
    drawn = []
    for layer, block in enumerate(transformer.blocks):
        _draw_block(block)
        if 0 < layer < prompts.depth:
            drawn.append(draw_prompt(prompts.tokens, transformer.width))
    return drawn


def _draw_block(block: ResidualAttentionBlock) -> None:
    _skip_linear(block.attn.out_proj)
    _skip_uniform(block.attn.in_proj_weight)
    _skip_linear(block.mlp.c_fc)
    _skip_linear(block.mlp.c_proj)


def _draw_clip_initialisation(clip: CLIP) -> None:
    """What CLIP's `initialize_parameters` draws once more (Radford et al. 2021, section 2.5)."""
    _skip_normal(clip.token_embedding.weight)
    _skip_normal(clip.positional_embedding)
    if isinstance(clip.visual, ModifiedResNet):
        pool = clip.visual.attnpool
        for layer in (pool.q_proj, pool.k_proj, pool.v_proj, pool.c_proj):
            _skip_normal(layer.weight)
    for block in clip.transformer.blocks:
        for weight in (
            block.attn.in_proj_weight,
            block.attn.out_proj.weight,
            block.mlp.c_fc.weight,
            block.mlp.c_proj.weight,
        ):
            _skip_normal(weight)
    _skip_normal(clip.text_projection)


# --- advancing the generator -----------------------------------------------------------------------------------------


def _skip_linear(layer: nn.Linear) -> None:
    """PyTorch's initialisation of weight and bias."""
    _skip_uniform(layer.weight)
    _skip_uniform(layer.bias)


def _skip_uniform(like: Tensor) -> None:
    """Advance as a float32 `uniform_` of the size of `like` does: one number a value."""
    _skip(like.numel())


def _skip_normal(like: Tensor) -> None:
    """Advance as a float32 `normal_` of the size of `like` does.

    PyTorch fills blocks of 16 from one uniform number a value; where the last block is not full, it draws the last 16
    values again. Fewer than 16 values are drawn singly, and leave a second number for the next call.
    """
    count = like.numel()
    if count < _NORMAL_BLOCK:
        torch.empty(count, device="cpu").normal_()
        return
    _skip(count + (_NORMAL_BLOCK if count % _NORMAL_BLOCK else 0))


def _skip(count: int) -> None:
    """Draw this many numbers of 32 bits from PyTorch's global CPU generator."""
    scratch = torch.empty(min(count, _SCRATCH), device="cpu")
    while count > 0:
        scratch[:count].uniform_()
        count -= len(scratch)
