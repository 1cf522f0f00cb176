"""Zero-shot CLIP with hand-written prompts, one template per data set or up to eight averaged. Nothing is learned."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

from clip.model import CLIP
from clip.published_start import draw_clip
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError
from trainers.core.facts import ALL_SETTINGS, PublishedRow, Recipes
from trainers.core.prompts import Prompts, Theta, normalized
from trainers.core.templates import (
    CUSTOM_TEMPLATES,
    DEFAULT_TEMPLATE,
    selected_templates,
    template_features,
    template_for,
)
from trainers.core.trainer import MethodTrainer

__all__ = ["CUSTOM_TEMPLATES", "ZeroshotCLIP", "ZeroshotCLIP2"]


class FixedPrompts(Prompts):
    """Learns nothing.

    Args:
        clip: the frozen model.
        text: class features [C, e].
    """

    text_prompts = image_prompts = ()

    def __init__(self, clip: CLIP, text: Tensor) -> None:
        super().__init__(clip, {})
        self._fixed_text = text

    def text_features(self, theta: Theta) -> Tensor:
        return self._fixed_text


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(MethodTrainer):
    """The data set's own template (Radford et al. 2021)."""

    config_node = "ZEROSHOTCLIP"
    display_name = "CLIP"
    paper_date = "2021-02"
    recipes = {"zsclip": Recipes(folder="CoOp", learns=False)}
    published = (PublishedRow("CLIP", "vit_b16", ALL_SETTINGS),)
    defaults = dict(
        PREC="fp16",  # fp16 (as published, on a GPU), bf16, fp32, amp
    )

    def templates(self) -> list[str]:
        """Templates whose normalised text features are averaged."""
        return [template_for(self.cfg.DATASET.NAME)]

    def build_prompts(self, clip: CLIP, classnames: list[str]) -> Prompts:
        draw_clip(clip)
        templates = self.templates()
        print(f"Prompt templates (n={len(templates)}): {templates}")
        with self.precision.autocast():
            return FixedPrompts(
                clip, reduce(torch.add, map(normalized, template_features(clip, classnames, templates)))
            )

    def build_model(self) -> None:
        super().build_model()
        self.clip_model, self.text_features = self.prompted.clip, self.prompted.text_features()  # the lineage's names

    def test(self, split: str | None = None, is_final: bool = False) -> float:
        """As Dassl's; the output folder gets the record by which `predict.py` finds the classifier again."""
        self.write_run_record(self.output_dir)
        return super().test(split, is_final)

    def train(self) -> None:
        """Refused: there is nothing to train."""
        raise UserError(f"{type(self).__name__} learns nothing: add --eval-only")


@TRAINER_REGISTRY.register()
class ZeroshotCLIP2(ZeroshotCLIP):
    """The seven selected templates and the data set's own, unless that is the plain one."""

    config_node = "ZEROSHOTCLIP2"
    display_name = "CLIP (template ensemble)"
    paper_date = "2021-02"
    recipes = {"zsclip2": Recipes(folder="CoOp", learns=False)}

    def templates(self) -> list[str]:
        own = template_for(self.cfg.DATASET.NAME)
        return selected_templates() + ([own] if own != DEFAULT_TEMPLATE else [])
