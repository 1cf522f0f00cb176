"""CLIP-LoRA: low-rank additions to the query, key and value matrices of every block of both towers.

Zanella, Ben Ayed, "Low-Rank Few-Shot Adaptation of Vision-Language Models", CVPRW 2024. With u = ln_1(x) of a block's
input, each of its three projections becomes

    W u + b + gamma B A dropout(u),    A [r, d], B [d, r], gamma = alpha / r

B starts from 0. Without dropout this is the projection by W + gamma B A. Class prompts are the data set's template.
Trained with the cross-entropy of CLIP's logits.

Shape legend: B images, C classes, N sequences, L rows, d tower width, r rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from clip.branched_text import BranchedText
from clip.model import CLIP
from clip.towers import Branch, output_with_projections
from dassl.config.ranges import BELOW_ONE, POSITIVE, between
from dassl.engine import TRAINER_REGISTRY
from dassl.metrics import compute_accuracy
from trainers.core.facts import Recipes
from trainers.core.prompts import Prompts, Theta, at_least_float32, normalised, readable, vit_of
from trainers.core.ranges import MOST_TOKENS
from trainers.core.templates import template_for, tokenize_prompts
from trainers.core.trainer import PromptTrainer

TEXT, VISUAL = "lora.text", "lora.visual"
PROJECTIONS = 3  # q, k, v


def low_rank(factor: float, kept: Tensor | None, a: Tensor, b: Tensor, u: Tensor) -> Tensor:
    """factor * B A (kept * u) for q, k, v side by side, [N, L, 3 d], in the precision of u.

    Args:
        factor: gamma, divided by the share of entries that dropout keeps.
        kept: [3, N, L, d] whether dropout keeps an entry; None: no dropout.
        a: [3, r, d]
        b: [3, d, r]
        u: [N, L, d]
    """
    rows = u.to(a.dtype)
    low = torch.einsum("nld,prd->pnlr", rows, a) if kept is None else torch.einsum("pnld,prd->pnlr", kept * rows, a)
    return (factor * torch.einsum("pnlr,pdr->nlpd", low, b).flatten(-2)).to(u.dtype)  # [N, L, 3 d]


class LowRankPrompts(Prompts):
    """Learns `lora.<text|visual>.<block>.A` [3, r, d] and `.B` [3, d, r], in the order q, k, v."""

    def __init__(self, clip: CLIP, prompts: Sequence[str], rank: int, gamma: float, dropout: float) -> None:
        visual = vit_of(clip, "CLIPLoRA")
        towers, tensors = {TEXT: clip.transformer, VISUAL: visual.transformer}, {}
        for side, tower in towers.items():
            for block in range(len(tower.resblocks)):
                a = torch.empty(PROJECTIONS, rank, tower.width)
                # LoRA's start: Kaiming uniform with slope sqrt(5), which is a bound of 1 / sqrt(d)
                tensors[f"{side}.{block}.A"] = a.uniform_(-(tower.width**-0.5), tower.width**-0.5)
                tensors[f"{side}.{block}.B"] = torch.zeros(PROJECTIONS, tower.width, rank)
        super().__init__(clip, tensors)
        self.towers, self.gamma, self.dropout = towers, gamma, dropout
        self.visual = (visual,)  # in a tuple, so that it is not a submodule
        self.context = BranchedText(clip, tokenize_prompts(prompts, clip), 0, in_projections=True)

    def draw_dropout(self, images: Tensor) -> tuple[Tensor | None, list[Tensor] | None]:
        """Which entries a step keeps, of every block [blocks, 3, N, L, d], boolean: in the image tower and then, chunk
        by chunk, in the text tower. Drawn in this order from the generator of the images' device.
        """
        if not self.dropout:
            return None, None
        rows = len(self.visual[0].positional_embedding)
        image = self._draw(VISUAL, len(images), rows, images.device)
        return image, [self._draw(TEXT, 1, rows, images.device) for rows in self.context.chunk_lengths]

    def _draw(self, side: str, sequences: int, rows: int, device: torch.device) -> Tensor:
        tower = self.towers[side]
        sizes = len(tower.resblocks), PROJECTIONS, sequences, rows, tower.width
        return torch.empty(sizes, dtype=torch.bool, device=device).bernoulli_(1 - self.dropout)

    def branches(self, kept: Tensor | None, *tensors: Tensor) -> dict[int, Branch]:
        """What is added in each block of a tower, from its A, B, A, B, ...; `kept` as `draw_dropout` gives it."""
        pairs = zip(tensors[::2], tensors[1::2], strict=True)
        if kept is None:
            return {block: partial(low_rank, self.gamma, None, a, b) for block, (a, b) in enumerate(pairs)}
        factor = self.gamma / (1 - self.dropout)
        return {block: partial(low_rank, factor, kept[block], a, b) for block, (a, b) in enumerate(pairs)}

    def text_features(self, theta: Theta, kept: Sequence[Tensor] | None = None) -> Tensor:
        tensors = self._of_tower(TEXT, theta)
        if kept is None:
            return self.context.encode(partial(self.branches, None), *tensors)
        return self.context.encode(self.branches, *tensors, constants=kept)

    def image_features(self, theta: Theta, images: Tensor, kept: Tensor | None = None) -> Tensor:
        tower = self.visual[0].tower(images, 0, 0)
        assert tower.before is not None, "an image tower starts from the image"
        branches = self.branches(kept, *self._of_tower(VISUAL, theta))
        return output_with_projections(tower, tower.before, branches)[:, 0]  # [B, e]

    def _of_tower(self, side: str, theta: Theta) -> list[Tensor]:
        blocks = range(len(self.towers[side].resblocks))
        return [theta[f"{side}.{block}.{name}"] for block in blocks for name in ("A", "B")]


@TRAINER_REGISTRY.register()
class CLIPLoRA(PromptTrainer):
    """Low-rank adaptation of both towers."""

    config_node = "CLIPLORA"
    display_name = "CLIP-LoRA"
    paper_date = "2024-05"
    recipes = {"clip_lora": Recipes("_r2", dataset_pattern="vit_b16_r2_{}")}
    registered_name = "lora"
    learned_names = (r"^lora\.",)
    ranges = {"RANK": between(1, MOST_TOKENS), "LORA_ALPHA": POSITIVE, "DROPOUT": BELOW_ONE}
    defaults = dict(
        RANK=2,  # r, rank of the additions to a weight matrix
        LORA_ALPHA=1.0,  # gamma = LORA_ALPHA / RANK
        DROPOUT=0.25,  # share of the rows' entries that A does not see in a training step
        PREC="amp",  # fp16, bf16, fp32, amp
    )

    def build_prompts(self, clip: CLIP, classnames: list[str]) -> Prompts:
        s, template = self.settings, template_for(self.cfg.DATASET.NAME)
        prompts = [template.format(readable(name)) for name in classnames]
        return LowRankPrompts(clip, prompts, s.RANK, s.LORA_ALPHA / s.RANK, s.DROPOUT)

    def parse_batch_train(self, batch: dict) -> tuple:
        """Images, labels, and what dropout keeps in the image tower and in the text tower."""
        image, label = super().parse_batch_train(batch)
        assert isinstance(self.prompts, LowRankPrompts)
        return image, label, *self.prompts.draw_dropout(image)

    def objective(  # pyright: ignore[reportIncompatibleMethodOverride] - takes what `parse_batch_train` gives
        self, theta: Theta, image: Tensor, label: Tensor, image_kept: Tensor | None, text_kept: Sequence[Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert isinstance(self.prompts, LowRankPrompts)
        with self.precision.autocast():
            text = normalised(self.prompts.text_features(theta, text_kept))  # [C, e]
            features = normalised(self.prompts.image_features(theta, image, image_kept))  # [B, e]
            logits = self.prompts.similarity(features, text)  # [B, C]
        loss = F.cross_entropy(at_least_float32(logits), label)
        return loss, {"loss": loss, "acc": compute_accuracy(logits, label)[0]}
