"""Evaluation encodes the class names once, and anew whenever a learned tensor has changed.

Expected values: logits computed without any cache.
"""

from __future__ import annotations

import pytest
import torch
from golden_data import images, training_batch
from golden_replay import evaluate
from tiny_runs import NODES, set_position

from dassl.engine.anomalies import NonFiniteError

ENCODING = [name for name in NODES if name != "CoCoOp"]  # whose text features depend on the image


@pytest.fixture
def counted(tiny_trainer, monkeypatch):
    """A trainer that counts how often it encodes the class names."""

    def make(name, **options):
        trainer = tiny_trainer(name, {"DATALOADER.TEST.BATCH_SIZE": 3} | options)
        encode, trainer.count = trainer.prompts.text_features, 0

        def text_features(theta, *inputs):
            trainer.count += 1
            return encode(theta, *inputs)

        monkeypatch.setattr(trainer.prompts, "text_features", text_features)
        return trainer

    return make


def without_cache(trainer, batch):
    with torch.no_grad():
        return trainer.prompts.logits(trainer.prompts.tensors(), batch)


def step(trainer):
    set_position(trainer, 0)
    trainer.forward_backward(training_batch(0))


@pytest.mark.parametrize("name", ENCODING)
def test_one_encoding_per_test(name, counted):
    trainer = counted(name)
    assert len(trainer.test_loader) == 5  # 14 images
    trainer.test()
    assert trainer.count == 1
    trainer.test()
    assert trainer.count == 1  # nothing has changed


@pytest.mark.parametrize("name", ENCODING)
def test_a_step_makes_it_encode_anew(name, counted):
    trainer, heldout = counted(name), images()["heldout_images"]
    first = evaluate(trainer, heldout)
    assert torch.equal(first, without_cache(trainer, heldout))
    step(trainer)
    trainer.count = 0
    second = evaluate(trainer, heldout)
    assert trainer.count == 1
    assert torch.equal(second, without_cache(trainer, heldout))
    assert (second - first).abs().max() > 1e-4


@pytest.mark.parametrize("name", ENCODING)
def test_loading_makes_it_encode_anew(name, counted, tmp_path):
    trainer, heldout = counted(name), images()["heldout_images"]
    start = evaluate(trainer, heldout)
    trainer.save_model(0, str(tmp_path))
    step(trainer)
    assert (evaluate(trainer, heldout) - start).abs().max() > 1e-4
    trainer.load_model(str(tmp_path), epoch=1)
    assert torch.equal(evaluate(trainer, heldout), start)
    step(trainer)
    assert trainer.resume_model_if_exist(str(tmp_path)) == 1
    assert torch.equal(evaluate(trainer, heldout), start)


@pytest.mark.parametrize("rows_at_once", [1, 40, 10**6])
def test_cocoop_in_chunks(tiny_trainer, monkeypatch, rows_at_once):
    """One prompt set per image: encoded in as many pieces as memory asks for, with the same result."""
    from trainers import cocoop

    trainer, heldout = tiny_trainer("CoCoOp", {"CTX_INIT": "a photo of a"}), images()["heldout_images"]
    whole = evaluate(trainer, heldout)
    calls = []
    encode = trainer.prompts.context.encode
    monkeypatch.setattr(trainer.prompts.context, "encode", lambda *a: calls.append(len(a[1])) or encode(*a))
    monkeypatch.setattr(cocoop, "ROWS_AT_ONCE", rows_at_once)
    assert (evaluate(trainer, heldout) - whole).abs().max() < 1e-5
    assert sum(calls) == len(heldout)
    assert calls == {1: [1] * 8, 40: [1] * 8, 10**6: [8]}[rows_at_once] or rows_at_once == 40


@pytest.mark.parametrize("name", ["ZeroshotCLIP", "ZeroshotCLIP2"])
def test_zero_shot_learns_nothing_and_can_be_built_twice(name, tiny_trainer):
    """The published ensemble lengthened a shared list of templates on every build."""
    first, second = tiny_trainer(name), tiny_trainer(name)
    heldout = images()["heldout_images"]
    assert torch.equal(evaluate(first, heldout), evaluate(second, heldout))
    assert first.templates() == second.templates()
    assert len(first.templates()) == {"ZeroshotCLIP": 1, "ZeroshotCLIP2": 8}[name]
    assert 0 <= first.test() <= 100


@pytest.mark.parametrize("name", ["CoOp", "ZeroshotCLIP"])
def test_a_frozen_tensor_that_is_not_finite_is_named(tiny_trainer, name):
    trainer = tiny_trainer(name)
    clip = trainer.checked_models()["frozen CLIP"]
    clip.visual.proj.data[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match=r"tensors: frozen CLIP/visual.proj \(1 of "):
        trainer.test()
