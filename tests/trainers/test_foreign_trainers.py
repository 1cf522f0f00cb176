"""Trainer files of other people run on `dassl` and `clip` as they are, and give the published numbers.

Expected values: of CoOp's and CoCoOp's kind, the foreign file's own computation against our trainer's, from the same
seed and data; of the kinds with prompts inside the towers, the recordings of the published code in tests/golden.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest
import torch
from golden_data import compact_recording, images, start_draws
from golden_replay import STEPS, Deviations, evaluate, load_initial_values
from tensor_modules import trace
from tiny_runs import build_trainer, learned, load_tiny_clip, set_position
from yacs.config import CfgNode

import train
from clip import clip
from dassl.engine import TrainerX
from dassl.utils import UserError, save_checkpoint, set_random_seed
from deploy import load_classifier
from deploy.export import export
from deploy.load import TrainedFolder

HERE = Path(__file__).parent
PAIRS = {"ForeignCoOp": "CoOp", "ForeignCoCoOp": "CoCoOp"}
FILES = ["foreign_coop", "foreign_cocoop", "foreign_promptsrc", "foreign_maple", "foreign_zsclip"]
WORDS = "a photo of a"


@pytest.fixture(scope="module", autouse=True)
def foreign_files():
    """Import the files, which register their trainers."""
    for file in FILES:
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
        trainer.train()
        log = capsys.readouterr().out
        losses = [float(value) for value in re.findall(r" loss (\d+\.\d+) ", log)]
        return trainer, losses, float(re.search(r"\* accuracy: (\d+\.\d+)%", log)[1])

    return train


def same_learned_tensors(foreign, ours, limit=2e-6):
    """Largest difference over our learned tensors; what they moved is a thousand times as much."""
    theirs, mine = learned(foreign), learned(ours)
    assert set(theirs) - set(mine) == {"token_prefix", "token_suffix"}
    return max((theirs[name] - mine[name]).abs().max().item() for name in mine) < limit


@pytest.mark.parametrize("file", ["state dict", "archive"])
@pytest.mark.parametrize("name", PAIRS)
def test_training_gives_our_numbers(run, checkpoint_files, name, file):
    foreign, foreign_losses, foreign_accuracy = run(name, checkpoint_files[file])
    ours, our_losses, our_accuracy = run(PAIRS[name], checkpoint_files[file])
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


def without_record(folder):
    """The run folder as the published code writes it: checkpoints alone, which say nothing about their run."""
    (folder / "config.yaml").unlink()
    (path,) = folder.glob("prompt_learner/model.pth.tar-2")
    content = torch.load(path, weights_only=True)
    del content["run"]
    torch.save(content, path)
    return folder


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
        trainer.load_model(str(without_record(tmp_path / folder)), epoch=2)
        after = evaluate(trainer, heldout)
        assert (after - evaluate(writer, heldout)).abs().max() < 1e-4
        assert (after - before).abs().max() > 1e-2


# --- prompts inside the towers: clip.build_model(state_dict, design_details) ------------------------------------------

IVLP_RECORDINGS = ["ivlp_2x2_d1", "ivlp_2x2_d3", "ivlp_4x4_d3", "ivlp_textonly_d3"]
MAPLE_RECORDINGS = ["maple_2_d1", "maple_2_d3", "maple_4_d3"]
LIMITS = {"eval_before": 5e-5, "loss": 1e-4, "param": 1e-5, "eval_after": 5e-4, "forward": 1e-4}  # as in test_golden.py


def promptsrc_settings():
    """The node that PromptSRC's train.py adds; off: the two regularisers and the averaging of prompts."""
    prompts = dict(N_CTX_VISION=4, N_CTX_TEXT=4, CTX_INIT=WORDS, PROMPT_DEPTH_VISION=3, PROMPT_DEPTH_TEXT=3)
    training = dict(PREC="fp32", TEXT_LOSS_WEIGHT=0.0, IMAGE_LOSS_WEIGHT=0.0, GPA=False, GPA_MEAN=1, GPA_STD=1.0)
    return CfgNode(prompts | training)


@pytest.fixture
def foreign_of(tiny_cfg, checkpoint_files):
    """Builds the foreign trainer with the settings of a recording."""

    def build(name, recording, **settings):
        cfg, node = tiny_cfg(name), {"ForeignMaPLe": "MAPLE", "ForeignPromptSRC": "PROMPTSRC"}[name]
        cfg.MODEL.BACKBONE.NAME = str(checkpoint_files["state dict"])
        cfg.TRAINER.PROMPTSRC = promptsrc_settings()
        options = recording.settings["options"]
        for key, value in zip(options[::2], options[1::2], strict=True):
            if key.startswith("TRAINER.") and key.rpartition(".")[2] in cfg.TRAINER[node]:
                cfg.TRAINER[node][key.rpartition(".")[2]] = value
        for key, value in recording.settings["optim"].items():
            cfg.OPTIM[key] = value
        for key, value in settings.items():
            cfg.TRAINER[node][key] = value
        return build_trainer(cfg)

    return build


def replay_foreign(trainer, recording, folder):
    """The recorded batches through a trainer that is known by its registered model only."""
    deviations = Deviations(recording)
    load_initial_values(trainer, recording, folder)
    (model,) = trainer._models.values()
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {key[5:] for key in recording.tensors if key.startswith("init/")}
    heldout = images()["heldout_images"]
    deviations.add("eval_before", "eval_logits_before", evaluate(trainer, heldout))
    for step in range(STEPS):
        set_position(trainer, step)
        batch = {"img": images()["train_images"][step], "label": images()["train_labels"][step]}
        loss = torch.tensor(trainer.forward_backward(batch)["loss"])
        deviations.add("loss", f"step{step}/loss", loss)
        for name in trained:
            deviations.add("param", f"step{step}/param/{name}", model.get_parameter(name))
    deviations.add("eval_after", "eval_logits_after", evaluate(trainer, heldout))
    return deviations


@pytest.mark.parametrize(
    "trainer, name",
    [("ForeignPromptSRC", name) for name in IVLP_RECORDINGS] + [("ForeignMaPLe", name) for name in MAPLE_RECORDINGS],
)
def test_prompts_inside_the_towers_give_the_published_numbers(foreign_of, trainer, name, tmp_path):
    recording = compact_recording(name)
    deviations = replay_foreign(foreign_of(trainer, recording), recording, tmp_path / "start")
    assert {name: value for name, value in deviations.largest.items() if not value <= LIMITS[name]} == {}
    assert deviations.largest.keys() == {"eval_before", "loss", "param", "eval_after"}


@pytest.mark.parametrize("name", ["ivlp_4x4_d3", "ivlp_2x2_d3"])
def test_prompts_inside_the_towers_start_as_published(foreign_of, name):
    """PromptSRC's file draws as IVLP's up to its prompts, and goes on with two more CLIPs."""
    recording, published = compact_recording(name), start_draws()["PromptSRC"]
    torch.manual_seed(published["seed"])
    trainer = foreign_of("ForeignPromptSRC", recording)
    if name == "ivlp_4x4_d3":  # the sizes that the draws were recorded with
        assert torch.rand(4).tolist() == published["next_four_of_torch.rand"]
    (model,) = trainer._models.values()
    for key, start in recording.tensors.items():
        if key.startswith("init/"):
            torch.testing.assert_close(model.get_parameter(key[5:]).detach(), start, atol=1e-6, rtol=0)


def test_the_published_regularisers(foreign_of, tmp_path):
    """PromptSRC's two losses, with the weights 50 and 20, are those of ProMetaR's base step, recorded for batch 1."""
    recording = compact_recording("prometar_default")
    trainer = foreign_of("ForeignPromptSRC", recording, TEXT_LOSS_WEIGHT=50.0, IMAGE_LOSS_WEIGHT=20.0)
    state = {key[12:]: value for key, value in recording.tensors.items() if key.startswith("step0/param/")}
    save_checkpoint({"state_dict": state, "epoch": 1}, str(tmp_path / "VLPromptLearner"))
    trainer.load_model(str(tmp_path), epoch=1)
    set_position(trainer, 1)
    trainer.forward_backward({"img": images()["train_images"][1], "label": images()["train_labels"][1]})
    deviations = Deviations(recording)
    parts = {"ce": trainer.ce, "rag_text": trainer.loss_text, "rag_image": trainer.loss_image, "logits": trainer.logits}
    for name, value in parts.items():
        deviations.add("forward", f"step1/base/{name}", value)
    assert deviations.largest["forward"] < LIMITS["forward"]
    assert trainer.loss_text > 0.1 and trainer.loss_image > 0.1


def test_visual_prompts_alone(checkpoint_files):
    """The model of the trainer VPT; class features as recorded."""
    recording = compact_recording("vpt_d3")
    details = {"trainer": "VPT", "vision_depth": 3, "vision_ctx": 4, "language_depth": 0, "language_ctx": 0}
    model = clip.build_model(torch.load(checkpoint_files["state dict"]), details).float()
    prompts = {key.removeprefix("init/image_encoder."): value for key, value in recording.tensors.items()}
    _, unexpected = model.visual.load_state_dict(
        {k: v for k, v in prompts.items() if "VPT" in k and "/" not in k}, False
    )
    assert not unexpected
    text = recording.tensors["fixed_text_features"]
    with torch.no_grad():
        features = model.encode_image(images()["heldout_images"])
        features, text = (t / t.norm(dim=-1, keepdim=True) for t in (features, text))
        logits = model.logit_scale.exp() * features @ text.t()
    assert (logits - recording.tensors["eval_logits_before"]).abs().max() < LIMITS["eval_before"]


def test_a_finished_run_predicts_without_its_data(run, checkpoint_files, monkeypatch, tmp_path):
    """Its trainer is built for class names alone, also if its file overrides the constructor; no flag is needed."""
    foreign, *_ = run("ForeignCoOp", checkpoint_files["state dict"])
    monkeypatch.setattr(type(foreign), "__init__", lambda self, cfg: TrainerX.__init__(self, cfg), raising=False)
    heldout = images()["heldout_images"]
    expected = evaluate(foreign, heldout)
    monkeypatch.setattr("dassl.data.data_manager.build_dataset", lambda cfg: pytest.fail("data read"))
    classifier = load_classifier(foreign.output_dir, device="cpu", epoch=2)
    assert classifier.classnames == foreign.dm.dataset.classnames
    assert torch.equal(classifier.logits(heldout), expected)
    with pytest.raises(UserError, match="ForeignCoOp is not built on this project's prompts: it cannot be exported"):
        export(TrainedFolder(foreign.output_dir, epoch=2), tmp_path / "exported", None, [])


def test_imports_from_the_neighbours(tiny_cfg):
    """The zero-shot ensemble, with the loader and the templates that other files import from `trainers`."""
    recording = compact_recording("zsclip2_vit")
    trainer = build_trainer(tiny_cfg("ForeignZeroshotCLIP2"))
    deviations = Deviations(recording)
    deviations.add("text_features", "text_features", trainer.text_features)
    deviations.add("eval_before", "logits", evaluate(trainer, images()["heldout_images"]))
    assert max(deviations.largest.values()) < LIMITS["eval_before"]


SHORT_RUN = """
    DATASET.NAME EuroSAT DATASET.NUM_SHOTS 2 INPUT.SIZE (48,48) INPUT.TRANSFORMS ("normalize",) DATALOADER.NUM_WORKERS 0
    DATALOADER.TRAIN_X.BATCH_SIZE 4 OPTIM.MAX_EPOCH 2 TRAIN.PRINT_FREQ 1 USE_CUDA False
"""


@pytest.fixture
def command_line(data_root, tmp_path, monkeypatch):
    """Runs train.py on the embedded model by its name, with the keys that the trainer's own repository adds."""

    def extended(cfg, extend=train.extend_cfg):
        extend(cfg)
        cfg.TRAINER.PROMPTSRC = promptsrc_settings()

    def run(trainer, options):
        monkeypatch.setattr("runner.config.extend_cfg", extended)
        monkeypatch.setattr(sys, "stdout", sys.stdout)  # train.py puts a log between
        monkeypatch.setattr(sys, "stderr", sys.stderr)
        flags = f"--seed 1 --root {data_root} --output-dir {tmp_path} --trainer {trainer} --backbone ViT-Shapes"
        train.main(train.parse_args(f"{flags} {SHORT_RUN} {options}".split()))
        return (tmp_path / "log.txt").read_text()

    return run


@pytest.mark.parametrize(
    "trainer, folder, options",
    [
        ("ForeignMaPLe", "MultiModalPromptLearner", "TRAINER.MAPLE.PREC fp32 TRAINER.MAPLE.PROMPT_DEPTH 3"),
        ("ForeignPromptSRC", "VLPromptLearner", "TRAINER.PROMPTSRC.GPA True TRAINER.PROMPTSRC.TEXT_LOSS_WEIGHT 25.0"),
    ],
)
def test_train_py_trains_them_on_the_embedded_model(command_line, tmp_path, trainer, folder, options):
    log = command_line(trainer, options)
    assert len(re.findall(r"^epoch \[[12]/2\] batch \[[123]/3\] .*loss \d", log, flags=re.MULTILINE)) == 6
    assert "Finish training" in log and re.search(r"\* accuracy: \d+\.\d+%", log)
    assert (tmp_path / folder / "model.pth.tar-2").is_file()


def test_train_py_warns_of_settings_that_a_foreign_model_does_not_have(command_line, data_root, tmp_path, capsys):
    command_line("ForeignMaPLe", "TRAINER.MAPLE.PREC fp32 TRAINER.MAPLE.PROMPT_DEPTH 3")
    output = tmp_path / "evaluation"
    flags = (
        f"--seed 2 --root {data_root} --output-dir {output} --trainer ForeignMaPLe --backbone ViT-Shapes --eval-only"
    )
    options = "TRAINER.MAPLE.PREC fp32 TRAINER.MAPLE.PROMPT_DEPTH 3 DATASET.SUBSAMPLE_CLASSES new OPTIM.LR 0.5"
    capsys.readouterr()
    words = f"{flags} --model-dir {tmp_path} --load-epoch 2 {SHORT_RUN} {options}".split()
    train.main(train.parse_args(words))
    warning = "another configuration: SEED is 1 there, 2 here; OPTIM.LR is 0.0003 there, 0.5 here (used nevertheless"
    assert warning in capsys.readouterr().out
    assert json.loads((output / "result.json").read_text())["model"]["config"]["OPTIM"]["LR"] == 0.0003
    with pytest.raises(UserError, match="ForeignMaPLe needs a trained model"):
        train.main(train.parse_args(f"{flags} {SHORT_RUN} {options}".replace("evaluation", "untrained").split()))
