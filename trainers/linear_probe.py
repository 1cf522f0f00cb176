"""Linear probe on the frozen image features, whose class weights start from the zero-shot text features.

Silva-Rodriguez, Hajimiri, Ben Ayed, Dolz, "A Closer Look at the Few-Shot Adaptation of Large Vision-Language Models",
CVPR 2024 (ZS-LP). With f(x) the normalised image feature, t_c the normalised text feature of class c, and W [C, e],

    logits_c = s f(x) . w_c / |w_c|,    w_c = t_c at the start
    loss = cross-entropy + CLAP_WEIGHT * sum over classes of lambda_c |w_c - t_c|^2
    lambda_c = mean over the training images of class c of the zero-shot probability of c

The second term is the paper's class-adaptive penalty (CLAP). Shape legend: B images, C classes, e joint embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.model import CLIP
from dassl.config.ranges import at_least
from dassl.data.data_manager import build_data_loader
from dassl.engine import TRAINER_REGISTRY
from dassl.engine.run_record import CLASSNAMES_NAME, classnames_digest, read_classnames
from dassl.metrics import compute_accuracy
from dassl.utils import UserError
from dassl.utils.names import listed
from dassl.utils.random_state import same_random_state_afterwards
from trainers.core.facts import Recipes
from trainers.core.prompts import Prompts, Theta, at_least_float32, normalised
from trainers.core.templates import template_features, template_for
from trainers.core.trainer import PromptTrainer

WEIGHT = "classifier.weight"
MOST_NAMES = 10  # in a line of the log


class ClassWeights(Prompts):
    """Learns `classifier.weight` [C, e], which takes the place of the text features.

    Args:
        zero_shot: [C, e] normalised text features.
    """

    def __init__(self, clip: CLIP, zero_shot: Tensor) -> None:
        super().__init__(clip, {WEIGHT: zero_shot})
        self.zero_shot, self.image_prompts = zero_shot, ()

    def text_features(self, theta: Theta) -> Tensor:
        return theta[WEIGHT]


@TRAINER_REGISTRY.register()
class LinearProbe(PromptTrainer):
    """Zero-shot initialised linear probe."""

    config_node = "LINEARPROBE"
    display_name = "Linear probe"
    paper_date = "2023-12"
    recipes = {"linear_probe": Recipes("_ep300")}
    registered_name = "classifier"
    learned_names = (r"^classifier\.",)
    ranges = {"CLAP_WEIGHT": at_least(0)}
    defaults = dict(
        CLAP_WEIGHT=0.0,  # weight of the class-adaptive penalty; 0 for none
        PREC="fp16",  # fp16, bf16, fp32, amp
    )

    def build_prompts(self, clip: CLIP, classnames: list[str]) -> Prompts:
        (features,) = template_features(clip, classnames, [template_for(self.cfg.DATASET.NAME)])
        return ClassWeights(clip, normalised(features))

    @property
    def zero_shot(self) -> Tensor:
        """t [C, e]"""
        assert isinstance(self.prompts, ClassWeights)
        return self.prompts.zero_shot

    def before_train(self) -> None:
        if self.settings.CLAP_WEIGHT:
            low, high = self.multipliers.min().item(), self.multipliers.max().item()
            print(f"CLAP multipliers of {len(self.multipliers)} classes: between {low:.4f} and {high:.4f}")
        super().before_train()

    @cached_property
    @torch.no_grad()
    @same_random_state_afterwards()
    def multipliers(self) -> Tensor:
        """lambda [C]; each training image counts once, as it is tested on (not augmented)."""
        from dassl.data.transforms import build_transform  # torchvision, which takes two seconds

        cfg, images = self.cfg, self.dm.dataset.train_x
        size, transform = cfg.DATALOADER.TEST.BATCH_SIZE, build_transform(cfg, is_train=False)
        loader = build_data_loader(cfg, data_source=images, batch_size=size, tfm=transform, is_train=False)
        sums = self.zero_shot.new_zeros(len(self.zero_shot))  # [C]
        counts = sums.clone()
        for batch in loader:
            image, label = self.parse_batch_test(batch)
            with self.precision.autocast():
                logits = self.prompts.logits(self.theta(), image, self.zero_shot)  # [B, C]
            probability = at_least_float32(logits).softmax(dim=-1).gather(1, label[:, None])[:, 0].to(sums.dtype)
            sums.index_add_(0, label, probability)
            counts.index_add_(0, label, torch.ones_like(probability))
        return sums / counts.clamp(min=1)

    def objective(self, theta: Theta, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        if not self.settings.CLAP_WEIGHT:
            return super().objective(theta, image, label)
        with self.precision.autocast():
            logits = self.prompts.logits(theta, image)  # [B, C]
        cross_entropy = F.cross_entropy(at_least_float32(logits), label)
        distance = (theta[WEIGHT] - self.zero_shot).square().sum(dim=-1)  # [C]
        penalty = (self.multipliers * distance).sum()
        loss = cross_entropy + self.settings.CLAP_WEIGHT * penalty
        reported = {"loss": loss, "loss_ce": cross_entropy, "penalty": penalty}
        return loss, reported | {"acc": compute_accuracy(logits, label)[0]}

    def state_for_own_classes(
        self, state: Mapping[str, Tensor], folder: str, classnames: str | None
    ) -> Mapping[str, Tensor]:
        """Weights by class name; a class that was not trained on gets its zero-shot text feature, as a line says."""
        names, path = self.classes, Path(folder, CLASSNAMES_NAME)
        if classnames == classnames_digest(names) or (classnames is None and not path.is_file()):
            return state  # without any record, only the number of classes is checked
        trained = read_classnames(folder)
        if classnames not in (None, classnames_digest(trained)):
            raise UserError(f"{path} does not have the class names of the checkpoint's training")
        if trained == names or WEIGHT not in state:
            return state
        if len(state[WEIGHT]) != len(trained):
            raise UserError(f"{path} has {len(trained)} class names, but {WEIGHT} has {len(state[WEIGHT])} rows")
        learned = dict(zip(trained, state[WEIGHT], strict=True))
        new = [name for name in names if name not in learned]
        line = f"{type(self).__name__}: {len(names) - len(new)} of {len(names)} classes have learned weights"
        if new:
            line += f"; the other {len(new)} keep their zero-shot text features: {listed(new, MOST_NAMES)}"
        print(line)
        rows = zip(names, self.zero_shot.cpu(), strict=True)
        return dict(state) | {WEIGHT: torch.stack([learned.get(name, row).to(row) for name, row in rows])}
