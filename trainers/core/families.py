"""Prompt families that a training scheme can be applied to, by the name a config gives them.

A trainer offers its prompts to schemes by a static method

    family(clip, classnames, settings, key) -> Prompts

with the sizes in `settings` (N_CTX_TEXT, N_CTX_VISION, PROMPT_DEPTH_TEXT, PROMPT_DEPTH_VISION, CTX_INIT); `key` is the
settings' place in the configuration, for error messages. The family is called by the trainer's registered name.
"""

from __future__ import annotations

from yacs.config import CfgNode

from clip.model import CLIP
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError
from trainers.core.facts import fact
from trainers.core.prompts import Prompts


def families() -> list[str]:
    """Names of the trainers whose prompts a scheme can train."""
    names = TRAINER_REGISTRY.registered_names()
    return [name for name in names if fact(name, "family", None)]


def build_family(name: str, clip: CLIP, classnames: list[str], settings: CfgNode, key: str) -> Prompts:
    """Prompts of the family `name`.

    Raises:
        UserError: there is no such family.
    """
    if name not in families():
        raise UserError(f"{key}.PROMPTS is {name!r}: choose one of {', '.join(families())}")
    return TRAINER_REGISTRY.get(name).family(clip, classnames, settings, key)
