"""CoPrompt: MaPLe's prompts and two adapters, kept consistent with the frozen CLIP.

Roy, Etemad, "Consistency-guided Prompt Learning for Vision-Language Models", ICLR 2024. Behind each tower,
f <- a relu(B relu(A f)) + (1 - a) f. The frozen CLIP sees another augmentation of the image, and a sentence about each
class; L = CE + W d, with d the distance of both pairs of normalised features.
"""

from __future__ import annotations

import random
from functools import cached_property

import torch.nn.functional as F
from torch import Tensor, nn
from yacs.config import CfgNode

from clip.model import CLIP
from clip.published_start import draw_clip
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError
from trainers.core.descriptions import description_features, read_descriptions
from trainers.core.facts import BASE_TO_NEW, CROSS_DATASET, PublishedRow, Recipes
from trainers.core.prompts import Prompts, Theta, at_least_float32
from trainers.core.trainer import PromptTrainer
from trainers.maple import MaPLePrompts

REDUCTION = 4
SHARES = {"adapter_image": 0.1, "adapter_text": 0.2}
"""a, by adapter."""


def distance(kind: str, ours: Tensor, teacher: Tensor) -> Tensor:
    """Of normalised features [N, e]: one minus the mean cosine, or the mean square of the differences (mse)."""
    if kind == "cosine":
        return 1 - (ours * teacher).sum(dim=-1).mean()
    return F.mse_loss(ours, teacher)


class CoPromptPrompts(MaPLePrompts):
    """Learns what MaPLe does, and A, B [e/4, e], [e, e/4] of each adapter as `<adapter>.fc.0` and `.fc.2`."""

    def __init__(self, clip: CLIP, classnames: list[str], settings: CfgNode, key: str) -> None:
        draw_clip(clip)  # the published code builds a second CLIP, for the teacher
        super().__init__(
            clip, classnames, settings.N_CTX, settings.CTX_INIT, settings.PROMPT_DEPTH, f"{key}.PROMPT_DEPTH"
        )
        self.text_prompts = None  # the adapter takes part
        joint = clip.text_projection.shape[1]
        for name in SHARES:
            down = nn.Linear(joint, joint // REDUCTION, bias=False)
            up = nn.Linear(joint // REDUCTION, joint, bias=False)
            self.learn({f"{name}.fc.0.weight": down.weight, f"{name}.fc.2.weight": up.weight})

    def adapted(self, theta: Theta, name: str, features: Tensor) -> Tensor:
        """Features [N, e], not normalised, after the adapter of that name."""
        features, share = at_least_float32(features), SHARES[name]
        hidden = F.linear(features, theta[f"{name}.fc.0.weight"]).relu()
        return share * F.linear(hidden, theta[f"{name}.fc.2.weight"]).relu() + (1 - share) * features

    def text_features(self, theta: Theta) -> Tensor:
        return self.adapted(theta, "adapter_text", super().text_features(theta))

    def image_features(self, theta: Theta, images: Tensor) -> Tensor:
        return self.adapted(theta, "adapter_image", super().image_features(theta, images))


@TRAINER_REGISTRY.register()
class CoPrompt(PromptTrainer):
    """Consistency-guided prompt learning."""

    config_node = "COPROMPT"
    paper_date = "2023-06"
    recipes = {"coprompt": Recipes("_coprompt", unprefixed="coprompt", dataset_pattern="coprompt_{}")}
    published = (PublishedRow("CoPrompt", "coprompt", (BASE_TO_NEW, CROSS_DATASET)),)
    registered_name = "MultiModalPromptLearner"
    learned_names = (r"^adapter_(image|text)\.",)
    views = 2
    training_files = ("TRAINER.COPROMPT.DESCRIPTIONS",)
    choices = {"DISTILL": ("cosine", "mse")}
    defaults = dict(
        N_CTX=2,  # number of tokens in each tower
        CTX_INIT="a photo of a",  # words that the context starts from (up to 4 tokens)
        PREC="fp16",  # fp16, bf16, fp32, amp
        PROMPT_DEPTH=9,  # layers with tokens of their own
        W=8.0,  # weight of the distance from the frozen CLIP
        DISTILL="cosine",  # distance: cosine or mse
        DESCRIPTIONS="",  # JSON file {class name: [sentences]}; needed for training only
    )

    def build_prompts(self, clip: CLIP, classnames: list[str]) -> Prompts:
        return CoPromptPrompts(clip, classnames, self.settings, "TRAINER.COPROMPT")

    def before_train(self) -> None:
        print(f"Descriptions: {len(self.descriptions)} sentences a class, from {self.settings.DESCRIPTIONS}")
        super().before_train()

    @cached_property
    def descriptions(self) -> Tensor:
        """Normalised features of R sentences about each class, [R, C, e], by the frozen CLIP."""
        path = self.settings.DESCRIPTIONS
        if not path:
            raise UserError(
                "TRAINER.COPROMPT.DESCRIPTIONS is empty: name a JSON file {class name: [sentences]}; "
                "python -m tools.describe_classes writes one from templates"
            )
        return description_features(self.prompts.clip, read_descriptions(path, self.dm.dataset.classnames))

    def parse_batch_train(self, batch: dict) -> tuple[Tensor, ...]:
        """Images, labels, second views, and the drawn sentence of all classes [C, e]."""
        several = batch["img"]  # K_TRANSFORMS 2 gives a list; two transforms give img and img2
        views = several if isinstance(several, list | tuple) else (several, batch["img2"])
        sentence = self.descriptions[random.randint(0, len(self.descriptions) - 1)]
        image, label, second = self._on_device(views[0], batch["label"], views[1])
        return image, label, second, sentence

    def objective(  # pyright: ignore[reportIncompatibleMethodOverride] - takes what `parse_batch_train` gives
        self, theta: Theta, image: Tensor, label: Tensor, second: Tensor, sentence: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        text, features, logits = self.encoded(theta, image)
        teacher, kind, w = self.teacher_image_features(second), self.settings.DISTILL, self.settings.W
        return self.summed(
            logits,
            label,
            loss_base=F.cross_entropy(logits, label),
            loss_text=w * distance(kind, text, sentence),
            loss_image=w * distance(kind, features, teacher),
        )
