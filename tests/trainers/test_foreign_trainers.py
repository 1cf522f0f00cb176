"""Trainer files of other people run on `dassl` and `clip` as they are, and give the same numbers as our trainers.

Expected values: the foreign file's own computation against ours, from the same start, seed and data.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from golden_data import images
from golden_replay import evaluate
from tensor_modules import trace
from tiny_runs import build_trainer, learned, load_tiny_clip

from dassl.utils import set_random_seed

HERE = Path(__file__).parent
PAIRS = {"ForeignCoOp": ("CoOp", "foreign_coop"), "ForeignCoCoOp": ("CoCoOp", "foreign_cocoop")}
WORDS = "a photo of a"


@pytest.fixture(scope="module", autouse=True)
def foreign_files():
    """Import the two files, which register their trainers."""
    for _, file in PAIRS.values():
        spec = importlib.util.spec_from_file_location(file, HERE / f"{file}.py")
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@pytest.fixture(scope="module")
def checkpoint_files(backbones, tmp_path_factory):
    """The tiny CLIP in the two formats that such files read: a state dict and a TorchScript archive."""
    folder = tmp_path_factory.mktemp("foreign")
    state = load_tiny_clip(backbones["vit"]).state_dict()
    torch.save(state, folder / "state_dict.pt")
    numbers = dict(input_resolution=64, context_length=77, vocab_size=49408)
    archive = trace(state | {name: torch.tensor(value) for name, value in numbers.items()})
    archive.save(str(folder / "archive.pt"))
    return {"state dict": folder / "state_dict.pt", "archive": folder / "archive.pt"}


@pytest.fixture
def run(tiny_cfg, tmp_path, capsys):
    """Trains for two epochs through `train()`; gives the trainer, the losses it printed and its test accuracy."""

    def train(name, backbone, **options):
        cfg = tiny_cfg(name)
        node = "COCOOP" if "CoCoOp" in name else "COOP"
        cfg.MODEL.BACKBONE.NAME = str(backbone)
        cfg.OUTPUT_DIR = str(tmp_path / name / options.get("PREC", "")).rstrip("/")
        cfg.TRAIN.PRINT_FREQ, cfg.DATASET.NUM_SHOTS = 1, 2
        cfg.OPTIM.WARMUP_EPOCH, cfg.OPTIM.WARMUP_TYPE = 1, "constant"
        cfg.OPTIM.WARMUP_CONS_LR = 0.001
        for key, value in ({"CTX_INIT": WORDS, "PREC": "fp32"} | options).items():
            cfg.TRAINER[node][key] = value
        set_random_seed(1)
        trainer = build_trainer(cfg)
        if not cfg.TRAINER[node].CTX_INIT or node == "COCOOP":
            give_the_same_start(trainer)
        set_random_seed(2)
        trainer.train()
        log = capsys.readouterr().out
        losses = [float(value) for value in re.findall(r" loss (\d+\.\d+) ", log)]
        return trainer, losses, float(re.search(r"\* accuracy: (\d+\.\d+)%", log)[1])

    return train


def give_the_same_start(trainer):
    """Random learned tensors from a generator of their own, in the order of their names."""
    generator = torch.Generator().manual_seed(5)
    for _, parameter in sorted(trainer._models["prompt_learner"].named_parameters()):
        parameter.data = 0.02 * torch.randn(parameter.shape, generator=generator)


def same_learned_tensors(foreign, ours, limit=2e-6):
    """Largest difference over our learned tensors; what they moved is a thousand times as much."""
    theirs, mine = learned(foreign), learned(ours)
    assert set(theirs) - set(mine) == {"token_prefix", "token_suffix"}
    return max((theirs[name] - mine[name]).abs().max().item() for name in mine) < limit


@pytest.mark.parametrize("file", ["state dict", "archive"])
@pytest.mark.parametrize("name", PAIRS)
def test_training_gives_our_numbers(run, checkpoint_files, name, file):
    foreign, foreign_losses, foreign_accuracy = run(name, checkpoint_files[file])
    ours, our_losses, our_accuracy = run(PAIRS[name][0], checkpoint_files[file])
    assert len(our_losses) == 6  # 14 images in whole batches of 4, two epochs
    assert foreign_losses == pytest.approx(our_losses, abs=2e-4)  # printed with four digits
    assert foreign_accuracy == our_accuracy
    assert same_learned_tensors(foreign, ours)
    heldout = images()["heldout_images"]
    assert (evaluate(foreign, heldout) - evaluate(ours, heldout)).abs().max() < 1e-4


@pytest.mark.parametrize("position", ["middle", "front"])
@pytest.mark.parametrize("class_specific", [False, True])
def test_other_prompts_of_coop(run, checkpoint_files, position, class_specific):
    options = dict(CTX_INIT="", N_CTX=3, CLASS_TOKEN_POSITION=position, CSC=class_specific)
    foreign, foreign_losses, _ = run("ForeignCoOp", checkpoint_files["state dict"], **options)
    ours, our_losses, _ = run("CoOp", checkpoint_files["state dict"], **options)
    assert foreign_losses == pytest.approx(our_losses, abs=2e-4)
    assert same_learned_tensors(foreign, ours)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # torch.cuda.amp: deprecated, and no GPU
@pytest.mark.parametrize("name", PAIRS)
def test_the_branch_with_a_gradient_scaler(run, checkpoint_files, name):
    """On a machine without a GPU `torch.cuda.amp` turns itself off, so the numbers are those of fp32."""
    trainer, losses, _ = run(name, checkpoint_files["state dict"], PREC="amp")
    assert trainer.scaler is not None
    if not torch.cuda.is_available():
        plain, plain_losses, _ = run(name, checkpoint_files["state dict"])
        assert losses == plain_losses


def test_checkpoints_go_both_ways(run, checkpoint_files, tiny_cfg, tmp_path):
    foreign, *_ = run("ForeignCoOp", checkpoint_files["state dict"])
    ours, *_ = run("CoOp", checkpoint_files["state dict"])
    heldout = images()["heldout_images"]
    for reader, folder, writer in (("CoOp", "ForeignCoOp", foreign), ("ForeignCoOp", "CoOp", ours)):
        cfg = tiny_cfg(reader)
        cfg.MODEL.BACKBONE.NAME = str(checkpoint_files["state dict"])
        cfg.TRAINER.COOP.CTX_INIT, cfg.TRAINER.COOP.PREC = WORDS, "fp32"
        trainer = build_trainer(cfg)
        before = evaluate(trainer, heldout)
        trainer.load_model(str(tmp_path / folder), epoch=2)
        after = evaluate(trainer, heldout)
        assert (after - evaluate(writer, heldout)).abs().max() < 1e-4
        assert (after - before).abs().max() > 1e-2
