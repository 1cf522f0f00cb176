"""A run's record is what was run: a second command in a used folder, evaluations, pieces of several runs, locks.

The first three groups go through train.py as a user types it. What is right is the user's own command: a number that
stands in result.json was computed with the settings beside it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from golden_data import write_backbones
from safetensors.torch import load_file, save_file
from stand_in import finish
from tiny_runs import CLASSNAMES, write_data

import train
from dassl.utils import BadValueError, MismatchError, UserError
from dassl.utils.locks import BusyError, lock, locked
from deploy import load_classifier
from experiments.launch.single import Request
from experiments.plan.settings import Places, PlannedMethod
from experiments.plan.status import is_finished
from runner import recording, same_files
from runner.same_files import file_digests
from trainers.core.record import frozen_digest
from trainers.prometar import MODULATOR

ROOT = Path(train.__file__).parent
SHORT = """
    INPUT.SIZE (64,64) DATALOADER.NUM_WORKERS 0 DATALOADER.TRAIN_X.BATCH_SIZE 4 DATASET.NUM_SHOTS 2 OPTIM.MAX_EPOCH 2
    TRAIN.CHECKPOINT_FREQ 1 USE_CUDA False TRAINER.COOP.PREC fp32 TRAINER.COCOOP.PREC fp32 TRAINER.PROMETAR.PREC fp32
    TRAINER.PROMETAR.PROMPT_DEPTH_VISION 2 TRAINER.PROMETAR.PROMPT_DEPTH_TEXT 2 TRAINER.PROMETAR.KEEP_MODULATOR True
"""


class Scene:
    """A tiny data set, two backbones, and train.py on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data, self.backbones = folder, folder / "data", write_backbones(folder)
        write_data(self.data)

    def __call__(self, output: Path | str, *opts: object, flags: str = "", **changed: object) -> dict:
        """Train; returns the result. Flags that are changed to None are left out, the others replace the usual ones."""
        usual = {
            "root": self.data,
            "seed": 1,
            "trainer": "CoOp",
            "backbone": self.backbones["vit"],
            "config-file": ROOT / "configs/trainers/CoOp/vit_b16_ep50.yaml",
            "dataset-config-file": ROOT / "configs/datasets/eurosat.yaml",
            "output-dir": self.folder / output,
        } | {name.replace("_", "-"): value for name, value in changed.items()}
        words = [str(part) for name, value in usual.items() if value is not None for part in (f"--{name}", value)]
        return self.run(*words, *flags.split(), *SHORT.split(), *opts)

    def evaluate(self, output: Path | str, model: Path | str, *opts: object, flags: str = "") -> dict:
        """--eval-only with the fewest words."""
        words = ["--eval-only", "--model-dir", self.folder / model, "--output-dir", self.folder / output]
        words += ["--root", self.data, "--dataset-config-file", ROOT / "configs/datasets/eurosat.yaml"]
        return self.run(*words, *flags.split(), "USE_CUDA", "False", *opts)

    def run(self, *words: object) -> dict:
        args = train.parse_args([*map(str, words)])
        out, err = sys.stdout, sys.stderr
        try:
            train.main(args)
        finally:
            sys.stdout, sys.stderr = out, err
        return json.loads(Path(args.output_dir, "result.json").read_text())

    def copy(self, run: str, name: str) -> Path:
        """A copy of a run's folder, to be damaged."""
        return Path(shutil.copytree(self.folder / run, self.folder / name, dirs_exist_ok=True))


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """`coop` and `prometar` have finished; `other prometar` is the same recipe from another seed."""
    scene = Scene(tmp_path_factory.mktemp("scene"))
    scene("coop")
    scene("prometar", trainer="ProMetaR")
    scene("other prometar", trainer="ProMetaR", seed=2)
    return scene


def snapshot(folder: Path) -> dict[str, bytes]:
    """Every file of a run but the lock and the event files."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path): path.read_bytes() for path in paths if path.parent.name not in ("tensorboard", "datasets")}


def rewrite(path: Path, change) -> None:
    """Change the content of a checkpoint, as no damage to the file's own checksums would show."""
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def change_scale(backbone: Path) -> None:
    """Another CLIP under the same name."""
    tensors = load_file(backbone)
    tensors["logit_scale"] += 1
    save_file(tensors, backbone)


# One output folder, two commands

SECOND_COMMANDS = {
    "seed": ({"seed": 2}, "", "SEED is 1 there, 2 here"),
    "shots": ({}, "DATASET.NUM_SHOTS 4", "DATASET.NUM_SHOTS is 2 there, 4 here"),
    "rate": ({}, "OPTIM.LR 0.5", "OPTIM.LR is 0.002 there, 0.5 here"),
    "more epochs": ({}, "OPTIM.MAX_EPOCH 4", r"OPTIM.MAX_EPOCH is 2 there, 4 here: --extend \(TRAIN.EXTEND True\)"),
    "fewer epochs": ({}, "OPTIM.MAX_EPOCH 1", "OPTIM.MAX_EPOCH is 2 there, 1 here: use another"),
    "data set": ({}, "DATASET.SUBSAMPLE_CLASSES base", "DATASET.SUBSAMPLE_CLASSES is 'all' there, 'base' here"),
    "context": ({}, "TRAINER.COOP.N_CTX 4", "TRAINER.COOP.N_CTX is 16 there, 4 here"),
    "trainer": ({"trainer": "CoCoOp"}, "", "TRAINER.NAME is 'CoOp' there, 'CoCoOp' here"),
    "workers": ({}, "DATALOADER.NUM_WORKERS 1", "DATALOADER.NUM_WORKERS is 0 there, 1 here"),
    "two keys": ({"seed": 2}, "OPTIM.LR 0.5", "SEED is 1 there, 2 here; OPTIM.LR is 0.002 there, 0.5 here"),
}


@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("case", SECOND_COMMANDS)
def test_a_used_folder_is_refused(scene, case, finished):
    flags, opts, says = SECOND_COMMANDS[case]
    folder = scene.copy("coop", f"again {case} {finished}")
    if not finished:  # killed after its last checkpoint
        (folder / "result.json").unlink()
    before = snapshot(folder)
    with pytest.raises(UserError, match=says) as caught:
        scene(folder, *opts.split(), **flags)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)
    after = snapshot(folder)
    assert before.items() <= after.items()
    assert all(Path(name).name.startswith("log.txt") for name in after.keys() - before.keys())


def renamed_class(data: Path) -> None:
    path = data / "eurosat" / "split_zhou_EuroSAT.json"
    path.write_text(path.read_text().replace('"face"', '"moon"'))


def other_pixels(data: Path) -> None:
    for path in (data / "eurosat" / "2750").rglob("*.jpg"):
        path.write_bytes(path.read_bytes() + b"\0")


def fewer_images(data: Path) -> None:
    path = data / "eurosat" / "split_zhou_EuroSAT.json"
    parts = json.loads(path.read_text())
    path.write_text(json.dumps(parts | {"test": parts["test"][::2]}))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (renamed_class, "class 0 is 'face' there, 'moon' here"),
        (other_pixels, "the images of train_x are different; the images of val are different"),
        (fewer_images, "the images of test are different"),
    ],
)
def test_other_data_under_the_same_name_is_refused(scene, tmp_path, change, says):
    data = Path(shutil.copytree(scene.data, tmp_path / "data"))
    folder = scene.copy("coop", change.__name__)
    assert scene(folder, root=data)["results"]  # a copy of the same data is the same data
    change(data)
    shutil.rmtree(data / "eurosat" / "split_fewshot")
    with pytest.raises(BadValueError, match=says):
        scene(folder, root=data)


def test_other_frozen_weights_are_refused_and_a_moved_file_is_not(scene, tmp_path):
    folder, backbone = scene.copy("coop", "weights"), tmp_path / f"clip{scene.backbones['vit'].suffix}"
    backbone.write_bytes(scene.backbones["vit"].read_bytes())
    (folder / "result.json").unlink()
    scene(folder, backbone=backbone)
    change_scale(backbone)
    with pytest.raises(BadValueError, match=r"MODEL.BACKBONE.NAME is '\S+ \(SHA-256 \w{8}...\)' there, '\S*clip"):
        scene(folder, backbone=backbone)


def test_the_same_command_again_changes_nothing(scene):
    folder = scene.copy("coop", "same")
    before = json.loads((folder / "result.json").read_text())
    after = scene(folder, "TRAIN.PRINT_FREQ", 1, "TRAIN.CHECKPOINT_FREQ", 2)
    for key in ("results", "history", "epochs", "few_shot_sha256", "extended_after"):
        assert after[key] == before[key], key


def test_more_epochs_on_request(scene, capsys):
    """The rates of the added epochs are those of a run of that length."""
    whole = [line["lr"] for line in scene("long", "OPTIM.MAX_EPOCH", 4)["history"]]
    folder = scene.copy("coop", "extended")
    capsys.readouterr()
    result = scene(folder, "OPTIM.MAX_EPOCH", 4, flags="--extend")
    rates = [line["lr"] for line in result["history"]]
    assert rates[2:] == whole[2:] and rates[:2] == [line["lr"] for line in scene("coop")["history"]]
    assert (result["epochs"], result["extended_after"]) == (4, [2])
    log = (folder / sorted(path.name for path in folder.glob("log.txt*"))[-1]).read_text()
    assert f"Extending the run: cosine over 4 epochs from epoch 3, lr {whole[2]:.4e}" in log
    again = scene(folder, "OPTIM.MAX_EPOCH", 4, "TRAIN.EXTEND", True)
    assert again["history"] == result["history"] and again["extended_after"] == [2]
    with pytest.raises(BadValueError, match=r"OPTIM.MAX_EPOCH is 4 there, 2 here; TRAIN.EXTEND is True there, False"):
        scene(folder)


@pytest.mark.parametrize(
    ("opts", "says"),
    [
        ("OPTIM.MAX_EPOCH 4 OPTIM.LR 0.5", "OPTIM.LR is 0.002 there, 0.5 here"),
        ("OPTIM.MAX_EPOCH 2", "TRAIN.EXTEND is False there, True here"),
        ("OPTIM.MAX_EPOCH 1", "OPTIM.MAX_EPOCH is 2 there, 1 here"),
    ],
)
def test_an_extension_is_of_the_same_recipe(scene, opts, says):
    with pytest.raises(BadValueError, match=says):
        scene("coop", *opts.split(), flags="--extend")


def test_an_extension_needs_a_run(scene):
    with pytest.raises(BadValueError, match=r"has no checkpoint to extend"):
        scene("nothing yet", flags="--extend")


def test_the_launcher_extends_too(tmp_path):
    """`KEY VALUE` pairs of the scripts go the same way."""

    def request(*options):
        row = PlannedMethod("coop", "vit_b16_ep50_ctxv1", options)
        return Request("all", row, "dtd", 1, 16, "", Places(tmp_path / "data", tmp_path / "out")).run()

    finish(request())
    more = ("OPTIM.MAX_EPOCH", "60")
    with pytest.raises(BadValueError, match=r"OPTIM.MAX_EPOCH is 50 there, planned: 60\): TRAIN.EXTEND True"):
        is_finished(request(more))
    assert not is_finished(request(more, ("TRAIN.EXTEND", "True")))
    with pytest.raises(BadValueError, match="OPTIM.LR is 0.002 there, planned: 0.5"):
        is_finished(request(more, ("TRAIN.EXTEND", "True"), ("OPTIM.LR", "0.5")))


@pytest.fixture(scope="module")
def started(scene):
    """A finished run that began with the prompts in a file, and its result."""
    start = scene.folder / "start.pth.tar"
    shutil.copyfile(scene.folder / "coop" / "prompt_learner" / "model.pth.tar-2", start)
    return start, scene("started", "MODEL.INIT_WEIGHTS", start)


def test_start_values_count_by_their_file(scene, started, tmp_path):
    start, result = started
    assert result["init_weights_sha256"] == hashlib.sha256(start.read_bytes()).hexdigest()
    copy = tmp_path / "elsewhere.pth.tar"
    shutil.copyfile(start, copy)
    for finished in (True, False):  # the same bytes at another path
        folder = scene.copy("started", f"copied start, finished {finished}")
        if not finished:
            (folder / "result.json").unlink()
        assert scene(folder, "MODEL.INIT_WEIGHTS", copy)["results"] == result["results"]


@pytest.mark.parametrize("finished", [True, False])
def test_another_start_at_the_same_path_is_refused(scene, started, tmp_path, finished):
    start, result = started
    folder = scene.copy("started", f"other start, finished {finished}")
    if not finished:
        (folder / "result.json").unlink()
    first = start.read_bytes()
    try:
        shutil.copyfile(scene.folder / "coop" / "prompt_learner" / "model.pth.tar-1", start)
        here = hashlib.sha256(start.read_bytes()).hexdigest()
        there = result["init_weights_sha256"]
        words = (
            f"MODEL.INIT_WEIGHTS is '{start} (SHA-256 {there[:8]}...)' there, '{start} (SHA-256 {here[:8]}...)' here"
        )
        before = snapshot(folder)
        with pytest.raises(BadValueError, match=re.escape(words)):
            scene(folder, "MODEL.INIT_WEIGHTS", start)
        logs = {path: content for path, content in snapshot(folder).items() if "log.txt" not in path}
        assert logs == {path: content for path, content in before.items() if "log.txt" not in path}
        with pytest.raises(BadValueError, match="MODEL.INIT_WEIGHTS is .* there, '' here"):
            scene(folder)
    finally:
        start.write_bytes(first)


def test_the_launcher_compares_files_by_their_content(tmp_path):
    backbone, start = tmp_path / "clip.safetensors", tmp_path / "start.pth.tar"
    backbone.write_bytes(b"clip"), start.write_bytes(b"prompts")
    digests = {
        "weights_sha256": hashlib.sha256(b"clip").hexdigest(),
        "init_weights_sha256": hashlib.sha256(b"prompts").hexdigest(),
    }

    def request(clip, prompts):
        row = PlannedMethod(
            "coop", "vit_b16_ep50_ctxv1", (("MODEL.BACKBONE.NAME", str(clip)), ("MODEL.INIT_WEIGHTS", str(prompts)))
        )
        return Request("all", row, "dtd", 1, 16, "", Places(tmp_path / "data", tmp_path / "out")).run()

    finish(request(backbone, start), **digests)
    assert is_finished(request(backbone, start))
    assert is_finished(request(shutil.copyfile(backbone, tmp_path / "b"), shutil.copyfile(start, tmp_path / "s")))
    for file, key in ((backbone, "MODEL.BACKBONE.NAME"), (start, "MODEL.INIT_WEIGHTS")):
        other = Path(shutil.copyfile(file, tmp_path / "kept"))
        file.write_bytes(b"something else")
        with pytest.raises(BadValueError, match=rf"{key} is '{file} \(SHA-256 .*' there, planned: '{file} \(SHA-256"):
            is_finished(request(backbone, start))
        shutil.copyfile(other, file)


@pytest.mark.parametrize(
    ("method", "key"),
    [
        (PlannedMethod("coprompt", "coprompt"), "TRAINER.COPROMPT.DESCRIPTIONS"),
        (PlannedMethod("coop", "vit_b16_ep50_ctxv1"), "DATASET.FEWSHOT_SPLIT"),
        (PlannedMethod("coop", "vit_b16_ep50_ctxv1"), "DATASET.CLASSNAMES"),
    ],
)
def test_the_launcher_notices_an_edited_file(tmp_path, monkeypatch, method, key):
    """The path is the same, so the file's content decides whether a finished run is the planned one."""
    file = tmp_path / "file"
    file.write_text("first")

    def request(path):
        planned = dataclasses.replace(method, options=((key, str(path)),))
        return Request("all", planned, "dtd", 1, 16, "", Places(tmp_path / "data", tmp_path / "out")).run()

    finish(request(file), files_sha256=file_digests(request(file).config(), trains=True))
    assert is_finished(request(file))
    file.write_text("edited")
    with pytest.raises(BadValueError, match=rf"{key} is '{file} \(SHA-256 .*' there, planned: '{file} \(SHA-256"):
        is_finished(request(file))

    def unreadable(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(same_files, "file_sha256", unreadable)
    file.write_text("another")
    with pytest.raises(UserError, match=f"cannot read {file}: Permission denied"):
        is_finished(request(file))
    file.unlink()
    assert is_finished(request(file))  # what is not there cannot be compared
    with pytest.raises(BadValueError, match=f"{key} is '{file}' there, planned: '{file}2'"):
        is_finished(request(f"{file}2"))


def test_an_edited_draw_is_refused_in_a_used_folder(scene, tmp_path):
    draw = Path(shutil.copy(next((scene.data / "eurosat").glob("split_fewshot/shot_2-seed_1.json")), tmp_path))
    folder = scene.folder / "edited draw"
    result = scene(folder, "DATASET.FEWSHOT_SPLIT", draw)
    assert result["files_sha256"] == {"DATASET.FEWSHOT_SPLIT": hashlib.sha256(draw.read_bytes()).hexdigest()}
    items = json.loads(draw.read_text())
    items["train"] = items["train"][::-1]
    draw.write_text(json.dumps(items))
    with pytest.raises(BadValueError, match=r"DATASET.FEWSHOT_SPLIT is .*\(SHA-256 .* there, .*\(SHA-256 .* here"):
        scene(folder, "DATASET.FEWSHOT_SPLIT", draw)


def test_a_run_that_other_code_continued_says_so(scene, monkeypatch):
    folder = scene.folder / "two commits"
    monkeypatch.setattr(recording, "commit_name", lambda: "aaaa+")
    assert scene(folder)["earlier_commits"] == []
    monkeypatch.setattr(recording, "commit_name", lambda: "bbbb")
    (folder / "result.json").unlink()  # killed before it was written
    assert scene(folder)["earlier_commits"] == ["aaaa+"]
    assert scene(folder, "OPTIM.MAX_EPOCH", 3, flags="--extend")["earlier_commits"] == ["aaaa+"]
    (checkpoint,) = folder.glob("prompt_learner/model.pth.tar-3")
    assert torch.load(checkpoint, weights_only=True)["training_state"]["commits"] == ["aaaa+", "bbbb"]


def test_one_file_read_as_two_models_is_not_one_backbone():
    """open_clip's names with and without quickgelu differ in the activation, not in the weights."""
    plain, quick = (frozen_digest(f"open_clip:ViT-B-32{end}/clip.pt", "ab" * 32) for end in ("", "-quickgelu"))
    assert plain != quick and frozen_digest("clip.pt", "ab" * 32) == "ab" * 32
    assert plain == frozen_digest("open_clip:ViT-B-32/elsewhere/clip.pt", "ab" * 32)


# Evaluations


def test_an_evaluation_records_the_model_that_it_scored(scene):
    trained = json.loads((scene.folder / "coop" / "result.json").read_text())
    result = scene.evaluate("eval/same", "coop")
    assert result["results"] == trained["results"]
    for key in ("trainer", "seed", "shots", "backbone", "weights_sha256", "config"):
        assert result[key] == trained[key], key
    assert result["full_config"]["OPTIM"] == result["model"]["config"]["OPTIM"] == trained["full_config"]["OPTIM"]
    assert result["full_config"]["DATALOADER"] == trained["full_config"]["DATALOADER"]
    assert result["model"]["folder"] == str(scene.folder / "coop") and result["epochs"] == 0


def test_what_the_training_changed_in_its_config_file_holds(scene):
    """The file says 50 epochs and 16 shots' batches; the training's KEY VALUE pairs said otherwise."""
    file = f"--config-file {ROOT / 'configs/trainers/CoOp/vit_b16_ep50.yaml'}"
    result = scene.evaluate("eval/same file", "coop", flags=file)
    trained = json.loads((scene.folder / "coop" / "result.json").read_text())
    assert result["results"] == trained["results"] and result["full_config"]["OPTIM"]["MAX_EPOCH"] == 2
    assert result["full_config"]["OPTIM"] == trained["full_config"]["OPTIM"]
    with pytest.raises(BadValueError, match="OPTIM.MAX_EPOCH is 2 there, 50 here"):  # the command, not the file
        scene.evaluate("eval/same file, other length", "coop", "OPTIM.MAX_EPOCH", 50, flags=file)


def test_an_evaluation_chooses_its_own_data(scene):
    options = "DATASET.SUBSAMPLE_CLASSES new DATALOADER.TEST.BATCH_SIZE 3 DATALOADER.NUM_WORKERS 1 TEST.SPLIT val"
    result = scene.evaluate("eval/new", "coop", *options.split())
    assert (result["subsample_classes"], result["classes"]) == ("new", 3)
    assert result["full_config"]["DATALOADER"]["TEST"]["BATCH_SIZE"] == 3
    assert result["model"]["config"]["DATASET"]["SUBSAMPLE_CLASSES"] == "all"


@pytest.mark.parametrize(
    ("flags", "opts", "says"),
    [
        ("--seed 5", "", "SEED is 1 there, 5 here"),
        ("--trainer MaPLe", "", "has a model of CoOp, not of MaPLe"),
        ("", "DATASET.NUM_SHOTS 16", "DATASET.NUM_SHOTS is 2 there, 16 here"),
        ("", "OPTIM.LR 0.1 OPTIM.MAX_EPOCH 7", "OPTIM.LR is 0.002 there, 0.1 here; OPTIM.MAX_EPOCH is 2 there, 7"),
        ("", "TRAINER.COOP.N_CTX 4", "TRAINER.COOP.N_CTX is 16 there, 4 here"),
        ("", "TRAINER.COOP.PREC bf16", "TRAINER.COOP.PREC is 'fp32' there, 'bf16' here"),
        (f"--config-file {ROOT}/configs/trainers/CoOp/vit_b16_ep100.yaml", "", "OPTIM.MAX_EPOCH is 2 there, 100 here"),
        ("--resume nowhere", "", "--resume, --extend and --no-train are for training"),
    ],
)
def test_what_belongs_to_the_model_is_not_changed(scene, flags, opts, says):
    if "config-file" in flags:  # the file names the backbone as well, which is not at hand here
        opts = f"MODEL.BACKBONE.NAME {scene.backbones['vit']} INPUT.SIZE (64,64)"
    with pytest.raises(BadValueError, match=says):
        scene.evaluate("eval/refused", "coop", *opts.split(), flags=flags)
    assert not (scene.folder / "eval/refused" / "result.json").exists()


def test_an_evaluation_does_not_replace_another_result(scene):
    with pytest.raises(BadValueError, match="has the checkpoints of a training"):
        scene.evaluate("coop", "coop")
    scene.evaluate("eval/twice", "coop", "DATASET.SUBSAMPLE_CLASSES", "new")
    with pytest.raises(BadValueError, match="DATASET.SUBSAMPLE_CLASSES is 'new' there, 'base' here"):
        scene.evaluate("eval/twice", "coop", "DATASET.SUBSAMPLE_CLASSES", "base")
    with pytest.raises(BadValueError, match="--load-epoch is None there, 1 here"):
        scene.evaluate("eval/twice", "coop", "DATASET.SUBSAMPLE_CLASSES", "new", flags="--load-epoch 1")
    with pytest.raises(BadValueError, match="--setting is other/all there, base2new/test_new here"):
        scene.evaluate("eval/twice", "coop", "DATASET.SUBSAMPLE_CLASSES", "new", flags="--setting base2new/test_new")
    scene.copy("coop", "copy of coop")
    with pytest.raises(BadValueError, match="--model-dir is .*coop there, .*copy of coop here"):
        scene.evaluate("eval/twice", "copy of coop", "DATASET.SUBSAMPLE_CLASSES", "new")
    with pytest.raises(BadValueError, match="has the result of an evaluation"):
        scene("eval/twice")


def test_an_evaluation_cannot_extend_its_model(scene):
    with pytest.raises(BadValueError, match="OPTIM.MAX_EPOCH is 2 there, 99 here"):
        scene.evaluate("eval/extended", "coop", "TRAIN.EXTEND", True, "OPTIM.MAX_EPOCH", 99)


def test_a_folder_without_anything_to_resume(scene):
    (scene.folder / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no checkpoint to resume from"):
        scene("new", flags=f"--resume {scene.folder / 'empty'}")
    folder = scene.copy("coop", "no pointer")
    (folder / "result.json").unlink()
    (folder / "prompt_learner" / "checkpoint").unlink()
    with pytest.raises(BadValueError, match="OPTIM.LR is 0.002 there, 0.5 here"):
        scene("no pointer", "OPTIM.LR", 0.5)
    scene("no pointer")  # the same run: it was killed in its first checkpoint, and starts again


def test_a_finished_run_whose_clip_file_has_moved(scene):
    moved = scene.folder / "moved.safetensors"
    shutil.copyfile(scene.backbones["vit"], moved)
    scene.copy("coop", "moved clip")
    scene("moved clip", backbone=moved)


@pytest.mark.parametrize("trainer", ["CoOp", "ProMetaR"])
def test_a_trainer_that_learns_is_not_evaluated_untrained(scene, trainer):
    with pytest.raises(UserError, match=f"{trainer} needs a trained model: --eval-only needs its folder"):
        scene("eval/untrained", trainer=trainer, flags="--eval-only")
    assert not (scene.folder / "eval/untrained/result.json").exists()


def test_flags_without_effect_are_refused(scene):
    with pytest.raises(BadValueError, match="add --eval-only"):
        scene("eval/unused", model_dir=scene.folder / "coop")
    with pytest.raises(BadValueError, match="ZeroshotCLIP does not learn"):
        scene("eval/zero", trainer="ZeroshotCLIP", model_dir=scene.folder, flags="--eval-only")
    assert scene("eval/zero", trainer="ZeroshotCLIP", flags="--eval-only")["model"] is None


def test_class_specific_prompts_are_not_scored_on_other_classes(scene):
    """Three of the base classes are as many as the new ones: shapes alone would fit."""
    scene("csc", "TRAINER.COOP.CSC", True, "DATASET.SUBSAMPLE_CLASSES", "new")
    scene.evaluate("eval/csc same", "csc", "DATASET.SUBSAMPLE_CLASSES", "new")
    folder = scene.copy("csc", "csc renamed")
    for path in folder.glob("prompt_learner/model*"):
        rewrite(path, lambda content: content.update(run=content["run"].replace('"classnames": "', '"classnames": "0')))
    (folder / "classnames.json").unlink()
    (folder / "config.yaml").unlink()
    with pytest.raises(UserError, match="class-specific"):
        scene(
            "eval/csc", "TRAINER.COOP.CSC", True, "DATASET.SUBSAMPLE_CLASSES", "new", model_dir=folder,
            flags="--eval-only"
        )  # fmt: skip


@pytest.mark.parametrize("kept", [("config.yaml", "classnames.json"), ()])
def test_a_training_without_a_result_is_scored_as_what_its_checkpoints_say(scene, kept):
    """It was interrupted after its last checkpoint, or its small files are gone."""
    trained = json.loads((scene.folder / "coop" / "result.json").read_text())
    folder = scene.copy("coop", f"no result, {len(kept)} files")
    for file in {"config.yaml", "classnames.json", "result.json"}.difference(kept):
        (folder / file).unlink()
    checkpoint = torch.load(folder / "prompt_learner" / "model.pth.tar-2", weights_only=True)
    if kept:
        result = scene.evaluate(f"eval/{folder.name}", folder)
        assert result["full_config"]["OPTIM"] == trained["full_config"]["OPTIM"]
        assert result["config"] == ""  # the file is not known
    else:
        result = scene(f"eval/{folder.name}", model_dir=folder, flags="--eval-only")
    assert result["model"]["config"] == json.loads(checkpoint["run"])["config"]
    assert result["model"]["config"]["OPTIM"] == trained["full_config"]["OPTIM"]
    assert result["results"] == trained["results"]


@pytest.mark.parametrize("file", ["vit_b16_ep50", "vit_b16_ep100"])
def test_without_a_result_it_is_said_that_the_config_file_is_not_known(scene, file, capsys):
    folder, flags = scene.copy("coop", "no result"), f"--config-file {ROOT}/configs/trainers/CoOp/{file}.yaml"
    (folder / "result.json").unlink(missing_ok=True)
    capsys.readouterr()
    result = scene.evaluate(f"eval/no result {file}", folder, flags=flags)
    warning = rf"Warning: {folder} has no result.json, so it is unknown whether its training used \S+{file}.yaml; "
    settings = rf"the model's own settings are used: .*OPTIM.MAX_EPOCH is 2 there, {file.partition('ep')[2]} here"
    assert re.search(warning + settings, capsys.readouterr().out)
    assert result["full_config"]["OPTIM"]["MAX_EPOCH"] == result["model"]["config"]["OPTIM"]["MAX_EPOCH"] == 2


def published(scene: Scene, name: str, run: str = "coop") -> Path:
    """The folder as the published code writes it."""
    folder = scene.copy(run, name)
    for file in ("config.yaml", "classnames.json", "result.json"):
        (folder / file).unlink()
    for path in folder.glob("*/model*"):
        rewrite(path, lambda content: [content.pop(key, None) for key in ("run", "training_state")])
    return folder


def test_a_published_model_is_evaluated_with_a_word(scene, capsys):
    folder = published(scene, "published")
    capsys.readouterr()
    result = scene("eval/published", seed=9, model_dir=folder, flags="--eval-only")
    assert f"{folder} records nothing about its training" in capsys.readouterr().out
    assert result["model"]["config"] is None
    assert result["results"] == json.loads((scene.folder / "coop" / "result.json").read_text())["results"]


def test_a_published_run_is_a_start_but_cannot_be_resumed(scene, capsys):
    folder = published(scene, "published run")
    path = folder / "prompt_learner" / "model.pth.tar-2"
    with pytest.raises(MismatchError, match=f"{path} cannot be resumed.* MODEL.INIT_WEIGHTS {path} starts"):
        scene("from published", resume=folder)
    capsys.readouterr()
    scene("from weights", "MODEL.INIT_WEIGHTS", path)
    printed = capsys.readouterr().out
    assert f"Starting from MODEL.INIT_WEIGHTS {path} (epoch = 2): ctx (1,024 values)" in printed


# Pieces of several runs


def test_a_modulator_of_another_run_is_found(scene):
    folder = scene.copy("prometar", "mixed")
    shutil.rmtree(folder / MODULATOR)
    shutil.copytree(scene.folder / "other prometar" / MODULATOR, folder / MODULATOR)
    (folder / "result.json").unlink()
    for attempt in (
        lambda: scene(folder, trainer="ProMetaR"),
        lambda: scene.evaluate("eval/mixed", folder),
    ):
        with pytest.raises(UserError, match="SEED is 2 in the checkpoint, 1 in the file"):
            attempt()


def test_a_modulator_of_the_same_recipe_and_another_epoch_is_found(scene):
    folder = scene.copy("prometar", "mixed epochs")
    (folder / "result.json").unlink()
    earlier, last = (folder / MODULATOR / f"model.pth.tar-{epoch}" for epoch in (1, 2))
    content = torch.load(earlier, weights_only=True)
    torch.save(content | {"epoch": 2}, last)
    with pytest.raises(MismatchError, match="were not written together"):
        scene(folder, trainer="ProMetaR")


def swapped_names(folder: Path) -> None:
    names = [CLASSNAMES[1], CLASSNAMES[0], *CLASSNAMES[2:]]
    (folder / "classnames.json").write_text(json.dumps(names))


def edited_config(folder: Path) -> None:
    path = folder / "config.yaml"
    path.write_text(path.read_text().replace("CTX_INIT: ''", "CTX_INIT: a photo of a", 1))


def changed_tensor(folder: Path) -> None:
    path = folder / "prompt_learner" / "model.pth.tar-2"
    rewrite(path, lambda content: content["state_dict"]["ctx"].view(-1)[5].add_(1e-3))


def late_epoch(folder: Path) -> None:
    rewrite(folder / "prompt_learner" / "model.pth.tar-2", lambda content: content.update(epoch=200))


def earlier_epoch(folder: Path) -> None:
    rewrite(folder / "prompt_learner" / "model.pth.tar-2", lambda content: content.update(epoch=1))


def unreadable_record(folder: Path) -> None:
    rewrite(folder / "prompt_learner" / "model.pth.tar-2", lambda content: content.update(run="{}"))


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (swapped_names, r"classnames.json does not belong to .*model.pth.tar-2: these are not the class names"),
        (edited_config, r"config.yaml does not belong to .*: TRAINER.CO\w+.CTX_INIT is '' in the checkpoint"),
        (changed_tensor, r"model.pth.tar-2 is damaged: its tensors are not those that the run wrote"),
        (late_epoch, r"its epoch is 200, but the run has 2 epochs"),
        (earlier_epoch, r"renamed: it contains epoch 1"),
        (unreadable_record, r'"run" does not describe a run'),
    ],
)
def test_damage_is_found_before_it_counts(scene, damage, says):
    folder = scene.copy("coop", damage.__name__)
    (folder / "result.json").unlink()
    damage(folder)
    image = next(scene.data.rglob("*.jpg"))
    for attempt in (
        lambda: scene.evaluate("eval/damaged", folder),
        lambda: list(load_classifier(folder).predict([image])),
        lambda: scene(folder),
    ):
        with pytest.raises(UserError) as caught:
            attempt()
        # a resumed run compares class names and settings with its own first
        own = damage in (swapped_names, edited_config) and "was trained with another configuration" in str(caught.value)
        assert own or re.search(says, str(caught.value))
    assert not (scene.folder / "eval/damaged/result.json").exists()


def test_predictions_want_the_backbone_of_the_training(scene, tmp_path):
    folder, moved = scene.folder / "coop", tmp_path / f"moved{scene.backbones['vit'].suffix}"
    moved.write_bytes(scene.backbones["vit"].read_bytes())
    load_classifier(folder, options=["MODEL.BACKBONE.NAME", str(moved)])
    change_scale(moved)
    with pytest.raises(BadValueError, match="SHA-256"):
        load_classifier(folder, options=["MODEL.BACKBONE.NAME", str(moved)])


# Two processes


def train_py(scene: Scene, output: Path) -> subprocess.Popen:
    command = [sys.executable, "train.py", "--root", scene.data, "--trainer", "CoOp", "--output-dir", output]
    command += ["--backbone", scene.backbones["vit"], "--seed", "1", "--config-file"]
    command += ["configs/trainers/CoOp/vit_b16_ep50.yaml", "--dataset-config-file", "configs/datasets/eurosat.yaml"]
    return subprocess.Popen(
        [*map(str, command), *SHORT.split()],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_second_run_says_who_is_at_work(scene, tmp_path):
    """And the next one may work, whose name is in the lock then."""
    folder = tmp_path / "out"
    taken = lock(folder)
    before = snapshot(folder)
    second = train_py(scene, folder)
    _, errors = second.communicate(timeout=120)
    holder = rf"process {os.getpid()} on \S+ since \d{{4}}-.*: wait for its end"
    assert second.returncode == 1 and re.search(rf"^error: another process is at work in {folder} \({holder}", errors)
    assert snapshot(folder) == before
    taken.release()
    third = train_py(scene, folder)
    _, errors = third.communicate(timeout=120)
    assert third.returncode == 0, errors
    assert f"process {third.pid} on" in (folder / ".lock").read_text()
    assert (folder / "result.json").is_file()


def test_the_lock_ends_with_its_holder_and_not_with_a_forked_worker(tmp_path):
    with locked(tmp_path), locked(tmp_path):  # a script's process holds it already when train.py's main begins
        with pytest.raises(BusyError, match=f"process {os.getpid()} on"):
            lock(tmp_path)
        ready, go = os.pipe(), os.pipe()
        worker = os.fork()
        if not worker:
            os.write(ready[1], b"x")
            os.read(go[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
    lock(tmp_path).release()  # the worker is still there
    os.write(go[1], b"x")
    os.waitpid(worker, 0)
