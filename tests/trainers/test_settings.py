"""Settings that cannot work end in one line that names them; unusual ones that can, do.

Expected messages: the setting's name or value; expected numbers: plain encoders, or the default way of saying the same.
"""

from __future__ import annotations

import plain_clip
import pytest
import torch
from golden_data import images, training_batch
from golden_replay import evaluate
from tiny_runs import CLASSNAMES, NODES, learned, load_tiny_clip, set_position

from clip.clip import tokenize
from dassl.config import get_cfg_default
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError
from datasets.eurosat import EuroSAT
from trainers.core.prompts import ContextPrompts
from trainers.prometar import ProMetaR

IMPOSSIBLE = {
    "unknown PREC": ("CoOp", {"PREC": "fp8"}, ["PREC", "'fp8'", "fp16"]),
    "unknown class token position": ("CoOp", {"CLASS_TOKEN_POSITION": "back"}, ["CLASS_TOKEN_POSITION", "'back'"]),
    "no context": ("CoOp", {"N_CTX": 0}, ["TRAINER.COOP.N_CTX is 0"]),
    "context words fewer than tokens": ("IVLP", {"CTX_INIT": "a photo", "N_CTX_TEXT": 4}, ["'a photo'", "2", "4"]),
    "the same for MaPLe": ("MaPLe", {"CTX_INIT": "photo", "N_CTX": 2}, ["'photo'", "1 token", "2"]),
    "the same for ProMetaR": ("ProMetaR", {"CTX_INIT": "a", "N_CTX_TEXT": 3}, ["'a'", "3"]),
    "DIM_RATE that does not divide": ("ProMetaR", {"DIM_RATE": 7}, ["DIM_RATE 7", "image_encoder.VPT"]),
    "DIM_RATE 0": ("ProMetaR", {"DIM_RATE": 0}, ["DIM_RATE is 0"]),
    "text depth too large": ("IVLP", {"PROMPT_DEPTH_TEXT": 4}, ["TRAINER.IVLP.PROMPT_DEPTH_TEXT is 4", "3 layers"]),
    "text depth 0": ("ProMetaR", {"PROMPT_DEPTH_TEXT": 0}, ["TRAINER.PROMETAR.PROMPT_DEPTH_TEXT is 0"]),
    "vision depth too large": ("ProMetaR", {"PROMPT_DEPTH_VISION": 9}, ["PROMPT_DEPTH_VISION is 9", "3 layers"]),
    "negative vision depth": ("IVLP", {"PROMPT_DEPTH_VISION": -1}, ["PROMPT_DEPTH_VISION is -1"]),
    "VPT of depth 0": ("VPT", {"PROMPT_DEPTH_VISION": 0}, ["PROMPT_DEPTH_VISION is 0"]),
    "MaPLe too deep": ("MaPLe", {"PROMPT_DEPTH": 4}, ["TRAINER.MAPLE.PROMPT_DEPTH is 4"]),
    "MaPLe of depth 0": ("MaPLe", {"PROMPT_DEPTH": 0}, ["TRAINER.MAPLE.PROMPT_DEPTH is 0"]),
    "no visual tokens": ("VPT", {"N_CTX_VISION": 0}, ["at least 1 token"]),
    "unknown prompts": ("ProMetaR", {"PROMPTS": "LoRA"}, ["TRAINER.PROMETAR.PROMPTS", "'LoRA'", "IVLP"]),
    "unknown R": ("ProMetaR", {"REGULARIZER": "l2"}, ["TRAINER.PROMETAR.REGULARIZER is 'l2'", "l1 or promptsrc"]),
    "MaPLe with more visual tokens": (
        "ProMetaR",
        {"PROMPTS": "MaPLe", "N_CTX_TEXT": 2},
        ["TRAINER.PROMETAR.N_CTX_TEXT is 2 and N_CTX_VISION 4", "same number"],
    ),
    "MaPLe less deep in the image tower": (
        "ProMetaR",
        {"PROMPTS": "MaPLe", "PROMPT_DEPTH_VISION": 1},
        ["TRAINER.PROMETAR.PROMPT_DEPTH_TEXT is 2 and PROMPT_DEPTH_VISION 1"],
    ),
    "MMA under its other name": ("ProMetaR", {"PROMPTS": "MMA"}, ["TRAINER.MMADAPTER.ADAPTER_START is 5", "3, the"]),
    "context too long": ("CoOp", {"N_CTX": 73}, ["too long"]),
    "wrong image size": ("CoOp", {"INPUT.SIZE": "(224, 224)"}, ["64x64", "(224, 224)", "INPUT.SIZE"]),
    "unknown KL_REDUCTION": ("PromptSRC", {"KL_REDUCTION": "sum"}, ["KL_REDUCTION is 'sum'", "batchmean"]),
    "no width of the weights": ("PromptSRC", {"GPA_STD": 0.0}, ["TRAINER.PROMPTSRC.GPA_STD is 0"]),
    "unknown CTX_FILL": ("ProGrad", {"CTX_FILL": "ones"}, ["CTX_FILL is 'ones'", "zeros or noise"]),
    "no temperature": ("ProGrad", {"T": 0.0}, ["TRAINER.PROGRAD.T is 0"]),
    "class rows at a layer too deep": (
        "TCP",
        {"CLASS_LAYER": 3},
        ["TRAINER.TCP.CLASS_LAYER is 3", "layers 0 to 2", "between 1 and 2"],
    ),
    "class rows at the input": ("TCP", {"CLASS_LAYER": 0}, ["TRAINER.TCP.CLASS_LAYER is 0"]),
    "adapters too deep": ("MultiModalAdapter", {"ADAPTER_END": 4}, ["ADAPTER_END 4", "between 0 and 3"]),
    "no layer with an adapter": (
        "MultiModalAdapter",
        {"ADAPTER_START": 3, "ADAPTER_END": 2},
        ["ADAPTER_START is 3", "END not below START"],
    ),
    "adapters without effect": ("MultiModalAdapter", {"ADAPTER_SCALE": 0.0}, ["ADAPTER_SCALE is 0.0", "above 0"]),
    "unknown DISTILL": ("CoPrompt", {"DISTILL": "kl"}, ["DISTILL is 'kl'", "cosine or mse"]),
    "one view of two": (
        "CoPrompt",
        {"DATALOADER.K_TRANSFORMS": 1},
        ["K_TRANSFORMS is 1", "2 augmented views", "set it to 2"],
    ),
    "two views of one": ("CoOp", {"DATALOADER.K_TRANSFORMS": 2}, ["K_TRANSFORMS is 2", "1 augmented view of"]),
    "CoPrompt too deep": ("CoPrompt", {"PROMPT_DEPTH": 4}, ["TRAINER.COPROMPT.PROMPT_DEPTH is 4"]),
    "negative weight": ("KgCoOp", {"W": -1.0}, ["TRAINER.KGCOOP.W is -1"]),
    "size not square": ("CoOp", {"INPUT.SIZE": "(32, 64)"}, ["64x64", "(32, 64)"]),
    "unknown backbone": ("CoOp", {"MODEL.BACKBONE.NAME": "ViT-Z"}, ["'ViT-Z'", "ViT-B/16"]),
    "no such file": ("ZeroshotCLIP", {"MODEL.BACKBONE.NAME": "/no/such.pt"}, ["/no/such.pt"]),
}


@pytest.mark.parametrize("trainer, options, words", IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_impossible_settings(tiny_trainer, trainer, options, words):
    with pytest.raises(UserError) as caught:
        tiny_trainer(trainer, options)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    assert all(word in message for word in words), message


@pytest.mark.parametrize("trainer", NODES)
def test_ranges_are_of_keys_that_there_are(trainer):
    kind = TRAINER_REGISTRY.get(trainer)
    assert kind.ranges.keys() <= kind.defaults.keys()


@pytest.mark.parametrize("trainer", ["VPT", "IVLP", "MaPLe", "ProMetaR", "PromptSRC", "CoPrompt"])
def test_visual_prompts_on_a_resnet(tiny_trainer, trainer):
    with pytest.raises(UserError, match="PROMPT_DEPTH.*ResNet"):
        tiny_trainer(trainer, tower="rn")


def test_adapters_on_a_resnet(tiny_trainer):
    with pytest.raises(UserError, match="choose a ViT"):
        tiny_trainer("MultiModalAdapter", tower="rn")


@pytest.mark.parametrize("trainer", ["CoOp", "CoCoOp", "ZeroshotCLIP", "KgCoOp", "ProGrad", "TCP"])
def test_methods_that_run_on_a_resnet(tiny_trainer, trainer):
    assert evaluate(tiny_trainer(trainer, tower="rn"), images()["heldout_images"]).isfinite().all()


def test_text_prompts_alone_on_a_resnet(tiny_trainer):
    """ProMetaR's scheme needs no visual prompts."""
    for options in ({"PROMPTS": "CoOp"}, {"PROMPT_DEPTH_VISION": 0}):
        trainer = tiny_trainer("ProMetaR", options, tower="rn")
        summary = one_step(trainer)
        assert summary["loss"] > 0 and summary["loss_image"] == 0


def one_step(trainer, batch=0):
    set_position(trainer, batch)
    torch.manual_seed(4)
    return trainer.forward_backward(training_batch(batch))


@pytest.mark.parametrize("trainer", ["CoOp", "IVLP", "VPT", "ZeroshotCLIP", "ProMetaR"])
def test_a_class_name_that_is_too_long(tiny_trainer, trainer, monkeypatch):
    name = "endless " * 80
    monkeypatch.setattr(EuroSAT, "classnames", [name, *CLASSNAMES[1:]])
    with pytest.raises(UserError) as caught:
        tiny_trainer(trainer)
    assert "too long" in str(caught.value) and "\n" not in str(caught.value)


# --- unusual settings that work --------------------------------------------------------------------------------------


def test_class_specific_context_from_words(tiny_trainer):
    """CSC together with CTX_INIT: every class starts from the words, so the first logits are those without CSC."""
    own = tiny_trainer("CoOp", {"CSC": True, "CTX_INIT": "a photo of a"})
    shared = tiny_trainer("CoOp", {"CTX_INIT": "a photo of a"})
    heldout = images()["heldout_images"]
    context = own.prompts.tensors()["prompt_learner.ctx"]
    assert context.shape == (7, 4, 64)
    assert (evaluate(own, heldout) - evaluate(shared, heldout)).abs().max() < 1e-5
    one_step(own)
    after = own.prompts.tensors()["prompt_learner.ctx"].detach()
    assert (after[0] - after[1]).abs().max() > 1e-5  # each goes its own way
    assert (evaluate(own, heldout) - evaluate(shared, heldout)).abs().max() > 1e-4


@pytest.mark.parametrize("dim_rate", [1, 4, 32])
def test_other_dim_rates(tiny_trainer, dim_rate):
    trainer = tiny_trainer("ProMetaR", {"DIM_RATE": dim_rate, "ADAPT_LR": 0.5, "LR_RATIO": 1.0})
    before = learned(trainer)
    assert one_step(trainer)["loss"] > 0
    assert not any(torch.equal(before[name], after) for name, after in learned(trainer).items())
    shape = trainer.modulator["linear_vision_gamma"][0][0].weight.shape
    assert shape == (4 * 128 // dim_rate, 2 * 4 * 128)


def test_gamma_serves_adjacent_entries(tiny_trainer):
    trainer = tiny_trainer("ProMetaR", {"DIM_RATE": 4})
    theta = trainer.prompts.tensors()
    g, r = ({name: torch.randn_like(tensor) for name, tensor in theta.items()} for _ in range(2))
    for name, gamma in trainer.modulator(g, r).items():
        groups = gamma.detach().flatten().view(-1, 4)
        assert torch.equal(groups, groups[:, :1].expand(-1, 4))
        assert groups[:, 0].unique().numel() > 1, name


def test_regulariser_weights(tiny_trainer):
    """TEXT_LOSS_WEIGHT and IMAGE_LOSS_WEIGHT scale the two losses; published: 50 and 20."""
    published = one_step(tiny_trainer("ProMetaR", {"CTX_INIT": "a photo of a", "PROMPT_DEPTH_TEXT": 1}))
    doubled = {"TEXT_LOSS_WEIGHT": 100.0, "IMAGE_LOSS_WEIGHT": 0.0}
    other = one_step(tiny_trainer("ProMetaR", doubled | {"CTX_INIT": "a photo of a", "PROMPT_DEPTH_TEXT": 1}))
    assert other["loss_text"] == pytest.approx(2 * published["loss_text"], rel=1e-5)
    assert other["loss_image"] == 0 and published["loss_image"] > 0


def test_a_context_shorter_than_its_words(tiny_trainer, backbones):
    """The words that have no learned row stay as ordinary tokens behind the context."""
    trainer = tiny_trainer("IVLP", {"N_CTX_TEXT": 2, "PROMPT_DEPTH_TEXT": 1, "CTX_INIT": "a photo of a"})
    state = load_tiny_clip(backbones["vit"]).state_dict()
    tokens = tokenize([f"a photo of a {name.replace('_', ' ')}." for name in CLASSNAMES])
    theta = trainer.prompts.tensors()
    assert theta["prompt_learner.ctx"].shape == (2, 64)
    expected = plain_clip.text_features(state, tokens)
    assert (trainer.prompts.text_features(theta) - expected).abs().max() < 1e-5
    theta = {name: tensor.detach() + 0.1 for name, tensor in theta.items()}
    expected = plain_clip.prompted_text_features(state, tokens, theta["prompt_learner.ctx"])
    assert (trainer.prompts.text_features(theta) - expected).abs().max() < 1e-5


def test_a_context_longer_than_four_tokens_starts_from_noise(tiny_trainer):
    """The published rule of the deep-prompt methods, even where words are given."""
    trainer = tiny_trainer("IVLP", {"N_CTX_TEXT": 6, "CTX_INIT": "a photo of a"})
    context = trainer.prompts.tensors()["prompt_learner.ctx"]
    assert context.shape == (6, 64)
    assert 0.015 < context.std() < 0.025  # 0.02 as published


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_few_classes(backbones, classes, position):
    """One class, and two whose names begin alike."""
    clip = load_tiny_clip(backbones["vit"])
    names = ["annual crop land", "annual crop"][:classes]
    prompts = ContextPrompts(clip, names, 4, "a photo of a", position)
    context = prompts.initial + 0.1
    state, rows = clip.state_dict(), []
    before = {"end": 4, "middle": 2, "front": 0}[position]
    tokens = tokenize([f"a photo of a {name}." for name in names])
    table = state["token_embedding.weight"][tokens]
    for row, name in zip(table, names, strict=True):
        length = len(name.split())  # one token a word
        head, own, rest = row[:1], row[5 : 5 + length], row[5 + length :]
        rows.append(torch.cat([head, context[:before], own, context[before:], rest]))
    expected = plain_clip.text_from_rows(state, torch.stack(rows), tokens.argmax(dim=-1))
    assert (prompts.encode(clip, context) - expected).abs().max() < 1e-5


def test_every_learning_trainer_has_its_node(tiny_cfg):
    cfg = tiny_cfg("CoOp")
    assert all(node in cfg.TRAINER for node in NODES.values())


def test_the_modulators_optimiser_has_the_keys_and_defaults_of_the_prompts():
    """Also if somebody has changed OPTIM before; and STEP_LR."""
    cfg = get_cfg_default()
    cfg.OPTIM.LR = 3.0
    ProMetaR.add_config(cfg)
    assert dict(cfg.OPTIM_VNET) == dict(get_cfg_default().OPTIM) | {"STEP_LR": False}
    cfg.OPTIM_VNET.LR = 2.0
    assert (cfg.OPTIM.LR, get_cfg_default().OPTIM.LR) == (3.0, 0.0003)
