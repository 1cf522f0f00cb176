"""Zero-shot CLIP with hand-written prompts, one template per data set or up to eight averaged. Nothing is learned."""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, nn
from yacs.config import CfgNode

from clip.model import CLIP
from clip.published_start import draw_clip
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.utils import UserError
from trainers.core.facts import ALL_SETTINGS, PublishedRow, Recipes
from trainers.core.method import Method
from trainers.core.prompted_clip import PromptedClip
from trainers.core.prompts import Prompts, Theta, normalized
from trainers.core.record import changes_no_number
from trainers.core.templates import (
    CUSTOM_TEMPLATES,
    DEFAULT_TEMPLATE,
    selected_templates,
    template_features,
    template_for,
)

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
class ZeroshotCLIP(Method, TrainerX):
    """The data set's own template (Radford et al. 2021)."""

    refuses_other_configurations = True
    config_node = "ZEROSHOTCLIP"
    display_name = "CLIP"
    paper_date = "2021-02"
    recipes = {"zsclip": Recipes(folder="CoOp", learns=False)}
    published = (PublishedRow("CLIP", "vit_b16", ALL_SETTINGS),)
    defaults = dict(
        PREC="fp16",  # fp16 (as published, on a GPU), bf16, fp32, amp
    )

    def __init__(self, cfg: CfgNode, prompted: PromptedClip | None = None) -> None:
        """Build what is evaluated.

        Args:
            cfg: the whole configuration.
            prompted: what is evaluated; None: built from the configuration.
        """
        self._given = prompted
        self.changes_no_number = changes_no_number()
        super().__init__(cfg)

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
        self.prompted = self.take_or_build(self._given, self.dm.dataset.classnames, self.device)
        self.clip_model, self.text_features = self.prompted.clip, self.prompted.text_features()  # the lineage's names

    def checked_models(self) -> dict[str, nn.Module | None]:
        return self.prompted.checked_models()

    def test(self, split: str | None = None, is_final: bool = False) -> float:
        """As Dassl's; the output folder gets the record by which `predict.py` finds the classifier again."""
        self.write_run_record(self.output_dir)
        return super().test(split, is_final)

    def train(self) -> None:
        """Refused: there is nothing to train."""
        raise UserError(f"{type(self).__name__} learns nothing: add --eval-only")

    def model_inference(self, input: Tensor) -> Tensor:
        return self.prompted.logits(input)


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
