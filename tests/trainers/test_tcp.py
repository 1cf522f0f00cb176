"""TCP by its definition: every position of every class prompt, autograd's gradients.

Expected values: the formulas of the paper on `plain_clip`, in float64; sizes differ from those of the recordings.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from by_definition import check_objective
from golden_data import training_batch
from plain_clip import block, image_features, layers_of, quick_gelu, similarity, text_features, unit
from tiny_runs import CLASSNAMES, load_tiny_clip

from clip.clip import tokenize
from trainers.core.prompts import ContextPrompts
from trainers.tcp import TCPPrompts, prompt_template

NAMES = [name.replace("_", " ") for name in CLASSNAMES]


def tcp_text(state, tokens, context, class_rows, layer):
    rows = state["token_embedding.weight"][tokens]
    n = len(context)
    x = torch.cat([rows[:, :1], context.expand(len(rows), -1, -1), rows[:, 1 + n :]], dim=1)
    x = x + state["positional_embedding"]
    mask = torch.full((77, 77), float("-inf"), dtype=x.dtype).triu(1)
    for number in range(layers_of(state, "transformer.resblocks")):
        if number == layer:
            x = torch.cat([x[:, :1], class_rows, x[:, 5:]], dim=1)
        x = block(state, f"transformer.resblocks.{number}", x, mask, quick_gelu)
    x = F.layer_norm(x, x.shape[-1:], state["ln_final.weight"], state["ln_final.bias"])
    return x[torch.arange(len(x)), tokens.argmax(dim=-1)] @ state["text_projection"]


TCP_CASES = {
    "2 tokens": ({"N_CTX": 2, "W": 3.0}, "X X X X {}.", "text10", 8),
    "1 token, an early layer": ({"N_CTX": 1, "CLASS_LAYER": 1}, "X X X X {}.", "more_tokens", 1),
    "6 tokens": ({"N_CTX": 6}, "X X X X X X {}.", "more_tokens", 2),
    "2 words": ({"CTX_INIT": "a photo", "W": 3.0}, "X X X X {}.", "more_tokens", 2),
    "in chunks": ({"N_CTX": 4, "TRAINER.TEXT_CHUNK": 3}, "X X X X {}.", "text10", 8),
    "one class a chunk": ({"N_CTX": 4, "TRAINER.TEXT_CHUNK": 1}, "X X X X {}.", "text10", 8),
}


@pytest.mark.parametrize("case", TCP_CASES)
def test_tcp_is_its_definition(case, wide):
    options, template, tower, layer = TCP_CASES[case]
    trainer, state = wide("TCP", {"CLASS_LAYER": layer} | options, tower)
    tokens = tokenize([template.format(name) for name in NAMES])
    teacher = unit(text_features(state, tokenize([f"a centered satellite photo of {name}." for name in NAMES])))
    batch = training_batch(1)
    images, labels = batch["img"].double(), batch["label"]

    def loss(theta):
        net = {name.removeprefix("prompt_learner.meta_net."): value for name, value in theta.items()}
        u = teacher @ net["linear1.weight"].t() + net["linear1.bias"]
        rows = (u / (1 + torch.exp(-1.702 * u))) @ net["linear2.weight"].t() + net["linear2.bias"]
        text = tcp_text(state, tokens, theta["prompt_learner.ctx"], rows.view(7, 4, 64), layer)
        logits = similarity(state, image_features(state, images), text)
        near = (unit(text) * teacher).sum(dim=-1).mean()
        return F.cross_entropy(logits, labels) + trainer.settings.W * (1 - near)

    check_objective(trainer, (images, labels), loss, second=case == "2 words")


def test_tcp_templates_keep_the_names():
    assert prompt_template("OxfordPets", 2) == "X X X X {}, a type of pet."
    assert prompt_template("StanfordCars", 4) == "X X X X {}, a type of car"
    assert prompt_template("UCF101", 6) == "a photo of a person doing {}."
    assert prompt_template("Shapes", 7) == "X X X X X X X {}."
    for dataset in ("OxfordPets", "UCF101", "ImageNet", "Shapes"):
        for n in (1, 4, 9):
            head = prompt_template(dataset, n).partition("{}")[0]
            assert len(head.split()) >= max(n, 4)


def test_tcp_of_a_single_class(backbones):
    """All rows are then shared by all classes: there is no place where they first differ."""
    clip = load_tiny_clip(backbones["more_tokens"])
    context = ContextPrompts(clip, ["face"], 3, template="X X X X {}.")
    prompts = TCPPrompts(clip, context, 2, unit(clip.encode_text(tokenize(["a photo of a face."]))))
    theta, tokens = prompts.tensors(), tokenize(["X X X X face."])
    expected = tcp_text(clip.state_dict(), tokens, theta["prompt_learner.ctx"], prompts.class_rows(theta), 2)
    torch.testing.assert_close(prompts.text_features(theta), expected, atol=1e-5, rtol=0)
