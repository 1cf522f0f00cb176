"""Two epochs of ProMetaR from one seed, through the data manager, as they have always been.

Expected values: a recording of our own run (tests/golden/own_run.json, made by tests/helpers/own_run.py), kept so that
nothing moves a seed's run unnoticed. What is drawn must be the same; what is computed may differ by rounding, and
pixels by a JPEG decoder's.
"""

from __future__ import annotations

import json
import random

import own_run
import pytest
import torch
from own_run import RECORDING, SHOTS, WORKERS, run_and_record
from tiny_runs import CLASSNAMES

from dassl.utils import set_random_seed

RECORDED = json.loads(RECORDING.read_text())


@pytest.mark.parametrize("workers", WORKERS)
def test_a_seed_gives_the_recorded_run(tmp_path, workers):
    assert differences(run_and_record(tmp_path, workers), RECORDED[str(workers)]) == set()


def differences(ours, recorded):
    """What of a run is not as it is recorded: "start", "draw", "order", "pixels", "task", "losses"."""
    found = set()
    if not same_start(ours["start"], recorded["start"]):
        found.add("start")
    pairs = list(zip(ours["batches"], recorded["batches"], strict=True))
    assert len(pairs) == 6
    if len(drawn(ours) | drawn(recorded)) > SHOTS * len(CLASSNAMES):
        found.add("draw")
    if any(mine[key] != theirs[key] for mine, theirs in pairs for key in ("epoch", "images", "labels")):
        found.add("order")
    for mine, theirs in pairs:
        pixels, expected = torch.tensor(mine["pixels"]), torch.tensor(theirs["pixels"])
        if (pixels - expected).abs().max() >= 0.1:  # a wrong crop or flip: 1 and more
            found.add("pixels")
        if mine["losses"] != pytest.approx(theirs["losses"], rel=0.02):
            found.add("losses")
        if not same_task(mine["task"], theirs["task"]):
            found.add("task")
    return found


def same_start(mine, theirs):
    return mine.keys() == theirs.keys() and all(
        mine[name] == pytest.approx(values, rel=1e-4, abs=1e-7) for name, values in theirs.items()
    )


def drawn(run):
    """Images of the few-shot draw: those of all batches, of which an epoch leaves two out."""
    return {image for batch in run["batches"] for image in batch["images"]}


def same_task(mine, theirs):
    if mine is None or theirs is None:
        return mine is theirs
    others = [{key: value for key, value in task.items() if key != "lam"} for task in (mine, theirs)]
    return others[0] == others[1] and mine["lam"] == pytest.approx(theirs["lam"], abs=1e-4)


# Each a second run, of something else than what is recorded: what it must show, and what it must not

OTHER_RUNS = {
    "seed": ({"SEED": 2}, 0, {"start", "draw", "order", "pixels", "task", "losses"}, set()),
    "crop": ({"INPUT.TRANSFORMS": ("random_flip", "normalize")}, 0, {"pixels", "losses"}, {"start", "draw"}),
    "no flip": ({"INPUT.TRANSFORMS": ("random_resized_crop", "normalize")}, 0, {"pixels", "losses"}, {"start", "draw"}),
    "rate": ({"OPTIM.LR": 0.25}, 0, {"losses"}, {"start", "draw", "order", "pixels", "task"}),
    "workers": ({}, 2, {"pixels", "losses"}, {"start", "draw"}),
}


@pytest.mark.parametrize("case", OTHER_RUNS)
def test_the_recording_tells_another_run(tmp_path, case):
    changed, workers, expected, untouched = OTHER_RUNS[case]
    found = differences(run_and_record(tmp_path, workers, changed), RECORDED["0"])
    assert expected <= found and not untouched & found, found


def test_the_recording_tells_another_draw_from_the_same_seed(tmp_path, monkeypatch):
    """One number more from Python's generator before the draw; PyTorch's, and so the start, is as it was."""

    def seeded(seed):
        set_random_seed(seed)
        random.random()

    monkeypatch.setattr(own_run, "set_random_seed", seeded)
    found = differences(run_and_record(tmp_path, 0), RECORDED["0"])
    assert {"draw", "order"} <= found and "start" not in found, found
