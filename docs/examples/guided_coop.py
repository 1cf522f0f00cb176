"""GuidedCoOp: CoOp whose class features stay near those of a hand-written prompt.

An example of a method in one file, after KgCoOp (Yao, Zhang, Xu, "Visual-Language Prompt Tuning with Knowledge-Guided
Context Optimization", CVPR 2023). With w_c(v), the normalised text feature of class c under the learned context v, and
w0_c, that of the data set's hand-written prompt,

    loss = cross-entropy + WEIGHT * mean over classes of |w_c(v) - w0_c|^2

The context learns from few classes; the second term keeps it from forgetting what CLIP knew of all others.

Shape legend: B images, C classes, n context tokens, d text width, e joint embedding.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from clip.model import CLIP
from clip.published_start import draw_clip
from dassl.config.ranges import at_least
from dassl.engine import TRAINER_REGISTRY
from trainers.core.facts import Recipes
from trainers.core.prompts import CONTEXT, ContextPrompts, Prompts, Theta, normalised
from trainers.core.templates import template_features, template_for
from trainers.core.trainer import PromptTrainer


class GuidedPrompts(Prompts):
    """What is learned: `prompt_learner.ctx` [n, d]. How it is used: before every class name, in the text tower."""

    def __init__(self, clip: CLIP, context: ContextPrompts) -> None:
        super().__init__(clip, {CONTEXT: context.initial})
        self.context = context

    def text_features(self, theta: Theta) -> Tensor:
        """Class features [C, e], not normalised; the image side stays as it is."""
        return self.context.encode(self.clip, theta[CONTEXT])


@TRAINER_REGISTRY.register()
class GuidedCoOp(PromptTrainer):
    """Knowledge-guided context optimization. The name of the class is what `--trainer` takes."""

    config_node = "GUIDED"
    registered_name = "prompt_learner"  # checkpoints: <output folder>/prompt_learner/model.pth.tar-<epoch>
    learned_part = "prompt_learner"  # which contain `ctx` alone
    recipes = {"guided_coop": Recipes("_ep10_ctxv1")}  # name for scripts and experiments, and its config file
    # the keys of TRAINER.GUIDED with their defaults; YAML files and KEY VALUE pairs overrule them
    defaults = dict(
        N_CTX=4,  # number of context tokens
        CTX_INIT="a photo of a",  # words that the context starts from; "" for noise
        PREC="fp16",  # fp16, bf16, fp32, amp
        WEIGHT=8.0,  # of the distance to the hand-written prompt
    )
    ranges = {"WEIGHT": at_least(0)}  # another number ends in one line, before anything is loaded

    def build_prompts(self, clip: CLIP, classnames: list[str]) -> Prompts:
        s = self.settings  # cfg.TRAINER.GUIDED
        draw_clip(clip)  # a seed gives the start that it gives CoOp
        return GuidedPrompts(clip, ContextPrompts(clip, classnames, s.N_CTX, s.CTX_INIT))

    def prepare_training(self) -> None:
        """Optimiser and schedule as with every method, and w0; predicting needs neither."""
        super().prepare_training()
        template = template_for(self.cfg.DATASET.NAME)
        (features,) = template_features(self.prompts.clip, self.dm.dataset.classnames, [template])
        self.hand_written = normalised(features)  # [C, e]

    def objective(self, theta: Theta, image: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss; its parts are averaged, logged and drawn in TensorBoard under these names."""
        text, _, logits = self.encoded(theta, image)  # [C, e], [B, C]
        distance = (text - self.hand_written).square().sum(dim=-1).mean()
        return self.summed(
            logits, label, loss_base=F.cross_entropy(logits, label), loss_text=self.settings.WEIGHT * distance
        )
