"""ProGrad by its definition: two losses, the projection, and a context that starts from zeros and words.

Expected values: the formulas written out, gradients of two separate backward passes, rows put together by hand.
"""

from __future__ import annotations

import plain_clip
import pytest
import torch
import torch.nn.functional as F
from golden_data import images
from plain_clip import unit
from tiny_runs import CLASSNAMES, build_in_float64, learned, load_tiny_clip, set_position

from clip.clip import tokenize
from dassl.data.datasets import DATASET_REGISTRY
from dassl.utils import UserError
from datasets.eurosat import EuroSAT
from trainers.prograd import without_opposition

NAMES = [name.replace("_", " ") for name in CLASSNAMES]


def first_batch():
    return images()["train_images"][0], images()["train_labels"][0]


@pytest.fixture
def pets(tiny_trainer, monkeypatch):
    """Builds a trainer on EuroSAT's images under the name of OxfordPets, whose template has a comma."""
    monkeypatch.setitem(DATASET_REGISTRY._obj_map, "OxfordPets", type("OxfordPets", (EuroSAT,), {}))
    general = {"DATASET.NAME": "OxfordPets", "DATASET.NUM_SHOTS": -1}
    return lambda **options: tiny_trainer("ProGrad", general | options)


# --- projection -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "strength", "expected"),
    [
        ([1.0, 1.0], [1.0, 0.0], 1.0, [1.0, 1.0]),  # agrees
        ([-2.0, 1.0], [3.0, 0.0], 1.0, [0.0, 1.0]),  # what opposes b is gone, whatever the length of b
        ([-2.0, 1.0], [3.0, 0.0], 0.8, [-0.4, 1.0]),
        ([-2.0, 1.0], [3.0, 0.0], 0.0, [-2.0, 1.0]),
        ([-2.0, 1.0], [0.0, 3.0], 1.0, [-2.0, 1.0]),
        ([-2.0, 1.0], [0.0, 0.0], 1.0, [-2.0, 1.0]),  # the published comparison with NaN is false
        ([[-2.0], [1.0]], [[1e-12], [0.0]], 1.0, [[0.0], [1.0]]),  # one vector, whatever its shape
    ],
)
def test_projection(a, b, strength, expected):
    ours = without_opposition(torch.tensor(a), torch.tensor(b), strength)
    assert torch.allclose(ours, torch.tensor(expected), atol=1e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_not_finite_is_not_passed_over(bad):
    """A loss scaler then skips the update; a projection along half of it would be a wrong number."""
    ours = without_opposition(torch.tensor([-2.0, 1.0]), torch.tensor([bad, 1.0]), 1.0)
    assert not ours.isfinite().all()


@pytest.mark.parametrize(
    "options", [{}, {"T": 2.0, "LAMBDA": 0.8}, {"CSC": True, "CTX_INIT": ""}, {"TRAINER.TEXT_CHUNK": 3}]
)
def test_losses_and_step_by_hand(tiny_cfg, monkeypatch, options):
    """In float64: both losses, the gradients of two backward passes, the update along the projected one."""
    trainer = build_in_float64(tiny_cfg("ProGrad", {"N_CTX": 6, "OPTIM.MOMENTUM": 0.0} | options), monkeypatch)
    pictures, label = first_batch()
    theta = {name: tensor.clone().requires_grad_() for name, tensor in trainer.theta().items()}
    (ctx,) = theta.values()
    state = {name: value.double() for name, value in trainer.prompts.clip.state_dict().items()}
    scale, image = state["logit_scale"].exp(), unit(plain_clip.image_features(state, pictures.double()))
    teacher = unit(
        plain_clip.text_features(state, tokenize([f"a centered satellite photo of {name}." for name in NAMES]))
    )
    logits = scale * image @ unit(trainer.prompts.text_features(theta)).t()
    t = options.get("T", 1.0)
    p0 = (scale * image @ teacher.t() / t).softmax(dim=-1)
    xe = F.cross_entropy(logits, label)
    kl = -(t**2) * (p0 * (logits / t).log_softmax(dim=-1)).sum(dim=-1).mean()
    (a,), (b,) = (torch.autograd.grad(loss, [ctx], retain_graph=True) for loss in (xe, kl))
    g = without_opposition(a, b, options.get("LAMBDA", 1.0))
    set_position(trainer, 0)
    reported = trainer.forward_backward({"img": pictures, "label": label})
    expected = {"xe_loss": xe, "kl_loss": kl, "cos": F.cosine_similarity(a.flatten(), b.flatten(), dim=0)}
    assert {name: reported[name] for name in expected} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, abs=1e-9
    )
    after = ctx - 0.0025 * (g + 5e-4 * ctx)  # weight decay comes after the projection
    assert (learned(trainer)["ctx"] - after).abs().max() < 1e-9


def test_one_forward_pass_a_step(tiny_trainer, monkeypatch):
    trainer, calls = tiny_trainer("ProGrad"), []
    for name in ("text_trace", "image_trace"):
        original = getattr(trainer.prompts, name)
        monkeypatch.setattr(trainer.prompts, name, lambda *a, f=original, n=name: calls.append(n) or f(*a))
    pictures, label = first_batch()
    set_position(trainer, 0)
    trainer.forward_backward({"img": pictures, "label": label})
    assert calls == ["text_trace", "image_trace"]


# --- context ----------------------------------------------------------------------------------------------------------


def test_the_context_ends_with_the_templates_words(tiny_trainer, backbones):
    table = load_tiny_clip(backbones["vit"]).token_embedding.weight
    words = table[tokenize("a centered satellite photo of")[0, 1:6]]
    ctx = learned(tiny_trainer("ProGrad"))["ctx"]
    assert ctx.shape == (16, 64) and not ctx[:11].any() and torch.equal(ctx[11:], words)
    noisy = learned(tiny_trainer("ProGrad", {"CTX_FILL": "noise"}))["ctx"]
    assert torch.equal(noisy[11:], words) and noisy[:11].std().item() == pytest.approx(0.02, rel=0.1)
    own = learned(tiny_trainer("ProGrad", {"N_CTX": 6, "CTX_INIT": "a photo of a"}))["ctx"]
    assert not own[:2].any() and torch.equal(own[2:], table[tokenize("a photo of a")[0, 1:5]])
    each = learned(tiny_trainer("ProGrad", {"CSC": True}))["ctx"]
    assert each.shape == (7, 16, 64) and all(torch.equal(one, ctx) for one in each)


@pytest.mark.parametrize("position", ["end", "front"])
def test_a_comma_takes_a_word_of_the_context(pets, backbones, position):
    """A token but not a word: the last word "a" stays behind the context; in front, it counts as part of the name."""
    trainer = pets(CLASS_TOKEN_POSITION=position)
    state = load_tiny_clip(backbones["vit"]).state_dict()
    theta = {name: torch.randn_like(tensor) for name, tensor in trainer.theta().items()}
    (ctx,) = theta.values()
    words = tokenize("a type of pet, a photo of a")[0, 1:10]
    (start,) = trainer.theta().values()
    assert not start[:8].any() and torch.equal(start[8:], state["token_embedding.weight"][words[:8]])
    tokens = tokenize([f"{'X ' * 8}a type of pet, a photo of a {name}." for name in NAMES])
    rows = []
    for row, name in zip(state["token_embedding.weight"][tokens], NAMES, strict=True):
        length = int((tokenize(name) != 0).sum()) - 2
        before = {"end": 0, "front": length}[position]
        rows.append(torch.cat([row[:1], row[17 : 17 + before], ctx, row[17 + before :]]))
    expected = plain_clip.text_from_rows(state, torch.stack(rows), tokens.argmax(dim=-1))
    assert (trainer.prompts.text_features(theta) - expected).abs().max() < 1e-5


def test_more_words_than_tokens(pets):
    with pytest.raises(UserError, match="TRAINER.PROGRAD.N_CTX is 4, but .* the 8 words 'a type of pet, a photo of a'"):
        pets(N_CTX=4)
    assert pets(N_CTX=8).theta()["prompt_learner.ctx"].shape == (8, 64)
