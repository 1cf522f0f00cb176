"""Figures of a run: the numbers that are drawn, what is refused, and the files.

Expected values: the definitions written out in loops, the plain CLIP of the helpers, and the trainers' own logits and
log. Pictures are not compared.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shlex
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from plain_clip import quick_gelu
from tiny_runs import CLASSNAMES
from trained_runs import Runs

from dassl.engine import TRAINER_REGISTRY, SimpleTrainer
from dassl.engine.run_record import write_record
from dassl.utils import MissingFileError, UserError, file_sha256
from experiments import __main__ as experiments_program
from experiments import figures
from experiments.arguments import kind_names
from experiments.figures import drawing, kinds, trained
from experiments.figures.drawing import STYLE, Asked, shortened, spread
from experiments.figures.kinds import attention, classes, confusion, embedding, meta, reliability
from experiments.figures.kinds.embedding import centred_rows, principal_plane
from experiments.figures.predictions import PREDICTIONS_NAME, read_predictions
from experiments.figures.rollout import attention_shares, rollout
from experiments.figures.trained import UNKNOWN, Labelled, load_run

FOLDER = Path(kinds.__file__).parent


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return Runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module", autouse=True)
def style():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(STYLE, "savefig.dpi", 50)  # a picture of the size of a stamp is drawn faster
        with matplotlib.rc_context(STYLE):
            yield


def drawn(kind, folder, **asked):
    (found,) = kind.draw(Asked([Path(folder)], **asked))
    return found


# --- predictions -----------------------------------------------------------------------------------------------------


def arrays(size=5, count=400):
    """What an evaluation of `count` images of `size` classes writes."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(size, 0.2), count)
    top = np.argsort(-probabilities, axis=1)[:, :5]
    labels = np.where(rng.random(count) < 0.6, top[:, 0], rng.integers(0, size, count))
    return {
        "images": np.array([f"test/{i}.jpg" for i in range(count)]),
        "labels": labels.astype(np.int32),
        "top5": top.astype(np.int32),
        "scores": np.take_along_axis(probabilities, top, 1).astype(np.float16),
        "label_scores": probabilities[np.arange(count), labels].astype(np.float16),
        "classnames": np.array([f"class ${i} {'long ' * (i % 7)}" for i in range(size)]),
        "part": np.array("test"),
    }


@pytest.fixture
def predicted(tmp_path):
    """Writes a run's predictions: `predicted(size, **changed arrays)`; returns its folder."""

    def write(size=5, count=400, name="run", **changed):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        np.savez_compressed(folder / PREDICTIONS_NAME, **arrays(size, count) | changed)
        return folder

    return write


def test_predictions_come_back(predicted):
    found, given = read_predictions(predicted()), arrays()
    order = sorted(range(400), key=lambda image: str(given["images"][image]))
    assert found.labels.tolist() == given["labels"][order].tolist()
    assert found.classnames == given["classnames"].tolist()
    assert found.predicted.tolist() == given["top5"][order, 0].tolist()
    assert found.confidence.tolist() == given["scores"][order, 0].astype(float).tolist()
    right = [a == b for a, b in zip(given["top5"][:, 0], given["labels"], strict=True)]
    assert found.correct.tolist() == [right[image] for image in order]


@pytest.mark.parametrize(
    "changed, reason",
    [
        ({"labels": np.array([0] * 399 + [5])}, "labels names a class that does not exist"),
        ({"labels": np.zeros(399, int)}, "its arrays differ in length"),
        ({"labels": np.zeros(400)}, "labels is of type float64"),
        ({"labels": np.zeros(0, int)}, "it has no images"),
        ({"top5": np.full((400, 5), -1)}, "top5 names a class"),
        ({"top5": np.zeros((400, 0), int), "scores": np.zeros((400, 0))}, "its arrays differ"),
        ({"scores": np.full((400, 5), 1.5)}, "scores are not probabilities"),
        ({"scores": np.full((400, 5), np.nan)}, "scores are not probabilities"),
        ({"scores": np.full((400, 5), 0.3)}, "scores are not the largest probabilities"),
        ({"scores": np.tile([0.1, 0.2, 0.0, 0.0, 0.0], (400, 1))}, "scores are not the largest probabilities"),
        ({"images": np.array([{}] * 400)}, "cannot read .* allow_pickle"),
        ({"classnames": np.full(5, 2**31 - 1, np.int32).view("<U1")}, "cannot read .* maximum character"),
    ],
)
def test_damaged_predictions_are_one_line(predicted, changed, reason):
    with pytest.raises(UserError, match=reason):
        read_predictions(predicted(**changed))


def test_a_file_that_unpacks_to_more_than_predictions_need_is_refused(predicted, monkeypatch):
    """A zip file of some MB may unpack to any size."""
    size = sum(array.nbytes for array in arrays().values())
    monkeypatch.setattr("experiments.figures.predictions.MAX_BYTES", size)  # the headers are above
    with pytest.raises(UserError, match=f"its arrays have more than {size:,} bytes"):
        read_predictions(predicted())


def test_an_array_that_is_there_twice_is_refused(predicted):
    folder, content = predicted(), io.BytesIO()
    np.save(content, np.zeros(400, int))
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(folder / PREDICTIONS_NAME, "a") as file:
        file.writestr("labels.npy", content.getvalue())
    with pytest.raises(UserError, match="it has an array twice"):
        read_predictions(folder)


@pytest.mark.parametrize("part", [0, 0.5, 0.99])
def test_a_truncated_file_is_one_line(predicted, part):
    path = predicted() / PREDICTIONS_NAME
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    with pytest.raises(UserError, match=f"{PREDICTIONS_NAME}.*evaluate the model again"):
        read_predictions(path.parent)


def test_a_missing_array_and_a_missing_file_are_named(predicted, tmp_path):
    kept = arrays()
    kept.pop("top5")
    folder = predicted()
    np.savez_compressed(folder / PREDICTIONS_NAME, **kept)
    with pytest.raises(UserError, match="top5"):
        read_predictions(folder)
    with pytest.raises(MissingFileError, match="TEST.SAVE_PREDICTIONS True"):
        read_predictions(tmp_path)


def test_predictions_of_another_evaluation_than_the_result_are_refused(predicted):
    folder = predicted()
    digest = file_sha256(folder / PREDICTIONS_NAME)
    for recorded in (None, {"file": PREDICTIONS_NAME, "sha256": digest}):
        write_result(folder, "ProMetaR", None, predictions=recorded, results={"accuracy": 68.25})
        assert len(read_predictions(folder).labels) == 400
    write_result(folder, "ProMetaR", None, results={"accuracy": 70.0})
    with pytest.raises(UserError, match=r"an accuracy of 68.25 %, but result.json 70.00 %"):
        read_predictions(folder)
    write_result(folder, "ProMetaR", None, predictions=recorded)
    predicted(6)
    with pytest.raises(UserError, match="not the file that result.json describes"):
        read_predictions(folder)


# --- reliability and confusion ---------------------------------------------------------------------------------------


def test_bins_and_error_are_the_definition():
    rng = np.random.default_rng(1)
    confidence, correct = rng.random(500) ** 0.3, rng.random(500) < 0.6
    confidence[:3] = 0.0, 1.0, 1 / 15
    bins = reliability.reliability_bins(confidence, correct)
    for m in range(1, 16):
        inside = [i for i in range(500) if (m - 1) / 15 < confidence[i] <= m / 15 or (m == 1 and confidence[i] == 0)]
        assert bins["images"][m - 1] == len(inside)
        if inside:
            accuracy, mean = (sum(map(float, values[inside])) / len(inside) for values in (correct, confidence))
            assert bins["accuracy"][m - 1] == pytest.approx(accuracy)
            assert bins["confidence"][m - 1] == pytest.approx(mean)
    assert bins["images"].sum() == 500 and bins["images"][0] >= 2


def test_the_figure_s_error_is_that_of_its_bins(predicted):
    folder = predicted()
    found = read_predictions(folder)
    bins = reliability.reliability_bins(found.confidence, found.correct).dropna()
    expected = (bins["images"] / 400 * (bins["accuracy"] - bins["confidence"]).abs()).sum()
    assert expected > 0.1 and f"ECE {expected:.1%} (15 bins)" in drawn(reliability, folder).summary


@pytest.mark.parametrize("size", [2, 5, 25, 26, 1000])
def test_confusion_by_counting(predicted, size):
    found = read_predictions(predicted(size, 3000))
    counts = confusion.confusion_counts(found)
    pairs = Counter(zip(found.labels.tolist(), found.predicted.tolist(), strict=True))
    assert counts.shape == (size, size) and counts.sum() == 3000
    assert all(counts[pair] == count for pair, count in pairs.items())
    mistakes = sorted((-count, pair) for pair, count in pairs.items() if pair[0] != pair[1])[:20]
    assert confusion.confused_pairs(found, 20) == [(*pair, -count) for count, pair in mistakes]
    shown = confusion.most_confused(found, 20)
    assert shown == sorted(set(shown)) and 2 <= len(shown) <= min(20, size)
    assert set(mistakes[0][1]) <= set(shown)
    percent = confusion.percentages(counts, shown)
    assert percent.shape == (len(shown), len(shown) + 1)
    filled = [sum(pairs[label, other] for other in range(size)) > 0 for label in shown]
    assert np.nansum(percent, axis=1) == pytest.approx([100.0 * each for each in filled])
    assert percent[0, 1] == pytest.approx(100 * pairs[shown[0], shown[1]] / counts[shown[0]].sum())


def test_a_class_without_images_and_a_model_without_mistakes(predicted):
    top = np.zeros((400, 5), int)
    folder = predicted(30, labels=np.zeros(400, int), top5=top)
    found = read_predictions(folder)
    assert confusion.most_confused(found, 20) == [] == confusion.confused_pairs(found, 20)
    assert np.isnan(confusion.percentages(confusion.confusion_counts(found), [1])).all()
    assert "0 of 400 images" in drawn(confusion, folder).summary


# --- classes ---------------------------------------------------------------------------------------------------------


def write_result(folder, trainer, per_class, **changes):
    content = {
        **{"schema": 1, "finished": True, "setting": "base2new", "part": "train_base", "trainer": trainer},
        **{"config": "c", "dataset": "Shapes", "dataset_config": "shapes", "subsample_classes": "base", "shots": 16},
        **{"seed": 1, "backbone": "ViT-Shapes", "results": {"accuracy": 50.0}, "per_class": per_class, "history": []},
        **{"train_seconds": None, "test_seconds": 1.0, "peak_memory_bytes": 1, "device": "cpu"},
        **{"few_shot_sha256": None, "weights_sha256": "ab" * 32, "full_config": {"TEST": {"SPLIT": "test"}}},
        **{"versions": {}, "git_commit": None, "git_dirty": None, "date": "2026-01-02T03:04:05Z"},
    }
    folder.mkdir(parents=True, exist_ok=True)
    if (folder / PREDICTIONS_NAME).is_file():  # both are of one evaluation
        with np.load(folder / PREDICTIONS_NAME) as file:
            content["results"] = {"accuracy": 100 * float(np.mean(file["top5"][:, 0] == file["labels"]))}
    (folder / "result.json").write_text(json.dumps(content | changes))
    return folder


OURS, ZERO_SHOT = {"a": 70.0, "b": 20.0, "c": 55.5}, {"a": 60.0, "b": 50.0, "c": 55.5}


@pytest.fixture
def tree(tmp_path):
    """A run and its zero-shot run where the scripts put them."""
    base = tmp_path / "base2new" / "train_base" / "shapes" / "shots_16"
    run = write_result(base / "ProMetaR" / "c" / "seed1", "ProMetaR", OURS)
    return run, write_result(base / "ZeroshotCLIP" / "c" / "seed1", "ZeroshotCLIP", ZERO_SHOT)


def test_gains_against_the_run_beside_and_the_run_given(tree, tmp_path):
    run, zero_shot = tree
    (beside,), (given,) = classes.draw(Asked([run])), classes.draw(Asked([zero_shot, run]))
    assert beside.run == given.run == run
    assert beside.summary == given.summary.replace(str(zero_shot), str(zero_shot.resolve()))
    assert "1 better, 1 same, 1 worse; mean -6.7" in beside.summary
    ours, theirs = (classes._result(folder) for folder in tree)
    assert classes.gains(ours, theirs).to_dict() == {"a": 10.0, "c": 0.0, "b": -30.0}
    assert list(classes.gains(ours, theirs).index) == ["a", "c", "b"]


@pytest.mark.parametrize(
    "changes, reason",
    [
        ({"subsample_classes": "new"}, r"classes \(DATASET.SUBSAMPLE_CLASSES\): new"),
        ({"dataset": "Other"}, "data set: Other"),
        ({"weights_sha256": "cd" * 32}, "another backbone"),
        ({"full_config": {"TEST": {"SPLIT": "val"}}}, r"images \(TEST.SPLIT\): val"),
        ({"per_class": {"a": 1.0}}, "class names: a"),
    ],
)
def test_a_zero_shot_run_of_another_part_is_refused(tree, changes, reason):
    run, zero_shot = tree
    write_result(zero_shot, "ZeroshotCLIP", **{"per_class": ZERO_SHOT} | changes)
    with pytest.raises(UserError, match=reason):
        list(classes.draw(Asked([run, zero_shot])))
    with pytest.raises(MissingFileError, match="no zero-shot run with accuracy per class on the same classes"):
        list(classes.draw(Asked([run])))


def test_two_zero_shot_runs_that_differ_are_not_chosen_between(tree):
    run, zero_shot = tree
    second = write_result(zero_shot.with_name("seed2"), "ZeroshotCLIP", ZERO_SHOT)
    list(classes.draw(Asked([run])))  # alike
    write_result(second, "ZeroshotCLIP", ZERO_SHOT | {"a": 61.0})
    with pytest.raises(UserError, match="several zero-shot runs fit"):
        list(classes.draw(Asked([run])))


def test_results_that_are_missing(tree, tmp_path):
    run, zero_shot = tree
    for folders, reason in (([tmp_path], "has no result.json"), ([zero_shot], "all given runs are zero-shot")):
        with pytest.raises(UserError, match=reason):
            list(classes.draw(Asked(folders)))
    write_result(run, "ProMetaR", None)
    with pytest.raises(UserError, match="TEST.PER_CLASS_RESULT True"):
        list(classes.draw(Asked([run])))
    (run / "result.json").write_text('{"schema": 1, "finished": false}')
    with pytest.raises(UserError, match="has not finished"):
        list(classes.draw(Asked([run])))


# --- meta ------------------------------------------------------------------------------------------------------------


def test_the_monitor_s_values_are_those_of_the_log(runs, capsys):
    capsys.readouterr()
    trainer = runs("ProMetaR", **{"OPTIM.MAX_EPOCH": 2, "ADAPT_LR": 0.5, "LR_RATIO": 1.0})
    log = capsys.readouterr().out
    values = meta.read_monitor(Path(trainer.output_dir))
    assert values.index.tolist() == [1, 2]
    cosines = [float(value) for value in re.findall(r"cos\(inner, outer\) (\S+)", log)]
    assert values["cosine_inner_outer"].tolist() == pytest.approx(cosines, abs=1e-4) and len(cosines) == 2
    gammas = re.findall(r"^meta: gamma (\S+) \+- (\S+) (\S+)$", log, re.M)
    assert len(gammas) == 2 * len(trainer.prompts.tensors())
    for epoch, lines in ((1, gammas[: len(gammas) // 2]), (2, gammas[len(gammas) // 2 :])):
        for mean, deviation, name in lines:
            assert values[f"gamma_mean/{name}"][epoch] == pytest.approx(float(mean), abs=1e-6)
            assert values[f"gamma_std/{name}"][epoch] == pytest.approx(float(deviation), rel=0.1)
    assert f"the cosine of inner and outer gradient is {cosines[-1]:+.4f}" in drawn(meta, trainer.output_dir).summary


def test_runs_without_a_monitor_are_named(runs, tmp_path):
    with pytest.raises(UserError, match="TRAINER.PROMETAR.MONITOR True"):
        meta.read_monitor(Path(runs("IVLP").output_dir))
    with pytest.raises(MissingFileError, match="no TensorBoard files"):
        meta.read_monitor(tmp_path)
    (tmp_path / "tensorboard").mkdir()
    (tmp_path / "tensorboard" / "events.out.tfevents.1.x").write_bytes(b"\x05garbage" * 50)
    with pytest.raises(UserError, match="TensorBoard|MONITOR"):
        meta.read_monitor(tmp_path)


# --- features --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["CoOp", "MaPLe", "MultiModalAdapter", "CLIPLoRA", "LinearProbe"])
def test_features_give_the_logits_of_the_test(runs, name):
    """Before: zero-shot CLIP's. After: the trainer's."""
    trainer, zero_shot = runs(name), runs("ZeroshotCLIP")
    run = load_run(Path(trainer.output_dir))
    images = run.test_images()
    before, after = run.features(images)
    loader = [batch for batch in trainer.test_loader]
    assert [image.path for image in images] == [path for batch in loader for path in batch["impath"]]
    assert [image.label for image in images] == torch.cat([batch["label"] for batch in loader]).tolist()
    scale = run.prompts.clip.logit_scale.exp().detach()
    with torch.no_grad():
        for found, model in ((before, zero_shot), (after, trainer)):
            model.set_model_mode("eval")
            expected = torch.cat([model.model_inference(batch["img"]) for batch in loader])
            assert scale * found.images @ found.classes.t() == pytest.approx(expected, abs=2e-4)


def test_cocoop_has_no_class_features_of_its_own(runs):
    run = load_run(Path(runs("CoCoOp").output_dir))
    before, after = run.features(run.test_images()[:3])
    assert after.classes is None and before.classes.shape[0] == len(CLASSNAMES)
    assert torch.equal(before.images, after.images)


def test_the_plane_has_the_largest_variances():
    torch.manual_seed(0)
    rows = centred_rows(torch.randn(50, 8) * torch.tensor([1, 9, 1, 1, 5, 1, 1, 1.0]) + 3)
    plane = principal_plane(rows)
    values, vectors = torch.linalg.eigh(rows.t() @ rows)
    assert plane.shares == pytest.approx((values / values.sum()).flip(0)[:2])
    assert plane(rows).square().sum(dim=0) == pytest.approx(values.flip(0)[:2])
    for axis, vector in zip(plane.axes, vectors.t().flip(0), strict=False):
        assert (axis @ vector).abs().item() == pytest.approx(1) and axis[axis.abs().argmax()] > 0
    axes = torch.linalg.qr(torch.randn(8, 2, dtype=torch.float64)).Q.t()
    flat = principal_plane(rows[:, :2] @ axes)(rows[:, :2] @ axes)  # rows in a plane: nothing is lost
    assert flat @ flat.t() == pytest.approx(rows[:, :2] @ rows[:, :2].t(), abs=1e-9)
    assert principal_plane(torch.zeros(3, 4)).shares.tolist() == [0, 0]


def test_both_panels_share_one_plane_and_centre_their_features(runs):
    run = load_run(Path(runs("IVLP").output_dir))
    before, after = run.features(run.test_images())
    plane, panels = embedding.planar(before, after)
    for (points, words), features in zip(panels, (before, after), strict=True):
        own = features.images.double() - features.images.double().mean(dim=0)
        assert points == pytest.approx(own @ plane.axes.t())
        assert words.mean(dim=0).tolist() == pytest.approx([0, 0], abs=1e-6)


@pytest.mark.parametrize("size, named, total", [(5, 5, 300), (1000, 18, 18 * 55 + 982)])
def test_images_are_spread_over_the_classes(size, named, total):
    images = [Labelled(f"{i}", i % size) for i in range(size * 60)]
    labels = spread(size, 18)
    found = embedding.images_to_project(images, labels)
    assert len(labels) == named and labels[0] == 0 and labels[-1] == size - 1
    assert len(found) == total and {image.label for image in found} == set(range(size))


def test_given_images_have_the_class_of_their_folder(runs, tmp_path):
    run = load_run(Path(runs("IVLP").output_dir))
    folder = tmp_path / CLASSNAMES[1].upper().replace(" ", "_")
    for place in (folder, tmp_path / "other"):
        place.mkdir()
        (place / "x.jpg").write_bytes(next(runs.images.rglob("*.jpg")).read_bytes())
    assert {Path(path).parent.name: label for path, label in run.given_images(tmp_path)} == {
        folder.name: 1,
        "other": UNKNOWN,
    }
    assert "2 images, 1 of a known class" in drawn(embedding, run.folder, images=tmp_path).summary
    (folder / "x.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match="x.jpg"):
        drawn(embedding, run.folder, images=tmp_path)


def test_an_evaluation_shows_its_own_classes_with_the_model_it_tested(runs, tmp_path):
    trainer = runs("IVLP", **{"DATASET.SUBSAMPLE_CLASSES": "base"})
    settings = {"NAME": "EuroSAT", "ROOT": str(runs.data), "SUBSAMPLE_CLASSES": "new", "SOURCE_DOMAINS": []}
    content = {"full_config": {"DATASET": settings}, "model": {"folder": trainer.output_dir, "load_epoch": None}}
    write_result(tmp_path / "new", "IVLP", None, part="test_new", subsample_classes="new", **content)
    run = load_run(tmp_path / "new")
    assert run.classnames == CLASSNAMES[4:] and {image.label for image in run.test_images()} == {0, 1, 2}
    assert load_run(Path(trainer.output_dir)).classnames == CLASSNAMES[:4]
    content["model"]["folder"] = str(tmp_path / "gone")
    write_result(tmp_path / "new", "IVLP", None, part="test_new", subsample_classes="new", **content)
    with pytest.raises(MissingFileError, match="the model that .*new evaluated is not at .*gone"):
        load_run(tmp_path / "new")
    (tmp_path / "gone").mkdir()
    with pytest.raises(MissingFileError, match="gone has no config.yaml: give the folder of a training run"):
        load_run(tmp_path / "new")


def test_data_of_other_classes_or_without_test_images(runs, monkeypatch):
    run = load_run(Path(runs("IVLP").output_dir))
    for names, reason in ((["other"], "has other classes than"), (CLASSNAMES, "has no test images")):
        monkeypatch.setattr(
            trained, "build_dataset", lambda cfg, names=names: SimpleNamespace(classnames=names, test=[])
        )
        with pytest.raises(UserError, match=reason):
            run.test_images()


@pytest.mark.parametrize("kind", [embedding, attention])
def test_trainers_without_features_to_compare(runs, kind, tmp_path):
    with pytest.raises(UserError, match="ZeroshotCLIP, which learns nothing"):
        drawn(kind, runs("ZeroshotCLIP").output_dir)
    with pytest.raises(MissingFileError, match="config.yaml"):
        drawn(kind, tmp_path)


def test_a_trainer_of_another_repository_and_one_that_is_unknown(runs, monkeypatch, tmp_path):
    cfg = runs("IVLP").cfg.clone()
    cfg.defrost()
    cfg.TRAINER.NAME = "Theirs"
    write_record(tmp_path, cfg, CLASSNAMES)
    with pytest.raises(UserError, match="Theirs"):
        load_run(tmp_path)
    monkeypatch.setitem(TRAINER_REGISTRY._obj_map, "Theirs", SimpleTrainer)
    with pytest.raises(UserError, match="a run of Theirs, which is not built on this project's prompts"):
        load_run(tmp_path)


# --- attention -------------------------------------------------------------------------------------------------------


def plain_rollout(state, images, prompts):
    """By the definition, token by token: shares of class token, of patches and of all prompts, with float64 weights."""
    width, layers = state["class_embedding"].shape[0], 3
    patches = F.conv2d(images, state["conv1.weight"], stride=state["conv1.weight"].shape[-1]).flatten(2).transpose(1, 2)
    start = state["class_embedding"].expand(len(images), 1, -1)
    x = torch.cat([start, patches], dim=1) + state["positional_embedding"]
    own = x.shape[1]
    n = len(prompts[0]) if prompts else 0
    if prompts:
        x = torch.cat([x, prompts[0].expand(len(x), -1, -1)], dim=1)

    def norm(name, value):
        return F.layer_norm(value, (width,), state[f"{name}.weight"], state[f"{name}.bias"])

    x = norm("ln_pre", x)
    # parts [B, L, 3]: how much of a row comes from the class token, from patches (each kept apart below), from prompts
    sources = own + 1
    parts = torch.zeros(len(x), x.shape[1], sources, dtype=x.dtype)
    for row in range(x.shape[1]):
        parts[:, row, min(row, own)] = 1
    for layer in range(layers):
        if 0 < layer < len(prompts):
            x = torch.cat([x[:, :own], prompts[layer].expand(len(x), -1, -1)], dim=1)
            parts[:, own:] = 0
            parts[:, own:, own] = 1  # new prompts have seen nothing
        prefix = f"transformer.resblocks.{layer}"
        h = norm(f"{prefix}.ln_1", x)
        qkv = h @ state[f"{prefix}.attn.in_proj_weight"].t() + state[f"{prefix}.attn.in_proj_bias"]
        q, k, v = (t.unflatten(-1, (width // 64, 64)).transpose(1, 2) for t in qkv.chunk(3, dim=-1))
        weights = (q @ k.transpose(-1, -2) / 8).softmax(dim=-1)  # [B, h, L, L]
        mean = weights.mean(dim=1)
        parts = torch.einsum("bij,bjs->bis", 0.5 * mean + 0.5 * torch.eye(own + n, dtype=x.dtype), parts)
        attended = (weights @ v).transpose(1, 2).flatten(2)
        x = x + F.linear(attended, state[f"{prefix}.attn.out_proj.weight"], state[f"{prefix}.attn.out_proj.bias"])
        h = F.linear(norm(f"{prefix}.ln_2", x), state[f"{prefix}.mlp.c_fc.weight"], state[f"{prefix}.mlp.c_fc.bias"])
        x = x + F.linear(quick_gelu(h), state[f"{prefix}.mlp.c_proj.weight"], state[f"{prefix}.mlp.c_proj.bias"])
    return parts[:, 0]


def shares_and_state(run):
    """The rollout of a run's image tower over two images, and the frozen tower's tensors in float64."""
    pixels = next(run.pixels(run.test_images()[:2]))
    shares = attention_shares(run.prompts.clip, lambda images: run.prompts.image_features(run.theta(), images), pixels)
    state = {name: tensor.detach().double() for name, tensor in run.prompts.clip.visual.state_dict().items()}
    return pixels.double(), shares, state


def check(shares, expected):
    """expected [B, 1 + patches + 1]"""
    assert shares.class_token == pytest.approx(expected[:, 0], abs=1e-5)
    assert shares.patches.flatten(1) == pytest.approx(expected[:, 1:-1], abs=1e-5)
    assert shares.prompts == pytest.approx(expected[:, -1], abs=1e-5)
    assert shares.class_token + shares.patches.sum(dim=(1, 2)) + shares.prompts == pytest.approx(
        torch.ones(2), abs=1e-5
    )


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_rollout_of_prompts_is_the_definition(runs, depth):
    trainer = runs("IVLP", PROMPT_DEPTH_VISION=depth)
    run = load_run(Path(trainer.output_dir))
    pixels, shares, state = shares_and_state(run)
    prompts = [prompt.double() for prompt in run.prompts.visual_prompts(run.theta())]
    assert len(prompts) == depth and shares.prompts.min() > 0.01
    check(shares, plain_rollout(state, pixels, prompts))


def test_rollout_of_projected_prompts_and_without_prompts(runs):
    run = load_run(Path(runs("MaPLe").output_dir))
    pixels, shares, state = shares_and_state(run)
    check(shares, plain_rollout(state, pixels, [prompt.double() for prompt in run.prompts.visual_prompts(run.theta())]))
    clip = run.prompts.clip
    unprompted = attention_shares(clip, clip.encode_image, pixels.float())
    assert unprompted.prompts.tolist() == [0, 0]
    check(unprompted, plain_rollout(state, pixels, []))


def test_rollout_of_low_rank_additions_is_that_of_the_sums(runs):
    run = load_run(Path(runs("CLIPLoRA").output_dir))
    with torch.no_grad():
        for tensor in run.prompts.tensors().values():
            tensor.add_(0.05 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel())))
    pixels, shares, state = shares_and_state(run)
    frozen = plain_rollout(state, pixels, [])
    for layer in range(3):
        a, b = (run.theta()[f"lora.visual.{layer}.{name}"].double() for name in "AB")
        added = run.prompts.gamma * torch.cat([b[part] @ a[part] for part in range(3)])
        name = f"transformer.resblocks.{layer}.attn.in_proj_weight"
        state[name] = state[name] + added
    summed = plain_rollout(state, pixels, [])
    check(shares, summed)
    assert (summed - frozen).abs().max() > 1e-3


def test_rollout_of_adapters(runs):
    """They add to the rows between layers, so that attention differs behind them, and take no attention themselves."""
    run = load_run(Path(runs("MultiModalAdapter").output_dir))
    with torch.no_grad():
        for tensor in run.prompts.tensors().values():
            tensor.add_(0.1)
    pixels, shares, state = shares_and_state(run)
    frozen = plain_rollout(state, pixels, [])
    total = shares.class_token + shares.patches.sum(dim=(1, 2))
    assert total == pytest.approx(torch.ones(2), abs=1e-5) and shares.prompts.tolist() == [0, 0]
    assert (shares.class_token - frozen[:, 0]).abs().max() > 1e-4


def test_rollout_by_hand():
    """Two layers, a class token and one patch; the second layer brings a prompt that replaces the first's."""
    one = torch.tensor([[[0.2, 0.5, 0.3], [0.6, 0.4, 0.0]]])  # class token and patch see: class, patch, prompt 1
    two = torch.tensor([[[0.1, 0.2, 0.7]]])  # the class token sees: class, patch, prompt 2
    first_class, first_patch = [0.6, 0.25, 0.15], [0.3, 0.7, 0.0]
    mixed = [0.1 * a + 0.2 * b for a, b in zip(first_class, first_patch, strict=True)]
    expected = [0.5 * (m + c) for m, c in zip(mixed, first_class, strict=True)] + [0.5 * 0.7]
    assert rollout([one, two])[0].tolist() == pytest.approx(expected)


def test_an_image_tower_that_stays_the_same_and_one_without_attention(runs, tmp_path):
    with pytest.raises(UserError, match="CoOp leaves the image tower as it is"):
        drawn(attention, runs("CoOp").output_dir)
    from golden_data import write_backbones
    from tiny_runs import load_tiny_clip

    resnet = load_tiny_clip(write_backbones(tmp_path)["rn"])
    with pytest.raises(UserError, match="choose a run with a ViT backbone"):
        attention_shares(resnet, resnet.encode_image, torch.zeros(1, 3, 64, 64))
    vit = load_tiny_clip(runs.backbone)
    with pytest.raises(UserError, match="0 of 3 layers seen"):
        attention_shares(vit, lambda images: images, torch.zeros(1, 3, 64, 64))


def test_attention_shows_one_image_of_each_class(runs):
    images = [Labelled(f"{i}", i % 20) for i in range(100)]
    assert [image.path for image in attention.images_to_draw(images, True)] == [
        "0",
        "3",
        "5",
        "8",
        "11",
        "14",
        "16",
        "19",
    ]
    assert len(attention.images_to_draw(images, False)) == 8 == len(attention.images_to_draw(images[:8], False))
    assert "7 of 14 images" in drawn(attention, runs("IVLP").output_dir).summary
    pixels = torch.rand(2, 3, 4, 4)
    run = load_run(Path(runs("IVLP").output_dir))
    mean, deviation = (torch.tensor(run.cfg.INPUT[key]).view(3, 1, 1) for key in ("PIXEL_MEAN", "PIXEL_STD"))
    assert run.shown((pixels - mean) / deviation) == pytest.approx(pixels.permute(0, 2, 3, 1), abs=1e-6)


# --- command ---------------------------------------------------------------------------------------------------------


def test_every_file_is_a_kind_and_explained(capsys):
    files = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")
    assert kind_names() == files and {"embedding", "attention", "confusion", "reliability", "classes", "meta"} <= {
        *files
    }
    with pytest.raises(SystemExit, match="0"):
        figures.main(["--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert all(f"{name}: " in words for name in files)


@pytest.mark.parametrize("size", [5, 1000])
@pytest.mark.parametrize("kind", ["confusion", "reliability", "classes"])
def test_files_with_few_and_with_many_classes(predicted, kind, size, capsys):
    folder = predicted(size, 5 * size)
    zero_shot = {f"c{i}": (7.0 * i) % 101 for i in range(size)}
    write_result(folder, "ProMetaR", {name: (value + 3) % 101 for name, value in zero_shot.items()})
    write_result(folder.parent / "ZeroshotCLIP", "ZeroshotCLIP", zero_shot)
    assert experiments_program.main(["figures", str(folder), "--kind", kind]) == 0
    check_files(folder / "figures", kind, capsys)


def check_files(folder, kind, capsys):
    out = capsys.readouterr().out
    contents = [(folder / f"{kind}.{suffix}").read_bytes() for suffix in ("png", "pdf")]
    assert contents[0].startswith(b"\x89PNG") and contents[1].startswith(b"%PDF") and min(map(len, contents)) > 5000
    assert sorted(path.name for path in folder.iterdir()) == [f"{kind}.pdf", f"{kind}.png"]
    assert all(f"written: {folder / kind}.{suffix}" in out for suffix in ("png", "pdf"))
    return contents


@pytest.mark.parametrize("kind, name", [("embedding", "MaPLe"), ("embedding", "CoCoOp"), ("attention", "IVLP")])
def test_files_of_trained_runs(runs, kind, name, tmp_path, capsys):
    folder = runs(name).output_dir
    assert figures.main([folder, "--kind", kind, "--output", str(tmp_path), "--images", str(runs.images)]) == 0
    check_files(tmp_path, kind, capsys)
    (tmp_path / "moved").symlink_to(runs.data)
    figures.main([folder, "--kind", kind, "--output", str(tmp_path / "a"), "--root", str(tmp_path / "moved")])
    check_files(tmp_path / "a", kind, capsys)


def test_the_commands_of_the_page_draw_every_kind_from_one_folder(runs, tmp_path, monkeypatch, capsys):
    page = Path(figures.__file__).parents[2] / "docs" / "using.md"
    commands = re.findall(r"^    python -m experiments (figures .*)$", page.read_text(), re.M)
    assert sorted(command.split("--kind ")[1].split()[0] for command in commands) == kind_names()
    monkeypatch.chdir(tmp_path)
    shutil.copytree(runs("ProMetaR", **{"OPTIM.MAX_EPOCH": 2}).output_dir, "output/try")
    os.symlink(runs.images, "photos")
    np.savez_compressed(f"output/try/{PREDICTIONS_NAME}", **arrays(len(CLASSNAMES)))
    write_result(Path("output/try"), "ProMetaR", OURS)
    write_result(Path("output/zero_shot"), "ZeroshotCLIP", ZERO_SHOT)
    for command in commands:
        assert experiments_program.main(shlex.split(command)) == 0
    drawn_kinds = sorted(path.stem for path in Path("output/try/figures").glob("*.png"))
    assert drawn_kinds == kind_names() and not Path("output/zero_shot/figures").exists()


def test_gamma_of_many_tensors_has_a_colour_bar():
    names = [f"adapter.{i}" for i in range(meta.NAMED + 1)]
    columns = {f"{part}{name}": [0.5, 0.6] for name in names for part in (meta.GAMMA_MEAN, meta.GAMMA_SPREAD)}
    values = pd.DataFrame(columns | {meta.COSINE: [0.0, 0.1]} | {name: [1.0, 2.0] for name in meta.NORMS}, index=[1, 2])
    figure = meta._drawing(Path("run"), values).figure
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert "prompt tensor, of 25 in the checkpoint's order" in labels
    gamma = figure.axes[0]
    assert len(gamma.lines) == 25 and gamma.lines[3].get_ydata().tolist() == [0.5, 0.6]


def test_several_runs_keep_their_figures_apart(predicted, tmp_path):
    folders = [predicted(name=name) for name in ("one", "two")]
    figures.main([*map(str, folders), "--kind", "reliability", "--output", str(tmp_path / "out")])
    written = {str(path.relative_to(tmp_path / "out")): path.read_bytes() for path in tmp_path.rglob("reliability.*")}
    names = [f"{name}/reliability.{suffix}" for name in ("one", "two") for suffix in ("pdf", "png")]
    assert sorted(written) == names
    assert written[names[0]] == written[names[2]] and written[names[1]] == written[names[3]]  # equal data, equal files


@pytest.mark.parametrize(
    "arguments, reason",
    [
        (["RUN", "--kind", "confusion", "--images", "x"], "--images has no effect on --kind confusion"),
        (["RUN", "--kind", "meta", "--root", "x"], "--root has no effect on --kind meta"),
        (["RUN", "--kind", "embedding", "--images", "x", "--root", "x"], "two sources of images"),
        (["RUN/none", "--kind", "meta"], "no such folder: .*none"),
        (["RUN", "RUN/.", "--kind", "meta"], "given twice"),
        (["RUN", "--kind", "confusion", "--output", "RUN/file"], "cannot create the folder"),
    ],
)
def test_arguments_that_do_not_fit(predicted, arguments, reason):
    folder = predicted()
    (folder / "file").write_text("")
    with pytest.raises(UserError, match=reason):
        figures.main([word.replace("RUN", str(folder)) for word in arguments])


def test_an_unknown_kind_names_the_known_ones(capsys):
    with contextlib.suppress(SystemExit):
        figures.main(["run", "--kind", "pie"])
    assert "attention" in capsys.readouterr().err


def test_names_are_shortened_in_the_middle_and_have_no_hidden_characters():
    assert shortened("abc") == "abc" and shortened("a\x1b[31m") == r"a\x1b[31m"
    text = shortened("one very long name of a class at its end", 20)
    assert len(text) == 20 and text.startswith("one very lon") and text.endswith("s end") and "…" in text
    assert spread(3, 8) == [0, 1, 2] and spread(9, 3) == [0, 4, 8] and spread(9, 1) == [0]
    assert drawing.names_by_place([Path("/a/b")]) == [Path(".")]
