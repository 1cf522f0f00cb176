"""The life cycle on a toy trainer: training, log lines, checkpoints, resuming, evaluation."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from dassl.config import get_cfg_default
from dassl.engine import (
    TRAINER_REGISTRY,
    SimpleNet,
    SimpleTrainer,
    TrainerBase,
    TrainerX,
    TrainerXU,
    build_trainer,
    unfinished_epoch,
)
from dassl.interruption import STOP, Interrupted
from dassl.utils import MismatchError, MissingFileError, UserError, set_random_seed

REPOSITORY = Path(__file__).resolve().parents[2]
LINE = re.compile(
    r"epoch \[2/4\] batch \[3/3\] time \d+\.\d{3} \(\d+\.\d{3}\) data \d+\.\d{3} \(\d+\.\d{3}\) "
    r"loss \d+\.\d{4} \(\d+\.\d{4}\) acc \d+\.\d{4} \(\d+\.\d{4}\) lr \d\.\d{4}e-\d\d eta \d:\d\d:\d\d"
)


def weights(trainer):
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_training_prints_saves_and_tests(cfg, capsys):
    set_random_seed(1)
    trainer = build_trainer(cfg)
    trainer.train()
    out = capsys.readouterr().out
    assert LINE.search(out)
    assert (
        len(re.findall(r"^epoch \[", out, re.M)) == 12
    )  # 15 images in batches of 4, 4 epochs; few batches: all printed
    assert "No checkpoint found, train from scratch" in out
    assert (
        out.index("Finish training")
        < out.index("Deploy the last-epoch model")
        < out.index("Evaluate on the *test* set")
    )
    assert re.search(
        r"=> result\n\* total: 9\n\* correct: \d\n\* accuracy: \d+\.\d%\n\* error: \d+\.\d%\n\* macro_f1: ", out
    )
    assert re.search(r"^Elapsed: 0:0\d:\d\d$", out, re.M)
    folder = Path(cfg.OUTPUT_DIR)
    assert {path.name for path in (folder / "model").iterdir()} == {"model.pth.tar-4", "checkpoint"}
    content = torch.load(folder / "model" / "model.pth.tar-4", weights_only=True)
    assert list(content) == ["state_dict", "epoch", "optimizer", "scheduler", "val_result", "training_state", "run"]
    assert content["epoch"] == 4 and same(weights(trainer), content["state_dict"])
    assert list((folder / "tensorboard").glob("events.out.tfevents.*"))


def test_tensorboard_holds_the_averages(cfg):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    trainer = build_trainer(cfg)
    trainer.train()
    events = EventAccumulator(str(Path(cfg.OUTPUT_DIR) / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {
        "train/loss", "train/acc", "train/lr", "test/accuracy", "test/error_rate", "test/macro_f1",
        "test/macro_accuracy", "test/nll", "test/ece", "test/adaptive_ece", "test/brier",
    }  # fmt: skip
    rates = events.Scalars("train/lr")
    assert [event.step for event in rates] == list(range(12))
    # The rate changes after the last batch of an epoch, so its log shows the next epoch's: warm-up 1e-5, then 0.1.
    assert [event.value for event in rates][:4] == pytest.approx([1e-5, 1e-5, 0.1, 0.1])


def test_print_frequency(cfg, capsys):
    cfg.TRAIN.PRINT_FREQ = 2
    cfg.OPTIM.MAX_EPOCH = 1
    build_trainer(cfg).train()
    out = capsys.readouterr().out
    assert re.findall(r"^epoch \[1/1\] batch \[(\d)/3\]", out, re.M) == ["2"]
    cfg.TRAIN.PRINT_FREQ = 0
    with pytest.raises(UserError, match="TRAIN.PRINT_FREQ"):
        build_trainer(cfg).train()


@pytest.mark.parametrize("killed_after", [1, 2, 3])
@pytest.mark.parametrize("sampler", ["RandomSampler", "RandomClassSampler"])  # PyTorch's generator, Python's
def test_a_resumed_run_has_the_same_rates_and_momentum(cfg, killed_after, sampler, tmp_path):
    """Order and augmentation go on where they were, whatever was drawn meanwhile: the runs agree to the last bit."""
    cfg.TRAIN.CHECKPOINT_FREQ = 1
    cfg.TEST.NO_TEST = True

    def run(epochs, folder):
        set_random_seed(3)
        cfg.DATALOADER.TRAIN_X.SAMPLER, cfg.DATALOADER.TRAIN_X.N_INS = sampler, 2
        cfg.OUTPUT_DIR = str(tmp_path / folder)
        trainer = build_trainer(cfg)
        trainer.max_epoch = epochs
        trainer.train()
        return trainer

    whole = run(4, "whole")
    run(killed_after, "parts")
    resumed = run(4, "parts")
    assert resumed.start_epoch == killed_after
    assert same(weights(whole), weights(resumed))
    assert resumed.get_current_lr() == whole.get_current_lr()
    files = [tmp_path / folder / "model" / "model.pth.tar-4" for folder in ("whole", "parts")]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("key", ["optimizer", "scheduler"])
def test_a_checkpoint_without_momentum_or_schedule_is_not_resumed(cfg, key):
    cfg.TRAIN.CHECKPOINT_FREQ, cfg.TEST.NO_TEST = 1, True
    build_trainer(cfg).train()
    folder = Path(cfg.OUTPUT_DIR) / "model"
    content = torch.load(folder / "model.pth.tar-2", weights_only=True)
    torch.save(content | {key: None}, folder / "model.pth.tar-2")
    (folder / "checkpoint").write_text("model.pth.tar-2\n")
    with pytest.raises(UserError, match=f'tar-2 cannot be resumed: it has no "{key}"'):
        build_trainer(cfg).train()


def test_another_configuration_in_a_used_folder_is_a_warning(cfg, capsys):
    """Dassl goes on without a word; a trainer that does not refuse it names each key, once."""
    cfg.TRAIN.CHECKPOINT_FREQ, cfg.OPTIM.MAX_EPOCH = 1, 2
    build_trainer(cfg).train()
    assert "Warning" not in capsys.readouterr().out
    cfg.OPTIM.LR, cfg.SEED, cfg.OPTIM.MAX_EPOCH = 0.05, 7, 3
    trainer = build_trainer(cfg)
    trainer.train()
    differing = "SEED is -1 there, 7 here; OPTIM.LR is 0.1 there, 0.05 here; OPTIM.MAX_EPOCH is 2 there, 3 here"
    out = capsys.readouterr().out
    assert out.count(f"Warning: {cfg.OUTPUT_DIR} was trained with another configuration: {differing}") == 1
    assert trainer.start_epoch == 2 and "epoch [3/3]" in out
    cfg.OPTIM.LR, cfg.TEST.SPLIT = 0.01, "val"
    build_trainer(cfg).load_model(cfg.OUTPUT_DIR, epoch=3)
    assert "another configuration: OPTIM.LR is 0.05 there, 0.01 here (" in capsys.readouterr().out
    build_trainer(cfg).load_model(cfg.OUTPUT_DIR, epoch=1)  # of the first run, beside the second one's record
    assert "Warning: " in (out := capsys.readouterr().out) and "config.yaml does not belong to " in out


def test_a_longer_training_on_request(cfg, tmp_path):
    """The added epochs have the rates of a run of that length, warm-up included."""
    cfg.TRAIN.CHECKPOINT_FREQ = 1

    def rates(folder, epochs, extend=False):
        cfg.OUTPUT_DIR, cfg.OPTIM.MAX_EPOCH, cfg.TRAIN.EXTEND = str(tmp_path / folder), epochs, extend
        trainer = build_trainer(cfg)
        trainer.train()
        return [line["lr"] for line in trainer.epoch_history.epochs]

    whole, short = rates("whole", 6), rates("short", 3)
    assert rates("short", 6, extend=True) == short + whole[3:]
    content = torch.load(tmp_path / "short" / "model" / "model.pth.tar-6", weights_only=True)
    assert content["scheduler"]["successor"]["T_max"] == 6
    with pytest.raises(UserError, match="has no checkpoint to extend"):
        rates("nothing", 6, extend=True)


def test_the_best_result_counts_after_a_resume_from_another_folder(cfg, tmp_path):
    """Validation accuracy 90 in the first epoch, 50 later: the first model stays the best one."""
    cfg.DATASET.NUM_LABELED, cfg.TEST.FINAL_MODEL = 2, "best_val"

    def run(epochs, folder, resume=""):
        cfg.OUTPUT_DIR, cfg.RESUME = str(tmp_path / folder), resume
        trainer = build_trainer(cfg)
        trainer.max_epoch = epochs
        trainer.test = lambda split=None: 90.0 if trainer.epoch == 0 else 50.0
        trainer.train()
        return trainer

    run(2, "first")
    best = tmp_path / "first" / "model" / "model-best.pth.tar"
    assert torch.load(best, weights_only=True)["epoch"] == 1
    resumed = run(4, "second", resume=str(tmp_path / "first"))
    assert (resumed.start_epoch, resumed.best_result) == (2, 90.0)
    assert (tmp_path / "second" / "model" / "model-best.pth.tar").read_bytes() == best.read_bytes()


def test_the_loss_scale_goes_on_after_a_resume(cfg):
    cfg.TRAIN.CHECKPOINT_FREQ, cfg.TEST.NO_TEST = 1, True
    trainer = build_trainer(cfg)
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=512.0)
    trainer.train()
    again = build_trainer(cfg)
    again.scaler = torch.amp.GradScaler("cpu")
    again.train()
    assert again.start_epoch == 4 and again.scaler.get_scale() == 512.0


def test_a_disk_that_is_full_for_a_while_costs_nothing(cfg, tmp_path, monkeypatch):
    """The system reports a full disk while the third epoch is written; started again, the run ends as one without."""
    cfg.TRAIN.CHECKPOINT_FREQ, cfg.TEST.NO_TEST = 1, True

    def run(folder):
        set_random_seed(3)
        cfg.OUTPUT_DIR = str(tmp_path / folder)
        build_trainer(cfg).train()
        return tmp_path / folder / "model"

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    whole = run("whole")
    with monkeypatch.context() as patch:
        sync, calls = os.fsync, iter(range(1000))
        # every file is synced, and its folder: 0 to 5 are the record and environment.txt, 6 to 13 two epochs
        patch.setattr(os, "fsync", lambda handle: (full if next(calls) >= 14 else sync)(handle))
        with pytest.raises(UserError, match=r"cannot write .*model\.pth\.tar-3: No space left on device"):
            run("parts")
    assert {path.name for path in (tmp_path / "parts" / "model").iterdir()} == {
        "checkpoint", "model.pth.tar-1", "model.pth.tar-2"
    }  # fmt: skip
    assert [path.read_bytes() for path in sorted(run("parts").iterdir())] == [
        path.read_bytes() for path in sorted(whole.iterdir())
    ]


def test_what_killed_writes_left_is_removed(cfg, tmp_path):
    (tmp_path / "out" / "model").mkdir(parents=True)
    (tmp_path / "out" / "model" / ".model.pth.tar-1.abcd.tmp").write_bytes(b"half")
    cfg.OPTIM.MAX_EPOCH = 1
    build_trainer(cfg).train()
    assert {path.name for path in (tmp_path / "out" / "model").iterdir()} == {"model.pth.tar-1", "checkpoint"}


def test_steps_taken_again_are_shown_once(cfg, tmp_path):
    """TensorBoard drops what a killed run wrote after its last checkpoint."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    cfg.TRAIN.CHECKPOINT_FREQ, cfg.TEST.NO_TEST = 2, True

    class KilledError(Exception):
        pass

    def interrupted(epoch):
        raise KilledError

    trainer = build_trainer(cfg)
    trainer.before_epoch = lambda: interrupted(3) if trainer.epoch == 3 else None
    with pytest.raises(KilledError):
        trainer.train()
    build_trainer(cfg).train()
    assert len(list((tmp_path / "out" / "tensorboard").iterdir())) == 2
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(12))


@pytest.mark.parametrize("damage", [7, {}, {"random": {}}, {"random": {"python": [3, (1, 2), None]}}])
def test_a_damaged_training_state_is_named(cfg, damage):
    cfg.OPTIM.MAX_EPOCH = 1
    build_trainer(cfg).train()
    path = Path(cfg.OUTPUT_DIR) / "model" / "model.pth.tar-1"
    content = torch.load(path, weights_only=True)
    torch.save({**content, "training_state": damage}, path)
    with pytest.raises(MismatchError, match=r"training state in .*model\.pth\.tar-1 does not fit"):
        build_trainer(cfg).train()
    torch.save({key: value for key, value in content.items() if key != "training_state"}, path)  # as upstream's
    build_trainer(cfg).train()


def test_resume_from_another_folder_and_a_missing_one(cfg, tmp_path, capsys):
    cfg.OPTIM.MAX_EPOCH = 1
    build_trainer(cfg).train()
    cfg.RESUME, cfg.OUTPUT_DIR = cfg.OUTPUT_DIR, str(tmp_path / "second")
    trainer = build_trainer(cfg)
    capsys.readouterr()
    trainer.train()
    assert trainer.start_epoch == 1 and "will resume training" in capsys.readouterr().out
    cfg.RESUME = str(tmp_path / "nowhere")
    with pytest.raises(MissingFileError, match="nowhere"):
        build_trainer(cfg).train()


class _TwoModels(TrainerBase):
    def __init__(self):
        super().__init__()
        for name in ("one", "two"):
            model = nn.Linear(1, 1)
            self.register_model(name, model, torch.optim.SGD(model.parameters(), lr=1.0))


def test_models_killed_between_their_checkpoints_resume_from_a_common_epoch(tmp_path):
    trainer = _TwoModels()
    folder = str(tmp_path)
    assert trainer.resume_model_if_exist(folder) == 0
    for epoch in (0, 1):
        trainer.save_model(epoch, folder)
    kept = trainer._models["one"].weight.item()
    with torch.no_grad():
        trainer._models["one"].weight += 1
    (tmp_path / "two").rename(tmp_path / "aside")  # the kill: only the first model's third checkpoint is written
    trainer.save_model(2, folder)
    for path in (tmp_path / "two").iterdir():
        path.unlink()
    (tmp_path / "two").rmdir()
    (tmp_path / "aside").rename(tmp_path / "two")
    assert trainer.resume_model_if_exist(folder) == 2
    assert trainer._models["one"].weight.item() == kept
    (tmp_path / "two" / "checkpoint").unlink()
    assert trainer.resume_model_if_exist(folder) == 0


def test_registered_models(tmp_path):
    trainer = _TwoModels()
    assert trainer.get_model_names() == ["one", "two"]
    assert trainer.get_model_names("two") == ["two"]
    with pytest.raises(AssertionError, match="three"):
        trainer.get_model_names(["three"])
    with pytest.raises(AssertionError, match="already registered"):
        trainer.register_model("one", nn.Linear(1, 1))
    trainer.set_model_mode("eval", names="one")
    assert (trainer._models["one"].training, trainer._models["two"].training) == (False, True)
    with pytest.raises(KeyError, match="unknown mode"):
        trainer.set_model_mode("sleep")
    assert trainer.get_current_lr("two") == 1.0
    before = {name: model.weight.item() for name, model in trainer._models.items()}
    loss = trainer._models["one"](torch.ones(1, 1)).sum() + trainer._models["two"](torch.ones(1, 1)).sum()
    trainer.model_backward_and_update(loss, names="one")
    assert trainer._models["one"].weight.item() == pytest.approx(before["one"] - 1)
    assert trainer._models["two"].weight.item() == before["two"]
    with pytest.raises(MissingFileError, match="two"):
        trainer.save_model(0, str(tmp_path))
        (tmp_path / "two" / "model.pth.tar-1").unlink()
        trainer.load_model(str(tmp_path), epoch=1)


def test_register_before_init_is_told():
    class Early(TrainerBase):
        def __init__(self):
            self.register_model("one", nn.Linear(1, 1))

    with pytest.raises(ValueError, match="before super"):
        Early()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_run(bad):
    with pytest.raises(UserError, match="infinite or NaN"):
        _TwoModels().model_backward_and_update(torch.tensor(bad, requires_grad=True))


def test_a_loss_that_is_no_number_names_step_images_and_tensors(cfg, tmp_path):
    """The weights become NaN by the update of step 4, which step 5 (epoch 2, batch 2) meets."""
    cfg.TRAIN.CHECKPOINT_FREQ, cfg.DATALOADER.TRAIN_X.SAMPLER = 1, "SequentialSampler"
    trainer = build_trainer(cfg)
    train_on = trainer.forward_backward

    def forward_backward(batch):
        values = train_on(batch)
        if (trainer.epoch, trainer.batch_idx) == (1, 0):
            trainer.model.classifier.weight.data[0, 1] = float("nan")
        return values

    trainer.forward_backward = forward_backward
    with pytest.raises(UserError) as caught:
        trainer.train()
    message = str(caught.value)
    path = tmp_path / "out" / "non_finite.txt"
    assert message == (
        "infinite or NaN in epoch 2, batch 2 (step 5): loss = nan, model/classifier.weight (1 of 9 values): "
        f"use a smaller OPTIM.LR or another PREC; details: {path}"
    )
    images = [item.impath for item in trainer.dm.dataset.train_x]
    loss, tensors, of_batch, before = re.split(r"^\w.*:\n", path.read_text(), flags=re.M)[1:]
    assert loss == "  loss = nan\n" and "  model/classifier.weight (1 of 9 values)\n" in tensors
    assert (of_batch.split(), before.split()) == (images[4:8], images[:4])
    assert (tmp_path / "out" / "model" / "checkpoint").read_text() == "model.pth.tar-1\n"


def test_no_checkpoint_is_written_of_tensors_that_are_no_numbers(cfg, tmp_path):
    trainer = build_trainer(cfg)
    trainer.forward_backward = lambda batch: {"norm": trainer.model.classifier.weight.data.fill_(float("inf")).norm()}
    with pytest.raises(UserError, match=r"infinite or NaN in epoch 1, batch 3 .*classifier.weight \(9 of 9 values\)"):
        trainer.train()
    assert not list((tmp_path / "out").glob("model/*"))


def test_many_bad_tensors_and_images_are_a_short_line(tmp_path):
    """The file has all of them."""
    trainer = _TwoModels()
    trainer.output_dir = str(tmp_path)
    trainer.write_details = lambda text: SimpleTrainer.write_details(trainer, text)
    trainer._models = {"model": nn.Sequential(*(nn.Linear(1, 1) for _ in range(100)))}
    trainer._last_images = [[f"{number}.jpg" for number in range(100)]] * 2
    for parameter in trainer._models["model"].parameters():
        nn.init.constant_(parameter, float("nan"))
    with pytest.raises(UserError, match=r"loss = nan, .* and 199 more: use a smaller") as stopped:
        trainer.detect_anomaly(torch.tensor(float("nan")))
    assert len(str(stopped.value)) < 160 + len(str(tmp_path))
    assert len((tmp_path / "non_finite.txt").read_text().splitlines()) == 4 + 1 + 200 + 200


def test_logits_that_are_not_finite_stop_a_test(cfg):
    trainer = build_trainer(cfg)
    nn.init.constant_(trainer.model.classifier.weight, float("nan"))
    with pytest.raises(UserError, match=r"are NaN or infinite; images: .*\.png.*model/classifier.weight"):
        trainer.test()


def test_gradients_of_an_update_that_a_loss_scaler_skipped_stop_nothing(cfg, tmp_path):
    """GradScaler leaves the infinite gradients where they are when it skips a step."""
    cfg.TEST.NO_TEST = True
    trainer = build_trainer(cfg)

    def skipped(batch):
        trainer.model.classifier.weight.grad = torch.full_like(trainer.model.classifier.weight, float("inf"))
        return {"loss": 1.0}

    trainer.forward_backward = skipped
    trainer.train()
    assert list((tmp_path / "out").glob("model/*"))


def test_every_loss_that_a_step_reports_is_looked_at(cfg):
    trainer = build_trainer(cfg)
    trainer.forward_backward = lambda batch: {"loss": 1.0, "loss_text": float("inf"), "acc": float("nan")}
    with pytest.raises(UserError, match=r"batch 1 \(step 1\): loss_text = inf: use"):
        trainer.train()


def test_load_model(cfg, capsys):
    trainer = build_trainer(cfg)
    trainer.save_model(2, cfg.OUTPUT_DIR, is_best=True, val_result=71.25)
    saved = weights(trainer)
    with torch.no_grad():
        trainer.model.classifier.weight.zero_()
    capsys.readouterr()
    trainer.load_model(cfg.OUTPUT_DIR, epoch=3)
    assert same(weights(trainer), saved)
    assert "(epoch=3, val_result=71.25)" in capsys.readouterr().out
    trainer.load_model(cfg.OUTPUT_DIR)  # model-best
    trainer.load_model("")
    assert "load_model() is skipped" in capsys.readouterr().out
    with pytest.raises(MissingFileError, match=r"model\.pth\.tar-9"):
        trainer.load_model(cfg.OUTPUT_DIR, epoch=9)
    cfg.MODEL.HEAD.NAME, cfg.MODEL.HEAD.HIDDEN_LAYERS = "mlp", (5,)
    with pytest.raises(MismatchError, match=r"head\."):
        build_trainer(cfg).load_model(cfg.OUTPUT_DIR, epoch=3)


def test_best_model_on_validation(cfg, capsys):
    cfg.DATASET.NUM_LABELED = 2
    cfg.TEST.FINAL_MODEL = "best_val"
    cfg.TRAIN.CHECKPOINT_FREQ = 1
    trainer = build_trainer(cfg)
    trainer.train()
    out = capsys.readouterr().out
    assert out.count("Evaluate on the *val* set") == 4 and "Deploy the model with the best val performance" in out
    best = torch.load(Path(cfg.OUTPUT_DIR) / "model" / "model-best.pth.tar", weights_only=True)
    assert best["val_result"] == trainer.best_result
    assert max(line["val_accuracy"] for line in trainer.epoch_history.epochs) == trainer.best_result
    assert all({"loss", "val_accuracy"} <= set(line) for line in trainer.epoch_history.epochs)
    assert same(weights(trainer), best["state_dict"])
    again = build_trainer(cfg)
    again.before_train()
    assert again.start_epoch == 4 and again.best_result == trainer.best_result


def test_best_model_needs_validation_images(cfg):
    cfg.TEST.FINAL_MODEL = "best_val"
    with pytest.raises(UserError, match="needs validation images"):
        build_trainer(cfg).train()
    cfg.TEST.FINAL_MODEL = "best"
    with pytest.raises(UserError, match="last_step or best_val"):
        build_trainer(cfg).train()


def test_evaluation_alone(cfg, capsys):
    trainer = build_trainer(cfg)
    with torch.no_grad():  # the toy backbone gives the means of the three colours, so the identity classifies them
        trainer.model.classifier.weight.copy_(torch.eye(3))
        trainer.model.classifier.bias.zero_()
    assert trainer.test() == 100.0
    assert "Evaluate on the *test* set" in capsys.readouterr().out
    assert trainer.test(split="val") == 100.0  # no validation images: the test images, and it says so
    assert "Evaluate on the *test* set" in capsys.readouterr().out


@TRAINER_REGISTRY.register(force=True)
class ToyXU(TrainerXU):
    def forward_backward(self, batch_x, batch_u):
        input_x, label_x, input_u = self.parse_batch_train(batch_x, batch_u)
        self.sizes = [*getattr(self, "sizes", []), (len(input_x), len(input_u))]
        self.model_backward_and_update(self.model(input_x).sum() + self.model(input_u).sum())
        return {"loss": 0.0}


@pytest.mark.parametrize(("count", "batches"), [("train_x", 3), ("train_u", 7), ("smaller_one", 3)])
def test_two_loaders(cfg, count, batches):
    cfg.DATASET.ALL_AS_UNLABELED = True
    cfg.DATALOADER.TRAIN_U.SAME_AS_X = False
    cfg.DATALOADER.TRAIN_U.BATCH_SIZE = 2
    cfg.TRAIN.COUNT_ITER = count
    cfg.TRAINER.NAME, cfg.OPTIM.MAX_EPOCH = "ToyXU", 1
    trainer = build_trainer(cfg)
    trainer.train()
    assert trainer.sizes == [(4, 2)] * batches


def test_two_loaders_draw_in_the_order_of_the_lineage(cfg):
    """Both loaders begin (one number each) before either is asked for a batch; the reference does so by hand."""
    cfg.DATASET.ALL_AS_UNLABELED = True
    cfg.TRAINER.NAME, cfg.OPTIM.MAX_EPOCH, cfg.INPUT.TRANSFORMS = "ToyXU", 1, ()
    trainer = build_trainer(cfg)
    seen = []
    trainer.forward_backward = lambda x, u: seen.append((x["index"].tolist(), u["index"].tolist()))
    torch.manual_seed(5)
    trainer.run_epoch()
    torch.manual_seed(5)
    x, u = iter(trainer.train_loader_x), iter(trainer.train_loader_u)
    assert seen == [(next(x)["index"].tolist(), next(u)["index"].tolist()) for _ in range(3)]


def test_simple_net(cfg):
    cfg.MODEL.HEAD.NAME, cfg.MODEL.HEAD.HIDDEN_LAYERS, cfg.MODEL.HEAD.DROPOUT = "mlp", (8, 6), 0.1
    net = SimpleNet(cfg, cfg.MODEL, 5)
    logits, features = net(torch.rand(4, 3, 8, 8), return_feature=True)
    assert (net.fdim, tuple(logits.shape), tuple(features.shape)) == (6, (4, 5), (4, 6))
    assert SimpleNet(cfg, cfg.MODEL, 0)(torch.rand(4, 3, 8, 8)).shape == (4, 6)


def test_a_resnet_backbone(cfg):
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.BACKBONE.PRETRAINED = "resnet18", False
    net = SimpleNet(cfg, cfg.MODEL, 2)
    assert net.fdim == 512 and net(torch.rand(2, 3, 32, 32)).shape == (2, 2)


def test_unknown_names_are_one_line(cfg):
    cfg.TRAINER.NAME = "ToyTrainr"
    with pytest.raises(UserError, match=r'unknown TRAINER "ToyTrainr" \(did you mean "ToyTrainer"\?\); available: '):
        build_trainer(cfg)
    cfg.TRAINER.NAME, cfg.DATASET.NAME = "ToyTrainer", "ToyColors"
    with pytest.raises(UserError, match='unknown DATASET "ToyColors"'):
        build_trainer(cfg)


def test_the_base_classes_leave_the_method_to_subclasses():
    for method in ("forward_backward", "parse_batch_train", "parse_batch_test", "model_inference"):
        with pytest.raises(NotImplementedError):
            getattr(TrainerBase(), method)(None)
    for method in ("run_epoch", "test"):
        with pytest.raises(NotImplementedError):
            getattr(TrainerBase(), method)()
    assert issubclass(TrainerX, SimpleTrainer)


def test_importing_the_engine_loads_neither_torchvision_nor_tensorboard():
    heavy = "torchvision", "tensorboard", "gdown"
    code = f"import sys, dassl.engine, dassl.config; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"


TRAINER_FILE = """
from dassl.config import get_cfg_default, clean_cfg
from dassl.data import DataManager, DatasetWrapper
from dassl.data.data_manager import build_data_loader
from dassl.data.datasets import DATASET_REGISTRY, Datum, DatasetBase, build_dataset
from dassl.data.datasets.base_dataset import Datum as SameDatum
from dassl.data.samplers import build_sampler
from dassl.data.transforms import INTERPOLATION_MODES, build_transform
from dassl.data.transforms.transforms import build_transform as same_build_transform
from dassl.engine import SimpleNet, SimpleTrainer, TRAINER_REGISTRY, TrainerBase, TrainerX, TrainerXU, build_trainer
from dassl.engine.trainer import SimpleNet as SameSimpleNet
from dassl.evaluation import EVALUATOR_REGISTRY, Classification, EvaluatorBase, build_evaluator
from dassl.metrics import compute_accuracy, compute_distance_matrix
from dassl.modeling import BACKBONE_REGISTRY, HEAD_REGISTRY, build_backbone, build_head
from dassl.modeling.backbone.build import BACKBONE_REGISTRY as same_registry
from dassl.optim import build_lr_scheduler, build_optimizer
from dassl.optim.lr_scheduler import ConstantWarmupScheduler, LinearWarmupScheduler
from dassl.utils import (
    AverageMeter, MetricMeter, Registry, check_availability, check_isfile, collect_env_info, count_num_param,
    init_network_weights, listdir_nohidden, load_checkpoint, load_pretrained_weights, mkdir_if_missing,
    open_all_layers, open_specified_layers, read_image, read_json, resume_from_checkpoint, save_checkpoint,
    set_random_seed, setup_logger, tolist_if_not, write_json,
)
from dassl.utils.tools import mkdir_if_missing as same_mkdir
from dassl.utils.torchtools import load_checkpoint as same_load
"""


def test_the_import_paths_of_the_lineage():
    names = {}
    exec(TRAINER_FILE, names)  # written out above
    assert names["SameDatum"] is names["Datum"] and names["SameSimpleNet"] is names["SimpleNet"]
    assert names["get_cfg_default"] is get_cfg_default


# Checkpoints within an epoch


class Killed(Exception):
    """Takes the place of SIGKILL."""


def killed_after(trainer, step, stop=None):
    """Train until `step` steps are done; then raise Killed, or do `stop` at the end of that step."""
    train_on = trainer.forward_backward

    def forward_backward(batch):
        done = trainer.epoch * trainer.num_batches + trainer.batch_idx
        if stop is None and done == step:
            raise Killed
        values = train_on(batch)
        if stop is not None and done + 1 == step:
            stop()
        return values

    trainer.forward_backward = forward_backward
    trainer.train()


@pytest.fixture
def cheap(monkeypatch):
    """Checkpoints are written after each step, whatever that costs."""
    monkeypatch.setattr(unfinished_epoch, "LARGEST_SHARE", float("inf"))


def started(cfg, folder, **settings):
    set_random_seed(3)
    cfg = cfg.clone()
    cfg.OUTPUT_DIR, cfg.TEST.NO_TEST, cfg.TRAIN.CHECKPOINT_SECONDS = str(folder), True, 1e-9
    cfg.TRAIN.update(settings)
    return build_trainer(cfg)


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 7, 11])
@pytest.mark.parametrize("frequency", [0, 1])
def test_a_run_continues_within_an_epoch(cfg, cheap, tmp_path, capsys, step, frequency):
    """Three batches an epoch. After the last one there is the epoch's own checkpoint, or one between epochs."""
    whole = started(cfg, tmp_path / "whole", CHECKPOINT_SECONDS=0.0, CHECKPOINT_FREQ=frequency)
    whole.train()
    with pytest.raises(Killed):
        killed_after(started(cfg, tmp_path / "parts", CHECKPOINT_FREQ=frequency), step)
    file = tmp_path / "parts" / "unfinished_epoch" / "state.pth.tar"
    assert file.is_file() == (step % 3 > 0 or frequency == 0)
    resumed = started(cfg, tmp_path / "parts", CHECKPOINT_FREQ=frequency)
    capsys.readouterr()
    resumed.train()
    if file.parent.exists() or step % 3:
        assert f"epoch {step // 3 + 1}, after {step % 3} batches" in capsys.readouterr().out
    assert same(weights(whole), weights(resumed)) and not file.parent.exists()
    assert [{**line, "seconds": 0} for line in resumed.epoch_history.epochs] == [
        {**line, "seconds": 0} for line in whole.epoch_history.epochs
    ]
    names = [f"model.pth.tar-{epoch}" for epoch in (range(1, 5) if frequency else [4])]
    assert sorted(path.name for path in (tmp_path / "parts" / "model").iterdir()) == ["checkpoint", *names]


@pytest.mark.parametrize("step", [1, 3, 5, 12])
def test_a_stop_is_at_the_end_of_a_step(cfg, cheap, tmp_path, step):
    whole = started(cfg, tmp_path / "whole")
    whole.train()
    handler = signal.getsignal(signal.SIGTERM)
    trainer = started(cfg, tmp_path / "parts", CHECKPOINT_SECONDS=0.0)  # a stop writes one all the same
    with pytest.raises(Interrupted) as stopped, STOP.listening():
        killed_after(trainer, step, stop=lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert stopped.value.status == 143
    after = f"batch {step % 3} of 3 of epoch {step // 3 + 1}" if step % 3 else f"epoch {step // 3} of 4"
    assert str(stopped.value).startswith(f"interrupted (SIGTERM): stopped after {after}; {tmp_path / 'parts'}")
    resumed = started(cfg, tmp_path / "parts")
    if step == 5:
        with pytest.raises(UserError, match="parts has an interrupted training: finish it with the command"):
            resumed.load_model(str(tmp_path / "parts"))
    resumed.train()
    assert same(weights(whole), weights(resumed))
    assert signal.getsignal(signal.SIGTERM) is handler and STOP.number is None


def test_a_signal_outside_of_steps_stops_at_once(cfg):
    with pytest.raises(Interrupted, match=r"^interrupted$") as stopped, STOP.listening():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
    assert stopped.value.status == 130


def test_an_unfinished_epoch_is_not_extended(cfg, cheap, tmp_path, capsys):
    """The epoch is trained again with the new schedule, from the checkpoint of the one before."""
    with pytest.raises(Killed):
        killed_after(started(cfg, tmp_path / "out", CHECKPOINT_FREQ=1), 5)
    cfg.OPTIM.MAX_EPOCH = 6
    extended = started(cfg, tmp_path / "out", EXTEND=True, CHECKPOINT_FREQ=1)
    extended.train()
    assert "is not used: a run is extended from the end of an epoch" in capsys.readouterr().out
    assert (extended.start_epoch, extended.extended_after) == (1, [1])
    assert not (tmp_path / "out" / "unfinished_epoch").exists()


@pytest.mark.parametrize(("keeps", "expected"), [(True, 2), (False, 1)])
def test_a_resumed_run_keeps_a_chosen_number_of_threads(cfg, cheap, tmp_path, monkeypatch, keeps, expected):
    """Their number can change the last bits. One that the user gave is not replaced."""
    monkeypatch.setattr("dassl.engine.resumable.usable_cores", lambda: 2)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with pytest.raises(Killed):
            killed_after(started(cfg, tmp_path / "out"), 2)
        torch.set_num_threads(1)
        resumed = started(cfg, tmp_path / "out")
        resumed.keeps_recorded_threads = keeps
        resumed.train()
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


def edited(content, *keys, value):
    """A copy of nested dictionaries with another value at the place of `keys`."""
    key, *rest = keys
    return {**content, key: edited(content[key], *rest, value=value) if rest else value}


UNFIT = [
    (("models", "model", "state_dict"), {}, "its tensors are not those"),
    (("models",), {}, "not to model"),
    (("models", "model"), None, "not from one step"),
    (("models", "model"), [1], "not from one step"),
    (("models", "model", "epoch"), 0, "not from one step"),
    (("epoch",), 2, "not from one step"),
    (("epoch",), True, "not from one step"),
    (("epoch",), -1, "not from one step"),
    (("epoch",), 99, "not from one step"),
    (("batches",), -1, "not from one step"),
    (("batches",), 1, "not from one step"),
    (("batches",), 1000, "not from one step"),
    (("position",), {}, "not from one step"),
    (("position", "batches"), 1, "not from one step"),
    (("position", "now"), {}, "does not fit the training images"),
    (("position", "now"), None, "does not fit the training images"),
    (("position", "start"), {}, "does not fit the training images"),
    (("position", "workers"), {0: {"python": 1}}, "does not fit the training images"),
    (("position", "num_workers"), float("inf"), "does not fit the training images"),
    (("averages",), {"loss": 1}, "averages"),
    (("averages",), {3: [1.0, 1, 1.0]}, "averages"),
    (("averages",), {"loss": [1.0, float("inf"), 1.0]}, "averages"),
    (("averages",), {"loss": [10**400, 1, 1.0]}, "averages"),
    (("seconds",), float("nan"), "averages"),
    (("training_state",), {}, "training state"),
]


def test_an_unfinished_epoch_whose_parts_do_not_fit_is_refused(cfg, cheap, tmp_path):
    """Each with a digest that fits."""
    with pytest.raises(Killed):
        killed_after(started(cfg, tmp_path / "out", CHECKPOINT_FREQ=1), 5)
    file = tmp_path / "out" / "unfinished_epoch" / "state.pth.tar"
    good = torch.load(file, weights_only=True)
    del good["sha256"]
    for keys, value, message in UNFIT:
        content = edited(good, *keys, value=value)
        torch.save(content | {"sha256": unfinished_epoch.content_digest(content)}, file)
        with pytest.raises(UserError, match=message):
            started(cfg, tmp_path / "out").train()


def test_every_value_of_an_unfinished_epoch_counts_in_its_digest(cfg, cheap, tmp_path):
    """What is written and what is read have one digest; a changed momentum, generator or best result another."""
    with pytest.raises(Killed):
        killed_after(started(cfg, tmp_path / "out"), 2)
    good = torch.load(tmp_path / "out" / "unfinished_epoch" / "state.pth.tar", weights_only=True)
    recorded = good.pop("sha256")
    assert unfinished_epoch.content_digest(good) == recorded
    for keys, value in (
        (("models", "model", "optimizer"), None),
        (("models", "model", "scheduler", "last_epoch"), 1),
        (("training_state", "best_result"), 99.0),
        (("training_state", "random", "torch"), good["training_state"]["random"]["torch"] ^ 1),
        (("seconds",), good["seconds"] + 1),
    ):
        assert unfinished_epoch.content_digest(edited(good, *keys, value=value)) != recorded


def test_a_damaged_unfinished_epoch_is_refused(cfg, cheap, tmp_path):
    with pytest.raises(Killed):
        killed_after(started(cfg, tmp_path / "out"), 2)
    file = tmp_path / "out" / "unfinished_epoch" / "state.pth.tar"
    good = torch.load(file, weights_only=True)
    endless: list = []
    endless.append(endless)
    for content, message in (
        ({}, '"epoch" is missing or not a int'),
        (good | {"averages": {"loss": endless}}, "is damaged"),
        (good | {"averages": {"loss": 10**300}}, "does not match its digest"),
        (good | {"averages": {"loss": torch.empty(3, device="meta")}}, "is damaged"),
        (good | {"seconds": 0.5}, "does not match its digest: delete it"),
        ({key: value for key, value in good.items() if key != "sha256"}, "does not match its digest"),
    ):
        torch.save(content, file)
        with pytest.raises(UserError, match=message):
            started(cfg, tmp_path / "out").train()
    file.write_bytes(b"nonsense")
    with pytest.raises(UserError, match="delete it to continue from the last epoch"):
        started(cfg, tmp_path / "out").train()
    file.unlink()
    file.symlink_to(tmp_path / "on another disk")  # not from the beginning in silence
    with pytest.raises(UserError, match="state.pth.tar is not a file: delete it"):
        started(cfg, tmp_path / "out").train()


def test_writing_takes_a_small_share_of_the_time(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(unfinished_epoch.time, "monotonic", lambda: now[0])
    timer = unfinished_epoch.Timer(60)
    now[0] += 61
    assert timer.is_due
    timer.restart(spent=3.0)  # 2 % of 150 seconds
    now[0] += 149
    assert not timer.is_due
    now[0] += 2
    assert timer.is_due
    timer.restart(spent=0.1)
    now[0] += 61
    assert timer.is_due and not unfinished_epoch.Timer(0).is_due


def test_a_folder_without_the_model_says_what_is_there(cfg, tmp_path):
    cfg.OPTIM.MAX_EPOCH = 1
    run = tmp_path / "runs" / "seed1"
    (tmp_path / "out").mkdir()
    trainer = started(cfg, run)
    trainer.train()
    for folder, epoch, message in (
        (tmp_path / "runs", 1, rf"{tmp_path}/runs has trained models in seed1$"),
        (run, 7, rf"{run} has model/model.pth.tar-1$"),
        (run / "model", 1, rf"{run}/model belongs to the run in {run}: give that folder$"),
        (tmp_path / "runs" / "seed2", 1, rf"seed2 does not exist; {tmp_path}/runs has the folders seed1$"),
        (tmp_path / "out", 1, "out has no trained model$"),
    ):
        with pytest.raises(MissingFileError, match=message):
            trainer.load_model(str(folder), epoch=epoch)


def test_a_trainer_may_show_two_of_its_numbers(cfg, capsys):
    """As means over the epoch so far, in 120 columns; TensorBoard and the history get all of them."""
    cfg.OPTIM.MAX_EPOCH, cfg.TEST.NO_TEST = 1, True
    trainer = build_trainer(cfg)
    trainer.shown_metrics = ("loss_base", "acc")
    values = iter([(2.0, 0.0), (1.0, 50.0), (0.25, 75.0)])

    def forward_backward(batch):
        base, accuracy = next(values)
        return {"loss": 5e-4, "loss_base": base, "loss_text": 1.0, "loss_image": 1.0, "acc": accuracy}

    trainer.forward_backward = forward_backward
    trainer.train()
    lines = re.findall(r"^epoch \[.*$", capsys.readouterr().out, re.M)
    assert [re.search(r"\(\d+\.\d{3}\) (loss.*) lr", line)[1] for line in lines] == [
        "loss_base 2 acc 0", "loss_base 1.5 acc 25", "loss_base 1.083 acc 41.67",
    ]  # fmt: skip
    assert all(len(line) <= 120 for line in lines)
    assert trainer.epoch_history.epochs[0].keys() >= {"loss", "loss_base", "loss_text", "loss_image", "acc"}
