"""`TRAINER.PROMETAR.PROMPTS`: the meta-regularised scheme on every family of prompts or adapters.

Expected values: the scheme applied by hand (tests/helpers/meta_by_hand.py) over two batches, momentum and random draws
included, in float64.
"""

from __future__ import annotations

import pytest
import torch
from golden_data import images
from meta_by_hand import FAMILY_OPTIONS, scheme, sgd, teacher_text_features
from tiny_runs import CLASSNAMES, build_in_float64, learned, load_tiny_clip, set_position

from trainers.core import modulator
from trainers.core.families import families
from trainers.core.tasks import Task

NAMES = [name.replace("_", " ") for name in CLASSNAMES]
LEARNED = {
    "IVLP": {
        "prompt_learner.ctx": (2, 64),
        "text_encoder.transformer.resblocks.1.VPT_shallow": (2, 64),
        "image_encoder.VPT": (3, 128),
        "image_encoder.transformer.resblocks.1.VPT_shallow": (3, 128),
    },
    "CoOp": {"prompt_learner.ctx": (2, 64)},
    "VPT": {"image_encoder.VPT": (3, 128), "image_encoder.transformer.resblocks.1.VPT_shallow": (3, 128)},
    "MaPLe": {
        "prompt_learner.ctx": (2, 64),
        "prompt_learner.proj.weight": (128, 64),
        "prompt_learner.proj.bias": (128,),
        "prompt_learner.compound_prompts_text.0": (2, 64),
        "prompt_learner.compound_prompt_projections.0.weight": (128, 64),
        "prompt_learner.compound_prompt_projections.0.bias": (128,),
    },
    "MultiModalAdapter": {
        f"adapter_learner.{name}.{kind}": shape[: 2 if kind == "weight" else 1]
        for layer in (0, 1)
        for name, shape in {
            f"text_adapter.{layer}.down.0": (8, 64),
            f"text_adapter.{layer}.up": (64, 8),
            f"visual_adapter.{layer}.down.0": (8, 128),
            f"visual_adapter.{layer}.up": (128, 8),
            f"shared_adapter.{layer}.0": (8, 8),
        }.items()
        for kind in ("weight", "bias")
    },
}
LEARNED["PromptSRC"] = LEARNED["IVLP"]
SETTINGS = {"N_CTX_TEXT": 2, "N_CTX_VISION": 3, "ADAPT_LR": 0.5, "LR_RATIO": 1.0, "MONITOR": False}


@pytest.fixture(autouse=True)
def read_by_rows(monkeypatch):
    """Tensors of more than 500 values, which would each get a large network, are taken as rows."""
    monkeypatch.setattr(modulator, "MOST_WEIGHTS", 2**16)


def settings_of(family):
    return SETTINGS | FAMILY_OPTIONS.get(family, {}) | {"PROMPTS": family}


def draws_by_hand(labels):
    """The random choices in their order, from the global generator."""
    classes = labels.unique()
    chosen = classes[torch.randperm(len(classes))[0]]
    query = torch.tensor([i for i, label in enumerate(labels) if label == chosen])
    support = torch.tensor([i for i, label in enumerate(labels) if label != chosen])
    lam = torch.distributions.Beta(0.5, 0.5).sample((len(query),))
    return Task(query, support, lam, torch.randint(len(support), (len(query),)))


def test_every_family_is_tested():
    assert set(families()) == set(LEARNED)


@pytest.mark.parametrize("family", LEARNED)
def test_two_batches_are_those_of_the_scheme_by_hand(family, tiny_cfg, monkeypatch):
    trainer = build_in_float64(tiny_cfg("ProMetaR", settings_of(family)), monkeypatch)
    theta = {name: tensor.detach().clone() for name, tensor in trainer.prompts.tensors().items()}
    assert {name: tuple(tensor.shape) for name, tensor in theta.items()} == LEARNED[family]
    phi = {name: tensor.detach().clone() for name, tensor in trainer.modulator.named_parameters()}
    start = dict(theta)
    state = trainer.prompts.clip.state_dict()
    by_hand = scheme(family, state, NAMES, teacher_text_features(state, NAMES), trainer.settings)

    batches = [(images()["train_images"][k].double(), images()["train_labels"][k]) for k in (1, 3)]
    torch.manual_seed(9)
    losses = []
    for k, (batch, labels) in enumerate(batches):
        set_position(trainer, k)
        losses.append(trainer.forward_backward({"img": batch, "label": labels}))

    torch.manual_seed(9)
    momentum, phi_momentum = {}, {}
    for (batch, labels), summary in zip(batches, losses, strict=True):
        theta = {name: tensor.detach().requires_grad_() for name, tensor in theta.items()}
        parts = [part.item() for part in by_hand.losses(theta, batch, labels)]
        gradients = by_hand.modulated(theta, phi, batch, labels, create_graph=False)
        theta = {name: tensor.detach() for name, tensor in theta.items()}
        sgd(theta, gradients, momentum, lr=0.0025)
        task = draws_by_hand(labels)
        outer, theta_gradients, phi_gradients = by_hand.outer_gradients(theta, phi, batch, labels, task)
        sgd(theta, theta_gradients, momentum, lr=0.0025)
        sgd(phi, phi_gradients, phi_momentum, lr=0.0025)
        names = ["loss_base", "loss_text", "loss_image", *["loss_logits"] * (family == "PromptSRC"), "loss"]
        reported = [summary[name] for name in names]
        assert ("loss_logits" in summary) == ("loss_logits" in names)
        assert reported == pytest.approx([*parts, outer.item()], abs=1e-9)

    ours = learned(trainer)
    for name, expected in (theta | phi).items():
        assert (ours[name] - expected).abs().max() < 1e-9, name
    assert all((theta[name] - start[name]).abs().max() > 1e-4 for name in theta)


@pytest.mark.parametrize("family", LEARNED)
def test_checkpoint_names_are_those_of_the_prompts(family, tiny_trainer, tmp_path):
    trainer = tiny_trainer("ProMetaR", settings_of(family))
    trainer.save_model(0, str(tmp_path))
    state = torch.load(tmp_path / "VLPromptLearner" / "model.pth.tar-1", weights_only=True)["state_dict"]
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == LEARNED[family]


def test_a_batch_of_one_class_makes_the_base_step_only(tiny_trainer):
    trainer = tiny_trainer("ProMetaR", SETTINGS)
    before = learned(trainer)
    set_position(trainer, 2)
    random_state = torch.get_rng_state()
    summary = trainer.forward_backward({"img": images()["train_images"][2], "label": images()["train_labels"][2]})
    after = learned(trainer)
    assert summary["loss"] == 0 and summary["loss_base"] > 0
    assert torch.equal(torch.get_rng_state(), random_state)  # nothing was drawn
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith("linear_")


def test_the_teacher_is_the_same_whatever_the_prompts(tiny_trainer, backbones):
    state = load_tiny_clip(backbones["vit"]).state_dict()
    expected = teacher_text_features(state, NAMES)
    for family in LEARNED:
        teacher = tiny_trainer("ProMetaR", settings_of(family)).teacher_text
        assert (teacher - expected).abs().max() < 1e-5
