"""Accuracies and F1 against values worked out by hand."""

from __future__ import annotations

import pytest
import torch

from dassl.config import get_cfg_default
from dassl.engine.anomalies import NonFiniteError, check_logits
from dassl.evaluation import build_evaluator
from dassl.metrics import compute_accuracy, compute_distance_matrix
from dassl.utils import UserError

# Precision and recall: class 0 2/3 and 2/3, class 1 1/2 and 1/2, class 3 1 and 1. So F1 is 2/3, 1/2 and 1, and its mean
# over the three labels that occur 0.7222.
LABELS = torch.tensor([0, 0, 0, 1, 1, 3])
PREDICTED = torch.tensor([0, 0, 1, 1, 0, 3])
NAMES = {0: "cat", 1: "dog", 2: "cow", 3: "ant"}


def evaluator(tmp_path, **switches):
    cfg = get_cfg_default()
    cfg.VERBOSE = False
    cfg.OUTPUT_DIR = str(tmp_path)
    for key, value in switches.items():
        cfg.TEST[key] = value
    return build_evaluator(cfg, lab2cname=NAMES)


def process(judge):
    logits = torch.nn.functional.one_hot(PREDICTED, 4).float()
    judge.process(logits[:4], LABELS[:4])
    judge.process(logits[4:], LABELS[4:])


def test_classification(tmp_path, capsys):
    judge = evaluator(tmp_path)
    for _ in range(2):  # the second time after a reset
        judge.reset()
        process(judge)
        results = judge.evaluate()
        assert list(results)[:3] == ["accuracy", "error_rate", "macro_f1"]
        assert results["accuracy"] == pytest.approx(400 / 6)
        assert results["error_rate"] == pytest.approx(200 / 6)
        assert results["macro_f1"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 1) / 3)
    assert capsys.readouterr().out.splitlines()[:6] == [
        "=> result",
        "* total: 6",
        "* correct: 4",
        "* accuracy: 66.7%",
        "* error: 33.3%",
        "* macro_f1: 72.2%",
    ]


def test_totals_have_thousands_separators(tmp_path, capsys):
    judge = evaluator(tmp_path)
    judge.process(torch.eye(2)[torch.zeros(2000, dtype=torch.long)], torch.zeros(2000, dtype=torch.long))
    judge.evaluate()
    assert "* total: 2,000\n* correct: 2,000\n* accuracy: 100.0%" in capsys.readouterr().out


def test_results_per_class(tmp_path, capsys):
    judge = evaluator(tmp_path, PER_CLASS_RESULT=True)
    process(judge)
    results = judge.evaluate()
    assert results["perclass_accuracy"] == pytest.approx(100 * (2 / 3 + 1 / 2 + 1) / 3)
    assert capsys.readouterr().out.splitlines()[6:11] == [
        "=> per-class result",
        "* class: 0 (cat)\ttotal: 3\tcorrect: 2\tacc: 66.7%",
        "* class: 1 (dog)\ttotal: 2\tcorrect: 1\tacc: 50.0%",
        "* class: 3 (ant)\ttotal: 1\tcorrect: 1\tacc: 100.0%",
        "* average: 72.2%",
    ]


def test_results_of_two_classes_with_one_name(tmp_path):
    cfg = get_cfg_default()
    cfg.OUTPUT_DIR, cfg.TEST.PER_CLASS_RESULT = str(tmp_path), True
    judge = build_evaluator(cfg, lab2cname={0: "crane", 1: "crane", 2: "tea"})
    judge.process(torch.eye(3), torch.tensor([0, 2, 2]))
    judge.evaluate()
    assert judge.per_class == {"crane (label 0)": 100.0, "tea": 50.0}


def test_confusion_matrix(tmp_path):
    judge = evaluator(tmp_path, COMPUTE_CMAT=True)
    process(judge)
    judge.evaluate()
    expected = torch.tensor([[2 / 3, 1 / 3, 0], [1 / 2, 1 / 2, 0], [0, 0, 1]], dtype=torch.float64)
    assert torch.allclose(torch.load(tmp_path / "cmat.pt", weights_only=True), expected)


def test_misuse_is_told(tmp_path):
    with pytest.raises(ValueError, match="no batch"):
        evaluator(tmp_path).evaluate()
    cfg = get_cfg_default()
    cfg.TEST.PER_CLASS_RESULT = True
    with pytest.raises(ValueError, match="class names"):
        build_evaluator(cfg)
    cfg.TEST.EVALUATOR = "Classificaton"
    with pytest.raises(UserError, match='did you mean "Classification"'):
        build_evaluator(cfg)


def test_compute_accuracy():
    scores = torch.tensor([[0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5], [0.2, 0.5, 0.3]])
    labels = torch.tensor([1, 1, 2, 0])
    top1, top2 = compute_accuracy((scores, None), labels, topk=(1, 2))
    assert (top1.item(), top2.item()) == (50.0, 75.0)
    assert compute_accuracy(scores, labels)[0].item() == 50.0


def test_distances():
    a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 1.0], [3.0, 0.0], [1.0, 1.0]])
    assert torch.equal(compute_distance_matrix(a, b), torch.tensor([[2.0, 4.0, 1.0], [1.0, 13.0, 2.0]]))
    half = 1 - 0.5**0.5
    assert torch.allclose(compute_distance_matrix(a, b, "cosine"), torch.tensor([[1.0, 0.0, half], [0.0, 1.0, half]]))
    with pytest.raises(ValueError, match="manhattan"):
        compute_distance_matrix(a, b, "manhattan")
    with pytest.raises(ValueError, match="expected"):
        compute_distance_matrix(a, b[:, :1])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_never_become_an_accuracy(tmp_path, value):
    judge = evaluator(tmp_path)
    with pytest.raises(UserError, match="NaN or infinite"):
        judge.process(torch.tensor([[0.0, value]]), torch.tensor([0]))


def test_logits_that_are_not_finite_name_image_and_tensor():
    model = torch.nn.Linear(2, 2)
    check_logits(torch.zeros(2, 2), ["a.jpg", "b.jpg"], {"head": model})
    with torch.no_grad():
        model.bias[1] = float("nan")
    with pytest.raises(NonFiniteError) as stopped:
        check_logits(torch.tensor([[0.0, 1.0], [float("nan"), 1.0]]), ["a.jpg", "b.jpg"], {"head": model})
    message = str(stopped.value)
    assert "1 of 2 images" in message and "b.jpg" in message and "a.jpg" not in message
    assert "head/bias (1 of 2 values)" in message


def test_many_bad_logits_fit_a_screen():
    with pytest.raises(NonFiniteError) as stopped:
        check_logits(torch.full((100, 3), float("nan")), [f"{n}.jpg" for n in range(100)])
    assert "100 of 100 images" in str(stopped.value) and "and 98 more" in str(stopped.value)
    assert len(str(stopped.value)) < 400
