"""The time that a plan still needs; expected seconds by hand from the published numbers of images."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.launch.estimate import Estimate, duration, seconds_of_result
from experiments.plan.settings import Places, PlannedMethod, PlannedSetting, make_plan
from experiments.plan.work import work_of

PLACES = Places(Path("data"), Path("output"))


def plan(*methods, datasets=("eurosat",), seeds=(1, 2, 3)):
    return make_plan(
        [PlannedSetting("base2new", datasets)], [PlannedMethod(name) for name in methods], list(seeds), PLACES
    )


def test_runs_of_a_kind_on_one_data_set_need_the_same():
    runs = [run for run in plan("coop") if run.trains]
    estimate = Estimate()
    estimate.add(runs[0], 100.0)
    estimate.add(runs[1], 140.0)
    assert estimate.seconds(runs[2]) == pytest.approx(120)
    assert estimate.left(runs[2:], {}, workers=1) == "about 2 min left"
    assert estimate.left(runs[2:], {runs[1]: 30.0}, workers=2) == "about 2 min left"  # (120 + 120 - 30) / 2 = 105
    assert estimate.left([], {runs[2]: 500.0}, workers=1) == ""
    assert estimate.left([], {}, workers=1) == ""


def test_other_data_sets_count_by_their_images():
    """A training image costs three test images; EuroSAT has 5 base classes, DTD 24."""
    eurosat, dtd = (
        next(run for run in plan("prometar", datasets=(name,)) if run.trains) for name in ("eurosat", "dtd")
    )
    sizes = []
    for run in (eurosat, dtd):
        work = work_of(run)
        sizes.append(3 * work.steps * work.batch_size + work.test_batches * work.test_batch_size)
    assert sizes[1] == 3 * 10 * 16 * 24 + 900  # 864 test images of base classes in nine batches
    estimate = Estimate()
    estimate.add(eurosat, 60.0)
    assert estimate.seconds(dtd) == pytest.approx(60 * sizes[1] / sizes[0])
    estimate.add(dtd, 7.0)  # its own measure says more
    assert estimate.seconds(dtd) == pytest.approx(7)


def test_other_methods_say_nothing():
    coop, zero_shot = (plan(name)[0] for name in ("coop", "zsclip"))
    estimate = Estimate()
    assert "not known before" in estimate.left([coop, zero_shot], {}, 1) and "2 runs" in estimate.left(
        [coop, coop], {}, 1
    )
    estimate.add(zero_shot, 8.0)
    assert estimate.seconds(coop) is None
    assert estimate.left([coop, zero_shot], {}, 1) == "about 8 s left, without 1 run of kinds not seen yet"


def test_generated_data_have_a_size_and_own_data_count_as_their_like():
    (generated, *_) = plan("coop", datasets=("shapes",))
    assert work_of(generated).steps > 0
    one, other = make_plan([PlannedSetting("few_shot", ("folder",), (1,))], [PlannedMethod("coop")], [1, 2], PLACES)
    (more,) = make_plan([PlannedSetting("few_shot", ("folder",), (16,))], [PlannedMethod("coop")], [1], PLACES)
    estimate = Estimate()
    estimate.add(one, 10.0)
    assert estimate.seconds(other) == 10 and estimate.seconds(more) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (5340, "89 min"), (12_000, "3 h 20 min"), (90_000, "25 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_seconds_of_a_result():
    assert seconds_of_result({"train_seconds": 3.5, "test_seconds": 1}) == 4.5
    assert seconds_of_result({"train_seconds": None, "test_seconds": 2.0}) == 2
    assert seconds_of_result({}) == 0
