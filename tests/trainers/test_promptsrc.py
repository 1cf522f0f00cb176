"""PromptSRC by its definition: four losses, and the Gaussian mean of the prompts over the epochs.

Expected values: the formulas written out on features of the plain towers; a mean over all epochs made afterwards.
"""

from __future__ import annotations

import math

import plain_clip
import pytest
import torch
import torch.nn.functional as F
from golden_data import images
from plain_clip import unit
from tiny_runs import CLASSNAMES, build_trainer, learned, load_tiny_clip, set_position

from clip.clip import tokenize
from dassl.utils import UserError, load_checkpoint
from trainers.core.templates import teacher_templates
from trainers.promptsrc import AGGREGATION

NAMES = [name.replace("_", " ") for name in CLASSNAMES]


@pytest.mark.parametrize("reduction", ["mean", "batchmean"])
def test_four_losses_by_hand(tiny_trainer, backbones, reduction):
    trainer = tiny_trainer("PromptSRC", {"N_CTX_TEXT": 2, "KL_REDUCTION": reduction, "TEXT_LOSS_WEIGHT": 3.0})
    state, theta = load_tiny_clip(backbones["vit"]).state_dict(), trainer.theta()
    pictures, label = images()["train_images"][0], images()["train_labels"][0]
    tokens = tokenize([f"a photo of a {name}." for name in NAMES])
    deep = [theta["text_encoder.transformer.resblocks.1.VPT_shallow"]]
    visual = [theta["image_encoder.VPT"], theta["image_encoder.transformer.resblocks.1.VPT_shallow"]]
    text = unit(plain_clip.prompted_text_features(state, tokens, theta["prompt_learner.ctx"], deep))
    image, frozen = (
        unit(plain_clip.image_features(state, pictures, visual)),
        unit(plain_clip.image_features(state, pictures)),
    )
    ensemble = [plain_clip.text_features(state, tokenize([t.format(n) for n in NAMES])) for t in teacher_templates()]
    teacher = unit(torch.stack(ensemble).mean(dim=0))
    scale = state["logit_scale"].exp()
    logits = scale * image @ text.t()
    log_p, log_p0 = logits.log_softmax(dim=-1), (scale * frozen @ teacher.t()).log_softmax(dim=-1)
    divergence = (log_p0.exp() * (log_p0 - log_p)).sum()
    expected = {
        "loss_base": F.cross_entropy(logits, label),
        "loss_text": 3 * (text - teacher).abs().mean(),
        "loss_image": 10 * (image - frozen).abs().mean(),
        "loss_logits": divergence / (4 * 7 if reduction == "mean" else 4),
    }
    expected["loss"] = sum(expected.values())
    set_position(trainer, 0)
    reported = trainer.forward_backward({"img": pictures, "label": label})
    for name, value in expected.items():
        assert reported[name] == pytest.approx(value.item(), abs=2e-5), name
        assert value > 1e-3


# --- Gaussian aggregation ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "std", "epochs"), [(15, 1, 20), (6, 10, 20), (45, 5, 50), (2, 1, 3), (2.5, 0.5, 4)])
def test_weights(tiny_trainer, mean, std, epochs):
    trainer = tiny_trainer("PromptSRC", {"GPA_MEAN": mean, "GPA_STD": std})
    density = [math.exp(-((e - mean) ** 2) / (2 * std**2)) for e in range(1, epochs + 1)]
    expected = [value / sum(density) for value in density]
    assert trainer.epoch_weights(epochs).tolist() == pytest.approx(expected, abs=1e-12)


def test_weights_that_all_underflow(tiny_trainer):
    """The published division is 0 / 0 there; the nearest epoch has all the weight."""
    assert tiny_trainer("PromptSRC", {"GPA_MEAN": 99.0}).epoch_weights(3).tolist() == pytest.approx([0, 0, 1])


@pytest.fixture
def start(tiny_cfg, tmp_path):
    """Trains for `epochs` epochs into a folder; gives the trainer, and the prompts at the end of each epoch's steps."""

    def train(folder, epochs, **options):
        cfg = tiny_cfg("PromptSRC", {"GPA_MEAN": 2.0, "GPA_STD": 1.0, "OPTIM.LR": 0.02} | options)
        cfg.OUTPUT_DIR, cfg.TEST.NO_TEST, cfg.TRAIN.CHECKPOINT_FREQ = str(tmp_path / folder), True, 1
        cfg.DATASET.NUM_SHOTS, cfg.OPTIM.MAX_EPOCH = 1, epochs
        torch.manual_seed(0)
        trainer, began, ends = build_trainer(cfg), [], []
        aggregate = trainer.aggregate_prompts
        trainer.aggregate_prompts = lambda: ends.append(learned(trainer)) or aggregate()
        trainer.before_epoch = lambda: began.append(learned(trainer))
        trainer.train()
        trainer.began = began
        return trainer, ends

    return train


def saved(folder, epoch):
    return load_checkpoint(folder / "VLPromptLearner" / f"model.pth.tar-{epoch}")


def weighted(ends, mean=2.0):
    weights = [math.exp(-((e - mean) ** 2) / 2) for e in range(1, len(ends) + 1)]
    return {
        name: sum(w * end[name].double() for w, end in zip(weights, ends, strict=True)) / sum(weights)
        for name in ends[0]
    }


def test_the_last_checkpoint_is_the_mean_of_all_epochs(start, tmp_path):
    trainer, ends = start("run", 3)
    for name, expected in weighted(ends).items():
        assert (learned(trainer)[name] - expected).abs().max() < 1e-7
        assert (ends[-1][name] - expected).abs().max() > 1e-5  # not what the last step left
    for epoch in (1, 2):  # those of earlier epochs are plain
        assert all(
            torch.equal(value, ends[epoch - 1][name])
            for name, value in saved(tmp_path / "run", epoch)["state_dict"].items()
        )
    final = saved(tmp_path / "run", 3)["state_dict"]
    assert all(torch.equal(value, final[name]) for name, value in learned(trainer).items())


def test_a_finished_run_is_extended_from_what_the_mean_replaced(start, tmp_path):
    """Its mean then goes over all epochs; the first of the new ones starts at the end of the last old one."""
    _, first = start("run", 2)
    replaced = saved(tmp_path / "run", 2)["training_state"][AGGREGATION]["replaced"]
    assert all(torch.equal(value, first[-1][name]) for name, value in replaced.items())
    trainer, then = start("run", 4, **{"TRAIN.EXTEND": True})
    assert len(then) == 2 and all(torch.equal(trainer.began[0][name], value) for name, value in first[-1].items())
    for name, expected in weighted(first + then).items():
        assert (learned(trainer)[name] - expected).abs().max() < 1e-7


def test_without_the_mean_of_the_epochs_before_a_run_is_not_resumed(start, tmp_path):
    """As published checkpoints are: the published code goes on with wrong weights and never replaces the prompts."""
    start("run", 2)
    folder = tmp_path / "run" / "VLPromptLearner"
    content = saved(tmp_path / "run", 1)
    del content["training_state"]
    torch.save(content, folder / "model.pth.tar-1")
    (folder / "checkpoint").write_text("model.pth.tar-1\n")
    with pytest.raises(UserError, match="does not have PromptSRC's mean of the prompts.*MODEL.INIT_WEIGHTS"):
        start("run", 2)
    content["training_state"] = {"random": None}
    torch.save(content, folder / "model.pth.tar-1")
    with pytest.raises(UserError, match="training state in .* does not fit"):
        start("run", 2)
