"""CLIP's hand-written ImageNet prompts under the names by which trainer files of other repositories import them."""

from __future__ import annotations

from clip.backbones.open_clip_files import open_clip_module
from trainers.core.templates import selected_templates

__all__ = ["IMAGENET_TEMPLATES", "IMAGENET_TEMPLATES_SELECT"]

IMAGENET_TEMPLATES = [template("{}") for template in open_clip_module("zero_shot_metadata").OPENAI_IMAGENET_TEMPLATES]
"""CoOp's list of 80. The list of that name in PromptSRC's and ProMetaR's repositories is `IMAGENET_TEMPLATES[:60]`."""

IMAGENET_TEMPLATES_SELECT = selected_templates()
"""The short list of 7 that ZeroshotCLIP2 averages over."""
