"""Prompt families that a training scheme can be applied to, by the name a config gives them."""

from __future__ import annotations

from collections.abc import Callable

from yacs.config import CfgNode

from clip.model import CLIP
from clip.published_start import draw_clip
from dassl.utils import UserError
from trainers.coop import CoOpPrompts
from trainers.core.prompts import ContextPrompts, Prompts, context_words, visual_prompt_sizes
from trainers.ivlp import IVLPPrompts
from trainers.vpt import VPTPrompts


def _coop(clip: CLIP, classnames: list[str], s: CfgNode, key: str) -> Prompts:
    draw_clip(clip)
    context = ContextPrompts(clip, classnames, s.N_CTX_TEXT, context_words(s.CTX_INIT, s.N_CTX_TEXT))
    return CoOpPrompts(clip, context)


def _vpt(clip: CLIP, classnames: list[str], s: CfgNode, key: str) -> Prompts:
    if s.PROMPT_DEPTH_VISION == 0:
        raise UserError(f"{key}.PROMPT_DEPTH_VISION is 0: VPT would learn nothing, set it to 1 or more")
    sizes = visual_prompt_sizes(clip, s.N_CTX_VISION, s.PROMPT_DEPTH_VISION, f"{key}.PROMPT_DEPTH_VISION")
    return VPTPrompts(clip, classnames, s.CTX_INIT, sizes)


FAMILIES: dict[str, Callable[[CLIP, list[str], CfgNode, str], Prompts]] = {
    "IVLP": IVLPPrompts,
    "CoOp": _coop,
    "VPT": _vpt,
}


def build_family(name: str, clip: CLIP, classnames: list[str], settings: CfgNode, key: str) -> Prompts:
    """Prompts of the family `name`, with the sizes in `settings` (N_CTX_*, PROMPT_DEPTH_*, CTX_INIT).

    Raises:
        UserError: no such family.
    """
    if name not in FAMILIES:
        raise UserError(f"{key}.PROMPTS is {name!r}: choose one of {', '.join(FAMILIES)}")
    return FAMILIES[name](clip, classnames, settings, key)
