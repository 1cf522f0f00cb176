"""MMA: adapters beside the upper blocks of both towers, with one layer in common.

Yang et al., "MMA: Multi-Modal Adapter for Vision-Language Models", CVPR 2024. With u = ln_1(x) of a block's input, the
block's output gains A(u) = s (U relu(S relu(D u + d) + e) + c), row by row; D, U belong to one tower, S to both. Class
prompts are fixed words. Trained with the cross-entropy of CLIP's logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn
from yacs.config import CfgNode

from clip.branched_text import EMBEDDINGS, BranchedText
from clip.model import CLIP, VisionTransformer
from clip.published_start import draw_clip
from clip.towers import Branch, output_with_branches
from dassl.config.ranges import POSITIVE, at_least, between
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError
from trainers.core.facts import BASE_TO_NEW, CROSS_DATASET, PublishedRow, Recipes
from trainers.core.gradients import scaled
from trainers.core.prompts import Prompts, Theta, linear, linear_tensors, readable, vit_of
from trainers.core.ranges import MOST_TOKENS
from trainers.core.templates import tokenize_prompts
from trainers.core.trainer import PromptTrainer

LEARNER = "adapter_learner"
TEXT, VISUAL = "text_adapter", "visual_adapter"


def drawn_adapters(clip: CLIP, visual: VisionTransformer, layers: range, width: int) -> dict[str, Tensor]:
    """Start values by name, drawn in the published order: weights Kaiming normal (fan_out, relu), biases 0."""

    def draw(sizes: Sequence[tuple[str, int, int]]) -> dict[str, Tensor]:
        """All layers are made, which draws PyTorch's initialisation, and only then drawn once more."""
        tensors = {}
        for name, layer in [(name, nn.Linear(inputs, outputs)) for name, inputs, outputs in sizes]:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)
            tensors |= linear_tensors(f"{LEARNER}.{name}", layer)
        return tensors

    tensors = {}
    for side, d in ((TEXT, clip.transformer.width), (VISUAL, visual.transformer.width)):
        ends = (("down.0", d, width), ("up", width, d))
        tensors |= draw([(f"{side}.{layer}.{end}", rows, columns) for layer in layers for end, rows, columns in ends])
    return tensors | draw([(f"shared_adapter.{layer}.0", width, width) for layer in layers])


class MMAPrompts(Prompts):
    """Learns the adapters of `layers`, counted from 1; 0 stands for the embeddings.

    Args:
        scale: s.
        scale_gradients: whether the adapters of all blocks get 1/s times their gradient, as published.
    """

    def __init__(
        self, clip: CLIP, prompts: Sequence[str], layers: range, width: int, scale: float, scale_gradients: bool
    ) -> None:
        visual = vit_of(clip, "MultiModalAdapter")
        draw_clip(clip)
        super().__init__(clip, drawn_adapters(clip, visual, layers, width))
        self.visual = (visual,)  # in a tuple, so that it is not a submodule
        self.layers, self.scale, self.scale_gradients = layers, scale, scale_gradients
        self.context = BranchedText(clip, tokenize_prompts(prompts, clip), layers[0] - 1)

    def adapter(self, theta: Theta, side: str, layer: int, u: Tensor) -> Tensor:
        """A(u) of a layer, in the precision of u; u [..., d]."""
        down, up, shared = f"{side}.{layer}.down.0", f"{side}.{layer}.up", f"shared_adapter.{layer}.0"
        larger = self.scale_gradients and layer > 0
        h = scaled(u, 1.0, self.scale) if larger else u
        h = h.to(theta[f"{LEARNER}.{up}.bias"].dtype)
        for name in (down, shared, up):
            h = linear(theta, f"{LEARNER}.{name}", h)
            h = h if name == up else h.relu()
        return scaled(h, self.scale, 1.0 if larger else self.scale).to(u.dtype)

    def branches(self, side: str, names: Sequence[str], *tensors: Tensor) -> dict[int, Branch]:
        """The adapters of a tower by their place: the block, counted from 0, or `EMBEDDINGS`."""
        theta = dict(zip(names, tensors, strict=True))
        return {layer - 1: partial(self.adapter, theta, side, layer) for layer in self.layers}

    def text_features(self, theta: Theta) -> Tensor:
        return self.context.encode(partial(self.branches, TEXT, list(theta)), *theta.values())

    def image_features(self, theta: Theta, images: Tensor) -> Tensor:
        branches, tower = self.branches(VISUAL, list(theta), *theta.values()), self.visual[0].tower(images, 0, 0)
        rows = tower.before  # [B, L, d]
        assert rows is not None, "an image tower starts from the image"
        if at_embeddings := branches.pop(EMBEDDINGS, None):
            rows = rows + at_embeddings(rows)
        return output_with_branches(tower, self.clip, rows, branches)[:, 0]


@TRAINER_REGISTRY.register()
class MultiModalAdapter(PromptTrainer):
    """Multi-modal adapter."""

    config_node = "MMADAPTER"
    display_name = "MMA"
    paper_date = "2024-06"
    recipes = {"mma": Recipes("_ep5", by_dataset={"imagenet": "vit_b16_ep5_imnet"})}
    published = (PublishedRow("MMA", "vit_b16_ep5", (BASE_TO_NEW, CROSS_DATASET)),)
    registered_name = learned_part = LEARNER
    learned_names = (r"(text|visual|shared)_adapter\.",)
    family_alias, family_has_own_settings = "MMA", True
    ranges = {
        "ADAPTER_START": at_least(0),
        "ADAPTER_END": at_least(0),
        "ADAPTER_DIM": between(1, MOST_TOKENS),
        "ADAPTER_SCALE": POSITIVE,
    }
    defaults = dict(
        TEXT_CTX_INIT="a photo of a",  # fixed words before the class name
        PREC="amp",  # fp16, bf16, fp32, amp
        ADAPTER_START=5,  # first layer with an adapter: 1 is the first block, 0 the embeddings
        ADAPTER_END=12,  # last layer with one
        ADAPTER_DIM=32,  # hidden width
        ADAPTER_SCALE=0.001,  # s, factor of an adapter's output
        SCALE_GRADIENTS=True,  # adapters beside blocks learn from 1/s times their gradient, as published
    )

    @staticmethod
    def family(clip: CLIP, classnames: list[str], settings: CfgNode, key: str) -> Prompts:
        s = settings
        visual = vit_of(clip, "MultiModalAdapter")
        layers = min(len(clip.transformer.resblocks), len(visual.transformer.resblocks))
        if not 0 <= s.ADAPTER_START <= s.ADAPTER_END <= layers:
            raise UserError(
                f"{key}.ADAPTER_START is {s.ADAPTER_START} and ADAPTER_END {s.ADAPTER_END}: they should "
                f"lie between 0 and {layers}, the number of layers of both towers, and END not below START"
            )
        prompts = [f"{readable(s.TEXT_CTX_INIT)} {readable(name)}.".strip() for name in classnames]
        layers = range(s.ADAPTER_START, s.ADAPTER_END + 1)
        return MMAPrompts(clip, prompts, layers, s.ADAPTER_DIM, s.ADAPTER_SCALE, s.SCALE_GRADIENTS)
