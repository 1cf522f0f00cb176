"""Two epochs of ProMetaR from one seed, through the data manager, as they have always been.

Expected values: a recording of our own run (tests/golden/own_run.json, made by tests/helpers/own_run.py), kept so that
nothing moves a seed's run unnoticed. What is drawn must be the same; what is computed may differ by rounding, and
pixels by a JPEG decoder's.
"""

from __future__ import annotations

import json

import pytest
import torch
from own_run import RECORDING, WORKERS, run_and_record

RECORDED = json.loads(RECORDING.read_text())


@pytest.mark.parametrize("workers", WORKERS)
def test_a_seed_gives_the_recorded_run(tmp_path, workers):
    ours, recorded = run_and_record(tmp_path, workers), RECORDED[str(workers)]
    assert ours["start"].keys() == recorded["start"].keys()
    for name, values in recorded["start"].items():
        assert ours["start"][name] == pytest.approx(values, rel=1e-4, abs=1e-7), name
    assert len(ours["batches"]) == len(recorded["batches"]) == 6
    for mine, theirs in zip(ours["batches"], recorded["batches"], strict=True):
        assert [mine[key] for key in ("epoch", "images", "labels")] == [
            theirs[key] for key in ("epoch", "images", "labels")
        ]
        pixels, expected = torch.tensor(mine["pixels"]), torch.tensor(theirs["pixels"])
        assert (pixels - expected).abs().max() < 0.1  # a wrong crop or flip: 1 and more
        assert mine["losses"] == pytest.approx(theirs["losses"], rel=0.02)
        same_task(mine["task"], theirs["task"])


def same_task(mine, theirs):
    assert (mine is None) == (theirs is None)
    if theirs is not None:
        assert mine["lam"] == pytest.approx(theirs["lam"], abs=1e-4)
        assert {k: v for k, v in mine.items() if k != "lam"} == {k: v for k, v in theirs.items() if k != "lam"}


def test_what_the_recording_tells_apart():
    """Workers draw the augmentation themselves: all later draws differ then, but not the start and the first order."""
    none, two = (RECORDED[str(workers)]["batches"] for workers in WORKERS)
    assert RECORDED["0"]["start"] == RECORDED["2"]["start"]
    orders = [[batch["images"] for batch in batches] for batches in (none, two)]
    assert orders[0][:3] == orders[1][:3] and all(order[:3] != order[3:] for order in orders)
    for mine, theirs in zip(none, two, strict=True):
        assert (torch.tensor(mine["pixels"]) - torch.tensor(theirs["pixels"])).abs().max() > 0.5
    assert sum(batch["task"] is not None for batch in none) >= 4
