"""Calibration, likelihood, confusion, joint measures and predictions, against their definitions in plain loops."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_auroc, multiclass_calibration_error

from dassl.config import get_cfg_default
from dassl.evaluation import Classification, write_predictions
from dassl.metrics import adaptive_calibration_error, auroc, expected_calibration_error, openworld_auc
from dassl.utils import UserError

CLASSES, IMAGES = 7, 203
NAMES = {label: f"class {label}" for label in range(CLASSES)}


def drawn(seed: int = 0, classes: int = CLASSES) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a fair classifier in float32, and labels of which the last class has none."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes - 1, (IMAGES,), generator=generator)
    logits = 2 * torch.randn(IMAGES, classes, generator=generator)
    logits[torch.arange(IMAGES), labels] += 2
    return logits, labels


def judged(logits, labels, tmp_path, base=None, names=NAMES, batch: int = 20, **switches) -> Classification:
    cfg = get_cfg_default()
    cfg.OUTPUT_DIR = str(tmp_path)
    for key, value in switches.items():
        cfg.TEST[key] = value
    judge = Classification(cfg, lab2cname=names)
    if base is not None:
        judge.evaluate_jointly(base)
    for some, few in zip(logits.split(batch), labels.split(batch), strict=True):
        judge.process(some, few)
    judge.evaluate()
    return judge


def by_hand(logits, labels) -> dict[str, float]:
    """The measures in Python's float64, image by image."""
    nll = brier = 0.0
    right: Counter[int] = Counter()
    for scores, label in zip(logits.tolist(), labels.tolist(), strict=True):
        total = math.fsum(math.exp(score) for score in scores)
        probabilities = [math.exp(score) / total for score in scores]
        nll -= math.log(probabilities[label])
        brier += sum((p - (c == label)) ** 2 for c, p in enumerate(probabilities))
        right[label] += max(range(len(scores)), key=scores.__getitem__) == label
    total = Counter(labels.tolist())
    accuracies = [right[label] / total[label] for label in total]
    return {
        "nll": nll / len(labels),
        "brier": brier / len(labels),
        "macro_accuracy": 100 * sum(accuracies) / len(accuracies),
    }


def binned_error(bins) -> float:
    """Of bins of pairs (confidence, correct)."""
    images = sum(len(members) for members in bins)
    return sum(abs(sum(c for _, c in members) - sum(p for p, _ in members)) for members in bins) / images


def ece_by_hand(confidence, correct) -> float:
    pairs = list(zip(confidence, correct, strict=True))
    edges = [m / 15 for m in range(16)]
    return binned_error([[p for p in pairs if low < p[0] <= high] for low, high in itertools.pairwise(edges)])


def test_measures_are_those_of_their_definitions(tmp_path):
    logits, labels = drawn()
    results = judged(logits, labels, tmp_path).results
    for name, value in by_hand(logits, labels).items():
        assert results[name] == pytest.approx(value, rel=1e-12), name
    probabilities = logits.double().softmax(dim=1)
    confidence, predicted = probabilities.max(dim=1)
    expected = ece_by_hand(confidence.tolist(), (predicted == labels).tolist())
    assert results["ece"] == pytest.approx(100 * expected, rel=1e-10) and expected > 0.01
    of_torchmetrics = multiclass_calibration_error(probabilities, labels, CLASSES, n_bins=15, norm="l1").item()
    assert results["ece"] == pytest.approx(100 * of_torchmetrics, rel=1e-6)  # float32 there


def test_the_size_of_a_batch_makes_no_difference(tmp_path):
    logits, labels = drawn()
    some, other = (judged(logits, labels, tmp_path, base=[0, 1, 2, 3], batch=batch) for batch in (1, 203))
    assert some.results == pytest.approx(other.results, rel=1e-13)
    assert (some.per_class, some.confusion_pairs) == (other.per_class, other.confusion_pairs)
    assert some.joint == pytest.approx(other.joint, rel=1e-13)


def test_bins_have_their_upper_end_and_certainty_is_in_the_last_one():
    """(0.8, 0.8667] has 0.85, (0.9333, 1] has 0.95 and 1: 1/4 |0 - 0.85| + 3/4 |2/3 - (0.95 + 1 + 1) / 3|."""
    confidence, correct = torch.tensor([0.85, 0.95, 1.0, 1.0]), torch.tensor([False, True, False, True])
    expected = 0.85 / 4 + abs(2 - 2.95) / 4
    assert expected_calibration_error(confidence, correct) == pytest.approx(expected, abs=1e-7)
    # (1/2, 1] and (0, 1/2]: the half belongs to the lower one; two bins of opposite errors do not cancel
    half = expected_calibration_error(torch.tensor([0.5, 0.75]), torch.tensor([True, False]), bins=2)
    assert half == pytest.approx(0.5 / 2 + 0.75 / 2)


def test_adaptive_bins_have_equal_numbers_of_images():
    generator = torch.Generator().manual_seed(3)
    confidence = torch.rand(47, generator=generator, dtype=torch.float64)
    correct = torch.rand(47, generator=generator) < 0.5
    pairs = sorted(zip(confidence.tolist(), correct.tolist(), strict=True))
    sizes = [4] * 2 + [3] * 13
    ends = list(itertools.accumulate(sizes))
    expected = binned_error([pairs[end - size : end] for size, end in zip(sizes, ends, strict=True)])
    assert adaptive_calibration_error(confidence, correct) == pytest.approx(expected, rel=1e-12)


def test_adaptive_error_does_not_depend_on_the_order_of_images():
    confidence = torch.tensor([0.6] * 20 + [0.9] * 15)
    correct = torch.arange(35) % 3 == 0
    shuffled = torch.randperm(35, generator=torch.Generator().manual_seed(0))
    once, again = (
        adaptive_calibration_error(confidence, correct),
        adaptive_calibration_error(confidence[shuffled], correct[shuffled]),
    )
    assert once == pytest.approx(again, rel=1e-12)
    assert adaptive_calibration_error(torch.tensor([0.7]), torch.tensor([True])) == pytest.approx(0.3)  # empty bins


def test_confusion_pairs_and_classes(tmp_path, capsys):
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])
    predicted = torch.tensor([1, 1, 0, 0, 1, 3, 3, 3])
    logits = 5 * torch.nn.functional.one_hot(predicted, 4).float()
    judge = judged(logits, labels, tmp_path, names={0: "crane", 1: "crane", 2: "tea\x1b", 3: "oak"})
    assert judge.confusion_pairs == [
        {"true": "crane (label 0)", "predicted": "crane (label 1)", "count": 2},
        {"true": "tea\x1b", "predicted": "oak", "count": 2},
        {"true": "crane (label 1)", "predicted": "crane (label 0)", "count": 1},
    ]
    assert judge.per_class == pytest.approx(
        {"crane (label 0)": 100 / 3, "crane (label 1)": 50.0, "tea\x1b": 0.0, "oak": 100.0}
    )
    assert r"tea\x1b as oak (2)" in capsys.readouterr().out


def test_at_most_twenty_confusion_pairs_are_kept(tmp_path):
    labels = torch.arange(60) % 30
    logits = torch.nn.functional.one_hot((labels + 1) % 30, 30).float() * 9
    judge = judged(logits, labels, tmp_path, names={label: str(label) for label in range(30)})
    assert [pair["true"] for pair in judge.confusion_pairs] == [str(label) for label in range(20)]


def test_measures_are_a_line_each_after_upstreams(tmp_path, capsys):
    logits, labels = drawn()
    judged(logits, labels, tmp_path, base=[0, 1, 2, 3])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "=> result"
    names = [line.partition(":")[0].removeprefix("* ") for line in lines[1:]]
    upstream = ["total", "correct", "accuracy", "error", "macro_f1"]
    ours = ["macro_accuracy", "nll", "ece", "adaptive_ece", "brier", "most confused"]
    joint = ["base_accuracy", "new_accuracy", "harmonic_mean", "auroc", "openworld_auc"]
    assert names == upstream + ours + joint
    judged(logits, labels, tmp_path, PER_CLASS_RESULT=True)
    lines = capsys.readouterr().out.splitlines()
    assert lines[6] == "=> per-class result" and lines[14].startswith("* macro_accuracy")


# Base and new classes in one label space


def joint_by_hand(logits, labels, base) -> dict[str, float]:
    """Every pair of a base and a new image, by the definitions."""
    groups: dict[bool, list[tuple[float, bool, bool]]] = {True: [], False: []}
    for scores, label in zip(logits.tolist(), labels.tolist(), strict=True):
        best = max(range(len(scores)), key=scores.__getitem__)
        own = [c for c in range(len(scores)) if (c in base) == (label in base)]
        best_of_own = max(own, key=scores.__getitem__)
        total = math.fsum(map(math.exp, scores))
        as_base = max(math.exp(scores[c]) for c in base) / total
        groups[label in base].append((as_base, best == label, best_of_own == label))
    accuracy = {side: sum(right for _, right, _ in rows) / len(rows) for side, rows in groups.items()}
    pairs = list(itertools.product(groups[True], groups[False]))
    ranked = sum((b[0] > n[0]) + (b[0] == n[0]) / 2 for b, n in pairs) / len(pairs)
    openworld = sum(b[0] > n[0] and b[2] and n[2] for b, n in pairs) / len(pairs)
    mean = 2 * accuracy[True] * accuracy[False] / (accuracy[True] + accuracy[False])
    values = (accuracy[True], accuracy[False], mean, ranked, openworld)
    names = ("base_accuracy", "new_accuracy", "harmonic_mean", "auroc", "openworld_auc")
    return {name: 100 * value for name, value in zip(names, values, strict=True)}


@pytest.mark.parametrize("seed", [0, 1])
def test_joint_measures_are_those_of_their_definitions(tmp_path, seed):
    logits, labels = drawn(seed)
    found, expected = judged(logits, labels, tmp_path, base=[0, 1, 2, 3]).joint, joint_by_hand(logits, labels, range(4))
    assert found == pytest.approx(expected, rel=1e-12)
    assert 10 < found["openworld_auc"] < found["auroc"] - 20 < 80  # far from trivial
    is_base = labels < 4
    assert found["auroc"] / 100 == pytest.approx(
        binary_auroc(logits.double().softmax(dim=1)[:, :4].amax(dim=1), is_base.long()).item(), abs=1e-6
    )


def test_pairs_by_hand():
    """Known 3, 2, 2 and new 1, 2: of six pairs four are in order and two equal; right in both: (3, 1), (2, 1)."""
    known, new = torch.tensor([3.0, 2.0, 2.0]), torch.tensor([1.0, 2.0])
    assert auroc(known, new) == 5 / 6
    right = torch.tensor([True, True, False]), torch.tensor([True, False])
    assert openworld_auc(known, new, *right) == 2 / 6
    assert openworld_auc(known, new, torch.ones(3), torch.ones(2)) == 4 / 6  # an equal score is not a higher one
    assert openworld_auc(known, new, torch.zeros(3), torch.ones(2)) == 0


def test_a_joint_evaluation_needs_both_groups(tmp_path):
    logits, labels = drawn()
    with pytest.raises(UserError, match="203 of 203 are base"):
        judged(logits, labels, tmp_path, base=range(CLASSES))
    with pytest.raises(UserError, match="0 of 203 are base"):
        judged(logits, labels, tmp_path, base=[CLASSES - 1])


# Scores of unusual kinds


def test_half_precision_scores_with_equal_values_keep_their_prediction(tmp_path):
    """`topk` may order equal scores otherwise than `argmax`, by which the accuracy is counted."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randint(3, (300, 40), generator=generator).half()
    labels = torch.randint(40, (300,), generator=generator)
    judge = judged(logits, labels, tmp_path, names=None)
    assert torch.equal(judge.outcomes.predicted, logits.argmax(dim=1))
    assert judge.results["accuracy"] == pytest.approx(100 * (logits.argmax(dim=1) == labels).double().mean().item())
    assert all(len(set(row)) == 5 for row in judge.outcomes.top.tolist())


def test_probabilities_are_taken_as_they_are(tmp_path, capsys):
    logits, labels = drawn()
    of_logits = judged(logits, labels, tmp_path, base=[0, 1])
    assert "probabilities" not in capsys.readouterr().out
    of_probabilities = judged(logits.softmax(dim=1), labels, tmp_path, base=[0, 1])
    assert "returns probabilities" in capsys.readouterr().out
    assert of_probabilities.results == pytest.approx(of_logits.results, rel=1e-5)
    assert of_probabilities.joint == pytest.approx(of_logits.joint, rel=1e-5)
    certain = judged(torch.eye(3), torch.tensor([0, 1, 0]), tmp_path, names=None)
    assert math.isfinite(certain.results["nll"]) and certain.results["brier"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_that_is_not_a_class_is_refused(tmp_path, label):
    with pytest.raises(UserError, match="the model has 7 classes"):
        judged(torch.zeros(2, CLASSES), torch.tensor([0, label]), tmp_path)


def resident_memory() -> int:
    """Bytes of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads memory from /proc")
def test_memory_does_not_grow_with_the_classes(tmp_path):
    """50,000 images of 1,000 classes: their logits take 200 MB, what is kept 6."""
    judge = Classification(get_cfg_default(), lab2cname={label: str(label) for label in range(1000)})
    judge.evaluate_jointly(range(500))
    logits, labels = torch.randn(100, 1000), torch.randint(1000, (100,))
    for batch in range(500):
        if batch == 50:
            before = resident_memory()
        judge.process(logits, labels)
    assert resident_memory() - before < 60e6
    judge.evaluate()
    assert sum(tensor.nbytes for tensor in judge.outcomes) < 7e6


# predictions.npz


def test_predictions_are_plain_arrays(tmp_path):
    logits, labels = drawn()
    outcomes = judged(logits, labels, tmp_path).outcomes
    images = [f"eurosat/a {n}.jpg" for n in range(IMAGES - 1)] + ["eurosat/\udcff.jpg"]  # a name that is not UTF-8
    path = tmp_path / "predictions.npz"
    digest = write_predictions(path, outcomes, images, list(NAMES.values()), "test_new")
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file}
    assert arrays["images"].tolist() == images and arrays["classnames"].tolist() == list(NAMES.values())
    assert str(arrays["part"]) == "test_new"
    kinds = {name: str(array.dtype) for name, array in arrays.items() if array.dtype.kind != "U"}
    assert kinds == {"labels": "int32", "top5": "int32", "scores": "float16", "label_scores": "float16"}
    probabilities = logits.double().softmax(dim=1)
    top = probabilities.topk(5, dim=1)
    assert arrays["labels"].tolist() == labels.tolist() and arrays["top5"].tolist() == top.indices.tolist()
    assert arrays["scores"].tolist() == top.values.numpy().astype(np.float16).tolist()
    expected = probabilities[torch.arange(IMAGES), labels].numpy().astype(np.float16)
    assert arrays["label_scores"].tolist() == expected.tolist()
    assert write_predictions(path, outcomes, images, list(NAMES.values()), "test_new") == digest
    with pytest.raises(ValueError, match="1 paths of 203"):
        write_predictions(path, outcomes, images[:1], list(NAMES.values()), "test_new")


def test_predictions_of_three_classes_have_three_of_them(tmp_path):
    outcomes = judged(*drawn(classes=3), tmp_path, names=None).outcomes
    assert outcomes.top.shape == outcomes.scores.shape == (IMAGES, 3)
    assert outcomes.scores.sum(dim=1).tolist() == pytest.approx([1.0] * IMAGES)
