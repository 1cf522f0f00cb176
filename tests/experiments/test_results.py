"""Results: read from logs, ours and upstream's; as data in result.json."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from golden_data import write_backbones
from tiny_runs import CLASSNAMES, build_trainer, learned, make_cfg, write_data

import parse_test_res
import train
from dassl.data.datasets import Datum
from dassl.engine.history import EpochHistory
from dassl.engine.run_record import classnames_digest
from dassl.utils import UserError, set_random_seed
from experiments.report.runs import find_runs
from runner import provenance, recording
from runner.provenance import draw_digest, learned_values
from runner.result import SAME_RECIPE, read_result, write_result
from trainers.core.record import changes_no_number

ROOT = Path(train.__file__).parent

OURS = "epoch [1/1] batch [5/5] ...\nFinish training\nEvaluate on the *test* set\n=> result\n* accuracy: {}%\n"
UPSTREAM = "epoch [1/1] ...\nFinished training\n=> result\n* total: 100\n* accuracy: {}%\n* error: 1%\n"
EVALUATION = "Evaluate on the *test* set\n=> result\n* total: 100\n* accuracy: {}%\n"
CRASHED = "* accuracy: 99.0%\nTraceback (most recent call last):\n"  # a validation result before the crash


def write_run(folder, text):
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text(text)


def test_seeds_are_averaged_and_an_unfinished_one_is_named(tmp_path, capsys):
    for seed, text in enumerate((OURS.format(80.0), UPSTREAM.format("85.5"), CRASHED), 1):
        write_run(tmp_path / f"seed{seed}", text)
    parse_test_res.main([str(tmp_path)])
    printed = capsys.readouterr().out
    assert "* accuracy: 82.75% +- 2.75% (2 runs)" in printed
    assert "unfinished:" in printed and "seed3" in printed


def test_evaluations_need_the_flag(tmp_path, capsys):
    write_run(tmp_path / "seed1", EVALUATION.format(70.0))
    with pytest.raises(UserError, match="no finished run"):
        parse_test_res.main([str(tmp_path)])
    parse_test_res.main([str(tmp_path), "--test-log"])
    assert "* accuracy: 70.00%" in capsys.readouterr().out


def test_many_experiments_and_confidence(tmp_path, capsys):
    for name, values in (("a", (60.0, 70.0)), ("b", (50.0, 50.0))):
        for seed, value in enumerate(values, 1):
            write_run(tmp_path / name / f"seed{seed}", OURS.format(value))
    parse_test_res.main([str(tmp_path), "--multi-exp", "--ci95"])
    printed = capsys.readouterr().out
    assert "Average performance: 57.50%" in printed
    assert f"65.00% +- {1.96 * 5 / 2**0.5:.2f}%" in printed


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="nothing-here"):
        parse_test_res.main([str(tmp_path / "nothing-here")])


def damaged_log(kind, run):
    log = run / "log.txt"
    log.unlink()
    match kind:
        case "fifo":
            os.mkfifo(log)
        case "folder":
            log.mkdir()
        case "dangling":
            log.symlink_to("nowhere")
        case "device":
            log.symlink_to("/dev/zero")
        case text:
            log.write_text(OURS.format(text))


@pytest.mark.parametrize("kind", ["fifo", "folder", "dangling", "device", "nan", "1.2.3", "1e999", "130", "-5", "--"])
def test_a_log_that_cannot_be_used_is_named_and_the_others_summarised(tmp_path, capsys, kind):
    for experiment, values in (("a", (60.0, 70.0, 80.0)), ("b", (50.0,))):
        for seed, value in enumerate(values, 1):
            write_run(tmp_path / experiment / f"seed{seed}", OURS.format(value))
    bad = tmp_path / "a" / "seed3"
    damaged_log(kind, bad)
    assert parse_test_res.main([str(tmp_path / "a")]) == 1
    printed = capsys.readouterr()
    assert "* accuracy: 65.00% +- 5.00% (2 runs)" in printed.out
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ") and str(bad / "log.txt") in line

    damaged_log(kind, tmp_path / "b" / "seed1")
    assert parse_test_res.main([str(tmp_path), "--multi-exp"]) == 1
    printed = capsys.readouterr()
    assert "Average performance: 65.00% (1 of 2 experiments)" in printed.out
    assert len(printed.err.splitlines()) == 3
    assert f"no finished run with a line '* accuracy: ...%' in {tmp_path / 'b'}" in printed.err


@pytest.mark.parametrize("other", ["seed01", "seed1-copy", "seed1 (1)", "seed1.old", "seed_1"])
def test_two_folders_of_one_seed_are_named(tmp_path, capsys, other):
    runs = {"seed1": 80, other: 90, "seed2": 70, "seed²": 60, "seed10": 65}
    for name, value in runs.items():
        write_run(tmp_path / name, OURS.format(value))
    assert parse_test_res.main([str(tmp_path)]) == 1
    printed = capsys.readouterr()
    assert "* accuracy: 65.00% +- 4.08% (3 runs)" in printed.out
    (line,) = printed.err.splitlines()
    assert str(tmp_path / "seed1") in line and str(tmp_path / other) in line


# result.json


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """train.py on tiny data, as a process would run it: training with results per class, then an evaluation."""
    folder = tmp_path_factory.mktemp("trained")
    write_data(folder / "data")
    backbone = write_backbones(folder)["vit"]

    def run(output, *arguments):
        words = ["--root", folder / "data", "--trainer", "CoOp", "--backbone", backbone, "--seed", 3]
        words += ["--config-file", ROOT / "configs/trainers/CoOp/vit_b16_ep50.yaml", "--output-dir", folder / output]
        words += ["--dataset-config-file", ROOT / "configs/datasets/eurosat.yaml", *arguments]
        words += ["INPUT.SIZE", "(64, 64)", "DATALOADER.NUM_WORKERS", 0, "DATASET.NUM_SHOTS", 2]
        words += ["DATALOADER.TRAIN_X.BATCH_SIZE", 4, "OPTIM.MAX_EPOCH", 2, "TRAINER.COOP.PREC", "fp32"]
        out, err = sys.stdout, sys.stderr
        try:
            train.main(train.parse_args([*map(str, words), "TEST.PER_CLASS_RESULT", str(output == "train")]))
        finally:
            sys.stdout, sys.stderr = out, err
        return json.loads((folder / output / "result.json").read_text())

    on_train = run("train", "--setting", "few_shot/all", "--config-name", "my_row")
    on_test = run("test", "--eval-only", "--model-dir", folder / "train")
    return folder, backbone, on_train, on_test


def test_a_result_says_what_was_found(trained):
    folder, _, result, evaluated = trained
    log = (folder / "train" / "log.txt").read_text()
    assert f"* accuracy: {result['results']['accuracy']:.1f}%" in log
    assert result["results"]["error_rate"] == pytest.approx(100 - result["results"]["accuracy"])
    assert sorted(result["per_class"]) == sorted(CLASSNAMES)
    assert statistics.mean(result["per_class"].values()) == pytest.approx(result["results"]["accuracy"])  # equal sizes
    assert (
        evaluated["results"]["accuracy"] == result["results"]["accuracy"]
        and evaluated["per_class"] == result["per_class"]
    )
    assert parse_test_res.read_logged_result(folder / "train" / "log.txt", "accuracy", False) is not None


def test_a_result_says_what_was_run(trained):
    _, backbone, result, evaluated = trained
    assert result["finished"] is True and result["schema"] == 2
    what = ("setting", "part", "trainer", "config", "dataset", "dataset_config", "subsample_classes")
    assert [result[key] for key in what] == ["few_shot", "all", "CoOp", "my_row", "EuroSAT", "eurosat", "all"]
    assert [result[key] for key in ("shots", "seed", "classes", "epochs", "device")] == [2, 3, 7, 2, "cpu"]
    assert [evaluated[key] for key in ("setting", "part", "config")] == ["other", "all", "vit_b16_ep50"]
    assert result["backbone"] == str(backbone) and result["full_config"]["OPTIM"]["MAX_EPOCH"] == 2
    assert result["versions"]["torch"] == torch.__version__ and result["versions"]["project"]
    assert result["date"].endswith("Z") and abs(datetime.now(UTC) - datetime.fromisoformat(result["date"])).days == 0


def test_a_result_says_where_numbers_come_from(trained):
    """Hashes by hand: of the backbone's file, and of the draw as its own file has it."""
    folder, backbone, result, evaluated = trained
    assert result["weights_sha256"] == hashlib.sha256(Path(backbone).read_bytes()).hexdigest()
    (draw,) = (folder / "data" / "eurosat").glob("split_fewshot/shot_2-seed_3.json")
    items = json.loads(draw.read_text())["train"]
    lines = "".join(f"{label} eurosat/{path}\n" for path, label, _ in items)
    assert len(items) == 14 and result["few_shot_sha256"] == hashlib.sha256(lines.encode()).hexdigest()
    assert evaluated["few_shot_sha256"] is None
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    assert result["git_commit"] == (commit or None) and isinstance(result["git_dirty"], bool)


def test_a_result_says_what_it_cost(trained):
    folder, _, result, evaluated = trained
    curve = result["history"]
    assert [line["epoch"] for line in curve] == [1, 2] and all({"loss", "acc"} <= set(line) for line in curve)
    assert [line["lr"] for line in curve] == pytest.approx([1e-5, 0.002])  # a constant warm-up epoch, then the cosine
    assert 0 < result["train_seconds"] == pytest.approx(sum(line["seconds"] for line in curve))
    assert 0 < result["test_seconds"] < 300 and result["peak_memory_bytes"] > 10**8
    checkpoint = torch.load(folder / "train" / "prompt_learner" / "model.pth.tar-2", weights_only=True)["state_dict"]
    assert result["learned_values"] == evaluated["learned_values"] == checkpoint["ctx"].numel()
    assert result["step_flops"] > 10**6 and evaluated["step_flops"] is None
    assert evaluated["train_seconds"] is None and evaluated["history"] == [] and evaluated["epochs"] == 0


def test_learned_values_are_those_that_prediction_needs():
    """What only training needs, such as ProMetaR's modulator, and what is frozen do not count."""
    prompts, modulator = torch.nn.Linear(3, 4), torch.nn.Linear(100, 100)
    prompts.bias.requires_grad_(False)
    models = {"VLPromptLearner": prompts, "GradientModulator": modulator}
    assert learned_values(SimpleNamespace(registered_name="VLPromptLearner", _models=models)) == 12
    assert learned_values(SimpleNamespace(_models=models)) == 12 + 10_100


def test_an_epoch_can_be_amended(tmp_path):
    history = EpochHistory(tmp_path)
    history.add(1, loss=0.5, seconds=2.0)
    history.amend(1, val_accuracy=70.0)
    history.amend(2, val_accuracy=80.0)  # a trainer of its own that records nothing else
    expected = [{"epoch": 1, "loss": 0.5, "seconds": 2.0, "val_accuracy": 70.0}, {"epoch": 2, "val_accuracy": 80.0}]
    assert history.epochs == expected and history.seconds == 2.0
    again = EpochHistory(tmp_path)
    again.resume(2, tmp_path)
    assert again.epochs == expected


def test_the_curve_outlives_an_interruption(tmp_path):
    before = EpochHistory(tmp_path)
    for epoch in (1, 2, 3):
        before.add(epoch, loss=1.0 / epoch, seconds=2.0)
    with open(tmp_path / "history.jsonl", "a") as file:
        file.write('{"epoch": 4, "lo')  # cut short
    after = EpochHistory(tmp_path)
    after.resume(2, tmp_path)  # the third epoch left no checkpoint
    after.add(3, loss=0.25, seconds=5.0)
    assert [line["loss"] for line in after.epochs] == [1.0, 0.5, 0.25] and after.seconds == 9.0
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == after.epochs

    elsewhere = EpochHistory(tmp_path / "new")
    elsewhere.resume(3, tmp_path)
    assert elsewhere.epochs == after.epochs
    elsewhere.resume(0, tmp_path / "nothing")
    assert elsewhere.epochs == [] and (tmp_path / "new" / "history.jsonl").read_text() == ""


@pytest.mark.parametrize(
    "line",
    [
        "hello",
        "",
        "[]",
        '{"loss": 1.0}',
        '{"epoch": true}',
        '{"epoch": "1"}',
        '{"epoch": 1, "seconds": "long"}',
        '{"epoch": 1, "loss": null}',
        '{"epoch": 1, "seconds": 1%s}' % ("0" * 400),
        "[" * 100_000,
    ],
)
def test_a_damaged_curve_is_named_with_its_line(tmp_path, line):
    path = tmp_path / "history.jsonl"
    path.write_text('{"epoch": 1, "loss": 0.5, "seconds": 1.0}\n' + line + '\n{"epoch": 2, "lo')
    with pytest.raises(UserError, match=r"history.jsonl: line 2 is not an epoch's averages") as caught:
        EpochHistory(tmp_path).resume(2, tmp_path)
    assert len(str(caught.value)) < 500 and path.read_text().startswith('{"epoch": 1')
    path.write_text('{"epoch": 1, "loss": NaN, "seconds": 1.0}\n{"epoch": 2, "lo')
    history = EpochHistory(tmp_path)
    history.resume(2, tmp_path)
    assert len(history.epochs) == 1 and history.seconds == 1.0


def test_an_unknown_setting_is_one_line():
    with pytest.raises(UserError, match="base2new/train_base"):
        recording.setting_and_part("base2new/source")


def test_a_folder_that_is_no_repository(monkeypatch, tmp_path):
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.git_state.__wrapped__() == {"git_commit": None, "git_dirty": False}
    monkeypatch.setenv("PATH", "")
    assert provenance.git_state.__wrapped__() == {"git_commit": None, "git_dirty": False}


def test_a_method_that_git_does_not_know_is_other_code(monkeypatch, tmp_path):
    """Otherwise two versions of it would stand under one commit."""
    for name in ("trainers/own.py", "trainers/known.py", "docs/notes.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "-q"], ["add", "trainers/known.py"], ["commit", "-qm", "first"]):
        subprocess.run([*git, *words], check=True)
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.git_state.__wrapped__()["git_dirty"]
    (tmp_path / "trainers" / "own.py").unlink()
    assert not provenance.git_state.__wrapped__()["git_dirty"]
    (tmp_path / "trainers" / "known.py").write_text("changed")
    assert provenance.git_state.__wrapped__()["git_dirty"]


# Which settings change numbers


@pytest.fixture(scope="module")
def train_with(tmp_path_factory):
    """Trains ProMetaR from seed 1 on augmented images, with some settings changed: prompts and accuracy."""
    folder = tmp_path_factory.mktemp("settings")
    write_data(folder / "data")
    (folder / "moved").symlink_to(folder / "data")
    backbone = write_backbones(folder)["vit"]

    def run(**changes):
        options = {key: str(value) for key, value in changes.items()}
        output = options.pop("OUTPUT_DIR", "out")
        root = folder / options.pop("DATASET.ROOT", "data")
        cfg = make_cfg("ProMetaR", backbone, root, folder / output, options)
        cfg.INPUT.TRANSFORMS = ("random_resized_crop", "random_flip", "normalize")
        set_random_seed(1)
        trainer = build_trainer(cfg)
        if any((folder / output).glob("*/checkpoint")):
            trainer.load_model(cfg.OUTPUT_DIR)  # evaluation alone
        else:
            trainer.train()
        prompts = {name: tensor for name, tensor in learned(trainer).items() if "_gamma." not in name}
        return prompts, trainer.test()

    return run


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_what_changes_no_number_changes_no_bit(train_with):
    changes = {
        "OUTPUT_DIR": "elsewhere",
        "DATASET.ROOT": "moved",
        "INPUT.MAX_ASPECT_RATIO": 300,
        "INPUT.MAX_PIXELS": 100_000,
        "TRAIN.PRINT_FREQ": 1,
        "TRAIN.CHECKPOINT_FREQ": 1,
        "TRAIN.CHECKPOINT_SECONDS": 0.0,
        "TEST.PER_CLASS_RESULT": True,
        "TEST.COMPUTE_CMAT": True,
        "TEST.SAVE_PREDICTIONS": False,
        "TRAINER.CPU_REPLAY": "off",
        "TRAINER.CUDA_GRAPH": "off",  # on a GPU: tests/trainers/test_captured.py
        "TRAINER.PROMETAR.KEEP_MODULATOR": True,
        "TRAINER.PROMETAR.MONITOR": False,
    }
    # resumed runs: tests/dassl/test_engine.py; places of the draws: tests/datasets/test_own_data.py
    assert set(changes) == changes_no_number() - {"RESUME", "VERBOSE", "DATASET.SPLITS_DIR"}
    usual, changed = train_with(OUTPUT_DIR="usual")[0], train_with(**changes)[0]
    assert equal(usual, changed)


def test_workers_and_text_chunks_change_numbers_of_training(train_with):
    usual, accuracy = train_with(OUTPUT_DIR="none")
    for key, values in (("DATALOADER.NUM_WORKERS", (1, 2)), ("TRAINER.TEXT_CHUNK", (2,))):
        assert key in SAME_RECIPE
        found = [train_with(**{"OUTPUT_DIR": f"{key}{value}", key: value})[0] for value in values]
        assert not any(equal(usual, tensors) for tensors in found)
        assert len(found) == 1 or not equal(*found)  # also from one number of workers to the next
    evaluated = train_with(OUTPUT_DIR="none", **{"DATALOADER.NUM_WORKERS": 2})
    assert equal(usual, evaluated[0]) and evaluated[1] == accuracy


@pytest.mark.parametrize(
    "changed", [{"model": "x"}, {"model": {"folder": 3}}, {"model": []}, {"config": 5}, {"full_config": []}]
)
def test_a_result_with_entries_of_another_kind_is_damaged(tmp_path, changed):
    write_result(tmp_path, {"results": {"accuracy": 50.0}, "full_config": {}} | changed)
    with pytest.raises(UserError, match=f"result.json is damaged: {next(iter(changed))} is"):
        read_result(tmp_path)


def test_the_digest_of_a_draw_takes_every_path(tmp_path):
    """Own data may lie in a folder whose name is not UTF-8."""
    items = []
    for name in (b"ok", b"\xff"):
        path = tmp_path / os.fsdecode(name) / "a.jpg"
        path.parent.mkdir()
        path.touch()
        items.append(Datum(impath=str(path), label=0, classname="a"))
    assert draw_digest(items[:1], "/elsewhere") != draw_digest(items[1:], "/elsewhere")


# Measures, predictions, and base and new classes together


@pytest.fixture(scope="module")
def jointly(trained):
    """A model of the base classes, and its evaluation on all classes."""
    folder, backbone, *_ = trained

    def run(output, *arguments):
        words = ["--root", folder / "data", "--backbone", backbone, "--output-dir", folder / output]
        words += ["--dataset-config-file", ROOT / "configs/datasets/eurosat.yaml", *arguments]
        out, err = sys.stdout, sys.stderr
        try:
            train.main(train.parse_args(list(map(str, words))))
        finally:
            sys.stdout, sys.stderr = out, err
        return json.loads((folder / output / "result.json").read_text())

    of_training = ["--trainer", "CoOp", "--config-file", ROOT / "configs/trainers/CoOp/vit_b16_ep50.yaml"]
    of_training += ["--setting", "base2new/train_base", "--seed", 1, "DATASET.SUBSAMPLE_CLASSES", "base"]
    of_training += ["INPUT.SIZE", "(64, 64)", "DATALOADER.NUM_WORKERS", 0, "DATASET.NUM_SHOTS", 2]
    run("base", *of_training, "DATALOADER.TRAIN_X.BATCH_SIZE", 4, "OPTIM.MAX_EPOCH", 1, "TRAINER.COOP.PREC", "fp32")
    evaluation = ["--eval-only", "--model-dir", folder / "base", "--setting", "base2new/test_all"]
    return folder, run, tuple(evaluation), run("joint", *evaluation, "DATASET.SUBSAMPLE_CLASSES", "all")


def arrays(folder):
    with np.load(folder / "predictions.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file}


def test_a_joint_result_agrees_with_the_predictions_beside_it(jointly):
    """Seven classes: base labels are 0 to 3."""
    folder, _, _, result = jointly
    kept = arrays(folder / "joint")
    base, right = kept["labels"] < 4, kept["top5"][:, 0] == kept["labels"]
    joint = result["joint"]
    assert joint["base_accuracy"] == pytest.approx(100 * right[base].mean())
    assert joint["new_accuracy"] == pytest.approx(100 * right[~base].mean())
    assert result["results"]["accuracy"] == pytest.approx(100 * right.mean()) and 0 < right.mean() < 1
    assert 0 <= joint["openworld_auc"] <= joint["auroc"] <= 100 and joint["auroc"] > 0
    assert (result["part"], result["subsample_classes"], result["classes"]) == ("test_all", "all", 7)
    log = (folder / "joint" / "log.txt").read_text()
    assert f"\n* base_accuracy: {joint['base_accuracy']:.1f}%\n" in log
    assert json.loads((folder / "base" / "result.json").read_text())["joint"] is None


def test_predictions_name_their_images_and_are_recorded_by_digest(jointly, trained):
    folder, _, _, result = jointly
    content = (folder / "joint" / "predictions.npz").read_bytes()
    assert result["predictions"] == {"file": "predictions.npz", "sha256": hashlib.sha256(content).hexdigest()}
    kept = arrays(folder / "joint")
    split = json.loads((folder / "data" / "eurosat" / "split_zhou_EuroSAT.json").read_text())["test"]
    assert dict(zip(kept["images"].tolist(), kept["labels"].tolist(), strict=True)) == {
        f"eurosat/2750/{path}": label for path, label, _ in split
    }
    assert kept["classnames"].tolist() == CLASSNAMES and str(kept["part"]) == "test_all"
    assert str(arrays(folder / "train")["part"]) == "all"
    pairs = trained[2]["confusion_pairs"]
    wrong = int((arrays(folder / "train")["top5"][:, 0] != arrays(folder / "train")["labels"]).sum())
    assert sum(pair["count"] for pair in pairs) == wrong and {pair["true"] for pair in pairs} <= set(CLASSNAMES)


def test_base_and_new_need_their_own_classes_and_a_model_of_the_base_classes(jointly, tmp_path):
    """Otherwise accuracy of all classes would be in the column of the new ones, and trained classes would be new."""
    folder, run, evaluation, _ = jointly
    of_new = [*evaluation[:-1], "base2new/test_new"]
    with pytest.raises(UserError, match="test_new is of new classes: set DATASET.SUBSAMPLE_CLASSES new, not all"):
        run("refused", *of_new, "DATASET.SUBSAMPLE_CLASSES", "all")
    with pytest.raises(UserError, match="train_base is of base classes: set DATASET.SUBSAMPLE_CLASSES base, not new"):
        run("refused", *evaluation[:-1], "base2new/train_base", "DATASET.SUBSAMPLE_CLASSES", "new")
    evaluation = list(evaluation)
    evaluation[2] = folder / "train"  # of all classes
    of_new[2] = folder / "train"
    needed = "needs a model that was trained with DATASET.SUBSAMPLE_CLASSES base, but .*/train was trained with all"
    for words, classes in ((evaluation, "all"), (of_new, "new")):
        with pytest.raises(UserError, match=needed):
            run("refused", *words, "DATASET.SUBSAMPLE_CLASSES", classes)
    evaluation[2] = shutil.copytree(folder / "base", tmp_path / "other")
    for path in evaluation[2].glob("prompt_learner/model.pth.tar-*"):
        content = torch.load(path, weights_only=True)
        record = json.loads(content["run"]) | {"classnames": classnames_digest(["other", "names"])}
        torch.save(content | {"run": json.dumps(record)}, path)
    (evaluation[2] / "classnames.json").write_text(json.dumps(["other", "names"]))
    with pytest.raises(UserError, match="needs a model of the base classes of these data, but .* classes with other"):
        run("refused", *evaluation, "DATASET.SUBSAMPLE_CLASSES", "all")
    assert not (folder / "refused" / "result.json").exists()


def test_predictions_are_replaced_and_can_be_switched_off(jointly):
    folder, run, evaluation, first = jointly
    again = run("joint", *evaluation, "DATASET.SUBSAMPLE_CLASSES", "all")
    assert again["predictions"] == first["predictions"] and again["joint"] == first["joint"]
    path = folder / "joint" / "predictions.npz"
    content = path.read_bytes()
    without = run("joint", *evaluation, "DATASET.SUBSAMPLE_CLASSES", "all", "TEST.SAVE_PREDICTIONS", "False")
    assert without["predictions"] is None and not path.exists() and without["results"] == first["results"]
    run("joint", *evaluation, "DATASET.SUBSAMPLE_CLASSES", "all")
    assert path.read_bytes() == content


def test_a_joint_evaluation_of_the_base_classes_alone_is_refused(jointly):
    folder, run, evaluation, _ = jointly
    with pytest.raises(UserError, match="set DATASET.SUBSAMPLE_CLASSES all, not base"):
        run("refused", *evaluation, "DATASET.SUBSAMPLE_CLASSES", "base")
    assert not (folder / "refused").exists()


@pytest.mark.parametrize("schema", [1, 2])
def test_the_report_reads_results_of_both_schemas(jointly, tmp_path, schema):
    folder, _, _, result = jointly
    if schema == 1:
        for key in ("confusion_pairs", "joint", "predictions"):
            del result[key]
        result = result | {"per_class": None}
        result["results"] = {key: result["results"][key] for key in ("accuracy", "error_rate", "macro_f1")}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "result.json").write_text(json.dumps(result | {"schema": schema}))
    found = find_runs(tmp_path)
    assert [run.part for run in found.runs] == ["test_all"] and not found.problems
    assert read_result(tmp_path / "run") is not None
    (tmp_path / "run" / "result.json").write_text(json.dumps(result | {"schema": 3}))
    assert "schema 3" in find_runs(tmp_path).problems[0]
    with pytest.raises(UserError, match="has schema 3, but this version reads 1 and 2"):
        read_result(tmp_path / "run")
