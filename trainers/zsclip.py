"""Zero-shot CLIP with hand-written prompts, one template per data set or up to eight averaged. Nothing is learned."""

from __future__ import annotations

from torch import Tensor, nn
from yacs.config import CfgNode

from clip.published_start import draw_clip
from dassl.engine import TRAINER_REGISTRY, TrainerX
from dassl.utils import UserError
from trainers.core.facts import ALL_SETTINGS, PublishedRow, Recipes
from trainers.core.precision import Precision
from trainers.core.prompts import normalized
from trainers.core.ranges import check_ranges
from trainers.core.record import changes_no_number
from trainers.core.templates import (
    CUSTOM_TEMPLATES,
    DEFAULT_TEMPLATE,
    selected_templates,
    template_features,
    template_for,
)
from trainers.core.trainer import load_clip
from trainers.core.unknown_words import warn_of_unknown_words

__all__ = ["CUSTOM_TEMPLATES", "ZeroshotCLIP", "ZeroshotCLIP2"]


@TRAINER_REGISTRY.register()
class ZeroshotCLIP(TrainerX):
    """The data set's own template (Radford et al. 2021)."""

    refuses_other_configurations = True
    config_node = "ZEROSHOTCLIP"
    """Node under TRAINER."""
    display_name = "CLIP"
    paper_date = "2021-02"
    recipes = {"zsclip": Recipes(folder="CoOp", learns=False)}
    published = (PublishedRow("CLIP", "vit_b16", ALL_SETTINGS),)

    @property
    def changes_no_number(self) -> frozenset[str]:
        return changes_no_number()

    @classmethod
    def add_config(cls, cfg: CfgNode) -> None:
        cfg.TRAINER[cls.config_node] = CfgNode(dict(PREC="fp16"))  # fp16 (as published, on a GPU), bf16, fp32, amp

    def check_ranges(self, cfg: CfgNode) -> None:
        check_ranges(cfg)

    def templates(self) -> list[str]:
        """Templates whose normalised text features are averaged."""
        return [template_for(self.cfg.DATASET.NAME)]

    def build_model(self) -> None:
        self.precision = Precision.choose(self.cfg.TRAINER[self.config_node].PREC, self.device)
        print(f"Loading CLIP (backbone: {self.cfg.MODEL.BACKBONE.NAME})")
        self.clip_model = load_clip(self.cfg, self.precision)
        warn_of_unknown_words(self.clip_model, self.dm.dataset.classnames, self.cfg.MODEL.BACKBONE.NAME)
        draw_clip(self.clip_model)
        templates = self.templates()
        print(f"Prompt templates (n={len(templates)}): {templates}")
        with self.precision.autocast():
            per_template = template_features(self.clip_model, self.dm.dataset.classnames, templates)
            self.text_features = normalized(sum(normalized(features) for features in per_template))  # [C, e]

    def checked_models(self) -> dict[str, nn.Module | None]:
        return {"frozen CLIP": self.clip_model}

    def test(self, split: str | None = None) -> float:
        """As Dassl's; the output folder gets the record by which `predict.py` finds the classifier again."""
        self.write_run_record(self.output_dir)
        return super().test(split)

    def train(self) -> None:
        """Refused: there is nothing to train."""
        raise UserError(f"{type(self).__name__} learns nothing: add --eval-only")

    def model_inference(self, image: Tensor) -> Tensor:
        with self.precision.autocast():
            features = normalized(self.clip_model.encode_image(image))
            return self.clip_model.logit_scale.exp() * features @ self.text_features.t()


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
