"""The hours of a plan: its steps and test batches by hand, and what is made of the measured seconds."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path

import pytest

from dassl.utils import UserError
from experiments.plan.settings import Places, PlannedMethod, PlannedSetting, make_plan
from experiments.plan.work import work_of
from tools import benchmark, plan_hours
from tools.plan_hours import Costs, measured_counts

FILE = Path("configs/experiments/paper_base2new.yaml")
PLACES = Places(Path("data"), Path("output"))
SMALL = ["--backbone", "tiny", "--device", "cpu", "--threads", "1", "--repeats", "1", "--eval-batch-size", "2"]


def works(*methods, datasets=()):
    args = argparse.Namespace(plan=FILE, trainers=methods, datasets=datasets)
    return [work_of(run) for run in plan_hours.planned(args)]


def test_the_steps_of_the_paper_s_table():
    """ProMetaR, 3 seeds: 16 images of 1,098 base classes, in batches of 4, 10 epochs."""
    assert sum(work.steps for work in works("prometar")) == 3 * 10 * 16 * 1098 // 4 == 131_760


def test_one_data_set_by_hand():
    """DTD: 47 classes, 24 of them base; 1,692 test images."""
    train, test = works("prometar", datasets=["dtd"])[:2]
    assert (train.classes, train.steps) == (24, 10 * (16 * 24 // 4))
    assert train.test_batches == math.ceil(round(1692 * 24 / 47) / 100)
    assert (test.classes, test.steps, test.test_batches) == (23, 0, math.ceil(round(1692 * 23 / 47) / 100))
    assert works("cocoop", datasets=["dtd"])[0].steps == 10 * 16 * 24  # one image a batch
    assert works("coop", datasets=["eurosat"])[0].steps == 50 * 2  # 80 images, batches of 32, the last one is dropped
    assert {work.steps for work in works("zsclip")} == {0}


def test_what_a_configuration_adds():
    def work(*options, shots=1):
        row = PlannedMethod("coop", options=tuple(options))
        return work_of(make_plan([PlannedSetting("few_shot", ("eurosat",), (shots,))], [row], [1], PLACES)[0])

    assert work().steps == 50  # ten images, less than a batch
    whole = work(("TEST.FINAL_MODEL", "best_val"))
    assert whole.test_batches - work().test_batches == 50 * 1  # an image of each class, after each epoch
    assert work(("TEST.NO_TEST", "True")).test_batches == 0


def test_a_data_set_of_unknown_size_is_refused():
    (run, *_) = make_plan([PlannedSetting("few_shot", ("folder",), (1,))], [PlannedMethod("coop")], [1], PLACES)
    with pytest.raises(UserError, match="the number of images in ImageFolder is not known"):
        work_of(run)


def test_recipes_are_measured_at_few_class_counts():
    assert measured_counts([5, 5]) == [5]
    assert measured_counts([500, 5, 50]) == [5, 50, 500]
    assert measured_counts([5, 19, 24, 50, 51, 98, 199, 500]) == [5, 50, 500]


def test_seconds_in_between_are_interpolated():
    costs = Costs([10, 20], step=[1.0, 3.0], test=[10.0, 30.0])
    (work, *_) = works("prometar", datasets=["oxford_pets"])
    assert work.classes == 19
    assert costs.of(work) == pytest.approx(work.steps * 2.8 + work.test_batches * 28)


@pytest.mark.parametrize("per_gpu", [1, 2])
def test_measured_and_added_up(per_gpu, tmp_path, capsys, monkeypatch):
    report = tmp_path / "hours.json"
    options = ["--plan", str(FILE), "--trainers", "prometar", "zsclip", "--datasets", "eurosat"]
    if per_gpu == 2:
        options = ["--plan", str(FILE), "--trainers", "zsclip", "--datasets", "eurosat"]
    benchmark.main([*options, *SMALL, "--per-gpu", str(per_gpu), "--json", str(report)])
    content = json.loads(report.read_text())
    runs = 3 if per_gpu == 2 else 12
    assert content["total"] == content["rows"]["eurosat"] and content["total"]["runs"] == runs
    seconds = {entry["recipe"].split()[0]: entry for entry in content["measured"]}
    assert all(value > 0 for entry in content["measured"] for value in entry["test batch [s]"])
    zero_shot = seconds["ZeroshotCLIP"]
    assert zero_shot["classes"] == [5, 10] and zero_shot["step [s]"] == [0.0, 0.0]

    def tests_of(entry):  # 4,050 images twice, and all 8,100
        return 82 * entry["test batch [s]"][0] + 81 * entry["test batch [s]"][1]

    expected = tests_of(zero_shot)
    if per_gpu == 1:
        meta = seconds["ProMetaR"]
        expected += 600 * meta["step [s]"][0] + 3 * tests_of(meta)
    assert content["total"]["hours"] == pytest.approx(expected / 3600 / per_gpu)
    printed = capsys.readouterr().out
    assert "total" in printed and f"{per_gpu} at a time" in printed and "Loading CLIP" not in printed


def test_a_number_of_runs_that_makes_no_sense():
    with pytest.raises(UserError, match="--per-gpu should be at least 1, not 0"):
        benchmark.main(["--plan", str(FILE), "--per-gpu", "0", *SMALL])
    with pytest.raises(UserError, match="no trainer nothing is declared"):
        benchmark.main(["--plan", str(FILE), "--trainers", "nothing", *SMALL])
