"""A method's CLIP with prompts, without a trainer and without data.

Expected values: the trainer's own, which has both; for class features, the encoder of the prompts asked directly.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from golden_data import images
from golden_replay import evaluate
from tiny_runs import CLASSNAMES, NODES, build_trainer, load_tiny_clip, make_cfg, set_position

import train
from dassl.engine import TRAINER_REGISTRY, SimpleTrainer
from dassl.engine.anomalies import NonFiniteError, check_logits
from dassl.utils import UserError
from trainers.core.method import prompted_clip
from trainers.core.prompts import normalised

ROOT = Path(train.__file__).parent


@pytest.fixture
def without_data(monkeypatch):
    """Whoever builds a trainer or looks for the data set fails."""
    monkeypatch.setattr(SimpleTrainer, "__init__", lambda *_, **__: pytest.fail("a trainer was built"))
    monkeypatch.setattr("dassl.data.data_manager.build_dataset", lambda cfg: pytest.fail("data read"))


@pytest.mark.parametrize("name", [*NODES, "ZeroshotCLIP", "ZeroshotCLIP2"])
def test_its_logits_are_those_of_the_trained_trainer(name, tiny_cfg, tmp_path, request):
    cfg, heldout = tiny_cfg(name), images()["heldout_images"]
    torch.manual_seed(0)
    trainer = build_trainer(cfg)
    if name in NODES:
        set_position(trainer, 0)
        batch = images()["train_images"][0]
        trainer.forward_backward({"img": batch, "img2": batch.flip(-1), "label": images()["train_labels"][0]})
        trainer.save_model(0, str(tmp_path))
    expected = evaluate(trainer, heldout)
    request.getfixturevalue("without_data")
    torch.manual_seed(1)
    model = prompted_clip(cfg, CLASSNAMES)
    if name in NODES:
        assert name == "VPT" or not torch.equal(model.logits(heldout), expected)
        model.load(tmp_path / trainer.registered_name / "model.pth.tar-1")
    assert torch.equal(model.logits(heldout), expected)
    assert model.classes == CLASSNAMES and model.device == torch.device("cpu")
    if not model.prompts.text_depends_on_image:
        cosines = model.image_features(heldout) @ model.text_features().T
        assert (model.clip.logit_scale.exp() * cosines - expected).abs().max() < 1e-4


def test_class_features_are_encoded_once_for_the_same_weights(tiny_cfg, without_data, monkeypatch):
    model, calls = prompted_clip(tiny_cfg("IVLP"), CLASSNAMES), []
    encode = model.prompts.text_features
    monkeypatch.setattr(model.prompts, "text_features", lambda theta: calls.append(1) or encode(theta))
    first = model.text_features()
    assert model.text_features() is first and len(calls) == 1
    (name, tensor), *_ = model.prompts.tensors().items()
    with torch.no_grad():
        tensor += 1
    assert torch.equal(model.text_features(), normalised(encode(model.theta()))) and len(calls) == 2, name
    model.prompts.double().float()  # other memory, the same values
    assert torch.equal(model.text_features(), normalised(encode(model.theta()))) and len(calls) == 3


def test_a_checkpoint_of_another_backbone_is_refused(tiny_cfg, backbones, tmp_path):
    """Unlike start values; and with a given CLIP nobody knows."""
    trainer = build_trainer(tiny_cfg("CoOp"))
    trainer.save_model(0, str(tmp_path))
    path = tmp_path / "prompt_learner" / "model.pth.tar-1"
    other = tiny_cfg("CoOp", tower="more_tokens")
    with pytest.raises(UserError, match="model.pth.tar-1 was trained with another configuration: MODEL.BACKBONE.NAME"):
        prompted_clip(other, CLASSNAMES).load(path)
    given = prompted_clip(other, CLASSNAMES, clip=load_tiny_clip(backbones["more_tokens"]))
    for model, how in ((given, {}), (prompted_clip(other, CLASSNAMES), {"any_backbone": True})):
        model.load(path, **how)
        assert torch.equal(model.theta()["prompt_learner.ctx"], trainer.theta()["prompt_learner.ctx"])


def test_prompts_of_other_classes_are_refused(tiny_cfg, tmp_path):
    cfg = tiny_cfg("CoOp", {"CSC": True})
    build_trainer(cfg).save_model(0, str(tmp_path))
    path = tmp_path / "prompt_learner" / "model.pth.tar-1"
    prompted_clip(cfg, CLASSNAMES).load(path)
    with pytest.raises(UserError, match="class-specific"):
        prompted_clip(cfg, CLASSNAMES[::-1]).load(path)


def test_another_clip_takes_the_place_of_the_backbone(backbones, tmp_path, without_data):
    """The backbone that the configuration names is not even looked for."""
    cfg = make_cfg("CoOp", tmp_path / "missing.pt", tmp_path, tmp_path)
    clip = load_tiny_clip(backbones["vit"])
    model = prompted_clip(cfg, ["cat", "dog"], clip=clip)
    assert model.clip is clip and model.logits(images()["heldout_images"]).shape == (8, 2)
    with pytest.raises(UserError, match="missing.pt"):
        prompted_clip(cfg, ["cat", "dog"])


@pytest.mark.parametrize("name", ["CoOp", "ZeroshotCLIP"])
def test_a_trainer_takes_a_given_one_for_its_own_classes_alone(name, tiny_cfg):
    cfg, kind = tiny_cfg(name), TRAINER_REGISTRY.get(name)
    model = prompted_clip(cfg, CLASSNAMES)
    assert kind(cfg, prompted=model).prompted is model
    with pytest.raises(UserError, match="other classes than the data set EuroSAT"):
        kind(cfg, prompted=prompted_clip(cfg, CLASSNAMES[::-1]))
    elsewhere = prompted_clip(cfg, CLASSNAMES)
    elsewhere.precision = replace(elsewhere.precision, device=torch.device("cuda"))
    with pytest.raises(UserError, match="is on cuda, but USE_CUDA asks for cpu"):
        kind(cfg, prompted=elsewhere)


def test_a_learned_tensor_that_is_not_finite_has_a_place_where_it_is_looked_for(tiny_cfg, without_data):
    """A prediction names it as the trainer's test does: by folder and tensor."""
    model = prompted_clip(tiny_cfg("CoOp"), CLASSNAMES)
    model.prompts.prompt_learner.ctx.data[0, 0] = float("nan")
    logits = model.logits(images()["heldout_images"])
    with pytest.raises(NonFiniteError, match=r"tensors: prompt_learner/ctx \(1 of "):
        check_logits(logits, ["photo.jpg"] * 8, model.checked_models())


def test_what_does_not_fit_is_said(tiny_cfg, tmp_path, without_data):
    with pytest.raises(UserError, match="TRAINER.COOP.N_CTX is 0"):
        prompted_clip(tiny_cfg("CoOp", {"N_CTX": 0}), CLASSNAMES)
    with pytest.raises(UserError, match="ask for logits"):
        prompted_clip(tiny_cfg("CoCoOp"), CLASSNAMES).text_features()
    path = str(tmp_path / "other.pth")
    torch.save({"state_dict": {"ctx": torch.zeros(3, 64)}, "epoch": 1}, path)
    with pytest.raises(UserError, match=r"other\.pth: tensor ctx has shape \(3, 64\)"):
        prompted_clip(tiny_cfg("CoOp"), CLASSNAMES).load(path)


def test_a_trainer_of_another_kind_is_refused(tiny_cfg, monkeypatch):
    class Other(SimpleTrainer):
        """Has a model of its own."""

    cfg = tiny_cfg("CoOp")
    cfg.TRAINER.NAME = "Other"
    monkeypatch.setattr(TRAINER_REGISTRY, "get", {"Other": Other}.get)
    with pytest.raises(UserError, match="Other is not built on this project's prompts"):
        prompted_clip(cfg, CLASSNAMES)


def test_the_documented_lines(without_data, capsys):
    _, code = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "using.md").read_text(), flags=re.DOTALL)
    capsys.readouterr()
    names: dict = {}
    exec(compile(code, "using.md", "exec"), names)
    assert "tensor(" in capsys.readouterr().out
    assert names["cosines"].shape == (2, 2) and names["cosines"].abs().max() <= 1 + 1e-6
