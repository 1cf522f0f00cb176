"""ProMetaR's outer gradient in float64, proved without the code that computes it.

Expected numbers: central finite differences of the outer loss; a reverse-over-reverse implementation of the formulas
in plain autograd, on plainly written towers (tests/helpers/meta_by_hand.py, plain_clip.py); for the first-order mode,
the terms that it leaves out.
"""

from __future__ import annotations

import pytest
import torch
from golden_data import images
from meta_by_hand import FAMILY_OPTIONS, nets, scheme, teacher_text_features
from tiny_runs import CLASSNAMES, build_in_float64, load_tiny_clip
from torch.autograd import grad

from trainers import prometar
from trainers.core import modulator

NAMES = [name.replace("_", " ") for name in CLASSNAMES]
FAMILIES = ["IVLP", "CoOp", "VPT", "MaPLe", "PromptSRC", "MultiModalAdapter"]
READ_BY_ROWS = {
    "MaPLe": {"prompt_learner.proj.weight": 64, "prompt_learner.compound_prompt_projections.0.weight": 64},
    "MultiModalAdapter": {"adapter_learner.text_adapter.0.up.weight": 8, "adapter_learner.text_adapter.1.up.weight": 8},
}
"""Tensors of the text side whose network reads rows, and the length of a row, where `MOST_WEIGHTS` is low."""
# rates at which the second-order part is large; as in the amplified golden recordings
AMPLIFIED = {"ADAPT_LR": 0.5, "LR_RATIO": 1.0, "N_CTX_TEXT": 2, "N_CTX_VISION": 2, "MONITOR": False}


class Scene:
    """A ProMetaR trainer in float64 at a random point, a batch, and the same scheme by hand."""

    def __init__(self, trainer, teacher_text, family, first_order=False):
        generator = torch.Generator().manual_seed(7)
        self.trainer = trainer

        def noise(tensor, scale):
            return scale * torch.randn(tensor.shape, generator=generator, dtype=torch.float64)

        self.theta = {name: noise(tensor, 0.2) for name, tensor in trainer.prompts.tensors().items()}
        # larger than at the start, so that gamma depends visibly on g and r
        phi = trainer.modulator.named_parameters()
        self.phi = {name: noise(tensor, 2 * tensor.shape[1] ** -0.5) for name, tensor in phi}
        self.images, self.labels = images()["train_images"][1].double(), images()["train_labels"][1]  # 4 4 5 6
        self.batch = prometar.Batch(self.images, self.labels, trainer.teacher_image_features(self.images))
        lam = torch.tensor([0.7, 0.25], dtype=torch.float64)
        self.task = prometar.Task(torch.tensor([0, 1]), torch.tensor([2, 3]), lam, torch.tensor([1, 0]))
        state = trainer.prompts.clip.state_dict()
        self.by_hand = scheme(family, state, NAMES, teacher_text, trainer.settings, first_order)

    def outer_loss(self, theta, phi):
        return self.trainer.meta_step(theta, phi, self.batch, self.task)[0]

    def factor(self, name):
        """What our gradient of a tensor of theta or phi is the derivative's multiple by."""
        names = {net: own for own, net in nets(self.theta).items()}
        return self.by_hand.factor(names.get(".".join(name.split(".")[:2]), name))

    def ours(self):
        return self.trainer.meta_step(self.theta, self.phi, self.batch, self.task)[:3]

    def reverse_over_reverse(self):
        return self.by_hand.outer_gradients(self.theta, self.phi, self.images, self.labels, self.task)


@pytest.fixture(scope="session")
def teacher_text(backbones):
    state = load_tiny_clip(backbones["vit"]).double().state_dict()
    return teacher_text_features(state, NAMES)


@pytest.fixture
def scene(tiny_cfg, teacher_text, monkeypatch):
    def make(family, first_order=False, **options):
        settings = AMPLIFIED | FAMILY_OPTIONS.get(family, {}) | {"PROMPTS": family, "FAST_ADAPTATION": first_order}
        if family in READ_BY_ROWS:
            monkeypatch.setattr(modulator, "MOST_WEIGHTS", 2**16)  # the tiny towers' largest tensors are small
        settings |= options
        trainer = build_in_float64(tiny_cfg("ProMetaR", settings), monkeypatch)
        return Scene(trainer, teacher_text, family, first_order)

    return make


def relative(ours, expected):
    """Largest relative difference in norm over the tensors."""
    assert ours.keys() == expected.keys() and ours
    return max(((ours[k] - expected[k]).norm() / expected[k].norm()).item() for k in expected)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_outer_gradient_is_that_of_plain_autograd(scene, family, first_order):
    point = scene(family, first_order)
    loss, theta_gradient, phi_gradient = point.ours()
    expected_loss, expected_theta, expected_phi = point.reverse_over_reverse()
    assert abs(loss - expected_loss) < 1e-12
    assert relative(theta_gradient, expected_theta) < 1e-9
    assert relative(phi_gradient, expected_phi) < 1e-9


@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_features_are_those_of_the_plain_towers(scene, family, teacher_text):
    trainer = scene(family).trainer
    assert (trainer.teacher_text - teacher_text).abs().max() < 1e-12


@pytest.mark.parametrize("of", ["theta", "phi"])
@pytest.mark.parametrize("family", FAMILIES)
def test_outer_gradient_is_the_derivative(scene, family, of):
    """Central differences along random directions; O(step^2) off."""
    point = scene(family)
    _, *gradients = point.ours()
    gradient = gradients[0 if of == "theta" else 1]
    where = getattr(point, of)
    generator = torch.Generator().manual_seed(3)
    for _ in range(2):
        direction = {k: torch.randn(v.shape, generator=generator, dtype=v.dtype) for k, v in where.items()}
        step = 1e-5 if of == "theta" else 1e-4

        def loss_at(distance, direction=direction):
            moved = {k: v + distance * direction[k] for k, v in where.items()}
            theta, phi = (moved, point.phi) if of == "theta" else (point.theta, moved)
            return point.outer_loss(theta, phi)

        difference = (loss_at(step) - loss_at(-step)) / (2 * step)
        along = sum((gradient[k] * direction[k]).sum() / point.factor(k) for k in where)
        assert along.abs() > 1e-6
        torch.testing.assert_close(along, difference, rtol=1e-5, atol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_first_order_leaves_out_exactly_the_second_order_terms(scene, family):
    """second - first = -ADAPT_LR J^T v; J: derivative of g + gamma r with respect to theta, v = dL_query/dtheta'."""
    second, first = scene(family), scene(family, first_order=True)
    loss_2, theta_2, phi_2 = second.ours()
    loss_1, theta_1, phi_1 = first.ours()
    assert abs(loss_1 - loss_2) < 1e-12
    assert relative(phi_1, phi_2) < 1e-9  # gamma's input is the same, so phi's gradient is

    by_hand, task = second.by_hand, second.task
    theta = {k: v.clone().requires_grad_() for k, v in second.theta.items()}
    support = second.images[task.support], second.labels[task.support]
    modulated = by_hand.modulated(theta, second.phi, *support, create_graph=True)
    fast = {k: (v - by_hand.adapt_lr * modulated[k]).detach().requires_grad_() for k, v in theta.items()}
    query = grad(by_hand.query_loss(fast, second.images, second.labels, task), list(fast.values()))
    missing = grad(list(modulated.values()), list(theta.values()), grad_outputs=query)
    query, missing = (dict(zip(theta, tensors, strict=True)) for tensors in (query, missing))
    query, missing = (
        {name: by_hand.factor(name) * tensor for name, tensor in tensors.items()} for tensors in (query, missing)
    )

    assert relative(theta_1, query) < 1e-9
    difference = {k: theta_2[k] - theta_1[k] for k in theta}
    assert relative(difference, {k: -by_hand.adapt_lr * v for k, v in missing.items()}) < 1e-8
    assert all(missing[k].norm() * by_hand.adapt_lr > 0.01 * query[k].norm() for k in theta)  # not a small matter


@pytest.mark.parametrize("family", READ_BY_ROWS)
def test_large_tensors_are_read_by_rows(scene, family):
    point = scene(family)
    for name, width in READ_BY_ROWS[family].items():
        assert point.phi[f"{nets(point.theta)[name]}.0.weight"].shape == (width // 8, 2 * width)
        assert point.theta[name].shape[1] == width and len(point.theta[name]) > 1


@pytest.mark.parametrize("dim_rate", [1, 2, 16, 64])
def test_other_dim_rates(scene, dim_rate):
    point = scene("IVLP", DIM_RATE=dim_rate)
    _, theta_gradient, phi_gradient = point.ours()
    _, expected_theta, expected_phi = point.reverse_over_reverse()
    assert relative(theta_gradient, expected_theta) < 1e-9
    assert relative(phi_gradient, expected_phi) < 1e-9
    context = point.trainer.modulator["linear_text_gamma"][0]
    assert context[1].weight.shape == (2 * 64 // dim_rate, 2 * 64 // dim_rate)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_that_do_not_say_how_the_towers_take_them(scene, family, monkeypatch):
    """Their derivatives are autograd's, and the outer gradient is the same."""
    point = scene(family)
    expected_loss, expected_theta, expected_phi = point.ours()
    names = point.trainer.prompts.image_prompts
    if names is not None:
        monkeypatch.setattr(point.trainer.prompts, "visual_prompts", lambda theta: [theta[name] for name in names])
    monkeypatch.setattr(point.trainer.prompts, "text_prompts", None)
    monkeypatch.setattr(point.trainer.prompts, "image_prompts", None)
    loss, theta_gradient, phi_gradient = point.ours()
    assert abs(loss - expected_loss) < 1e-12
    assert relative(theta_gradient, expected_theta) < 1e-9
    assert relative(phi_gradient, expected_phi) < 1e-9
