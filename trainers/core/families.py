"""What a training scheme can train: the learned tensors of other methods, by the name that a config gives them.

A trainer offers its learned tensors to schemes by a static method

    family(clip, classnames, settings, key) -> Prompts

and is then a family, called by the trainer's registered name. `settings` is a node of the configuration and `key` its
place there, for error messages. Two class attributes are optional:

    family_alias             a second name, as the method is called in papers
    family_has_own_settings  True: `settings` is the trainer's own node. Otherwise it is the scheme's, with the sizes
                             N_CTX_TEXT, N_CTX_VISION, PROMPT_DEPTH_TEXT, PROMPT_DEPTH_VISION and CTX_INIT.

The scheme sets the precision in both cases.
"""

from __future__ import annotations

from yacs.config import CfgNode

from clip.model import CLIP
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError
from trainers.core.facts import fact
from trainers.core.prompts import Prompts


def families() -> list[str]:
    """Names of the trainers whose learned tensors a scheme can train."""
    names = TRAINER_REGISTRY.registered_names()
    return [name for name in names if fact(name, "family", None)]


def family_named(name: str, key: str) -> str:
    """The family of that name or alias.

    Args:
        name: what the config says.
        key: the key that has it, for the error message.

    Returns:
        The registered name of the trainer.

    Raises:
        UserError: there is no such family.
    """
    aliases = {fact(family, "family_alias", family): family for family in families()}
    family = aliases.get(name, name)
    if family not in families():
        raise UserError(f"{key} is {name!r}: choose one of {', '.join(sorted({*families(), *aliases}))}")
    return family


def build_family(name: str, clip: CLIP, classnames: list[str], nodes: CfgNode, scheme: str) -> Prompts:
    """The learned tensors of a family.

    Args:
        name: of the family.
        clip: the frozen model.
        classnames: the C class names.
        nodes: the configuration's TRAINER node.
        scheme: the scheme's node in it.

    Raises:
        UserError: there is no such family, or its settings do not fit.
    """
    family = family_named(name, f"TRAINER.{scheme}.PROMPTS")
    trainer = TRAINER_REGISTRY.get(family)
    node = trainer.config_node if fact(family, "family_has_own_settings", False) else scheme
    return trainer.family(clip, classnames, nodes[node], f"TRAINER.{node}")
