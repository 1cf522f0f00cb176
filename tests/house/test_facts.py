"""What a reader or a trainer states about itself is not said of classes that derive from it."""

from __future__ import annotations

from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from datasets.acquire.names import downloadable, expected_counts, readers_of_papers
from datasets.eurosat import EuroSAT
from experiments.report.papers import RECIPES
from trainers.coop import CoOp
from trainers.core.facts import fact, learns
from trainers.core.families import families
from trainers.zsclip import ZeroshotCLIP


def test_a_derived_trainer_has_no_rows_of_its_base(monkeypatch):
    monkeypatch.setitem(TRAINER_REGISTRY._obj_map, "Derived", type("Derived", (CoOp,), {}))
    assert fact("CoOp", "published", ()) and fact("CoOp", "recipes", {})
    assert fact("Derived", "published", ()) == () and fact("Derived", "recipes", {}) == {}
    assert "CoOp" in families() and "Derived" not in families()


def test_a_derived_reader_does_not_take_the_place_of_its_base(monkeypatch):
    monkeypatch.setitem(DATASET_REGISTRY._obj_map, "Derived", type("Derived", (EuroSAT,), {}))
    assert readers_of_papers()["EuroSAT"] == "EuroSAT" and "Derived" not in readers_of_papers()
    assert "EuroSAT" in downloadable() and "Derived" not in downloadable()
    assert expected_counts("Derived") is None


def test_the_published_zero_shot_figures_are_not_those_of_the_ensemble():
    """CLIP's rows are of one template a data set; ZeroshotCLIP2 averages several."""
    assert {trainer for method, trainer, *_ in RECIPES if method == "CLIP"} == {"ZeroshotCLIP"}


def test_zero_shot_methods_are_told_by_their_recipes_not_by_their_names(monkeypatch):
    derived = type("MyPrompts", (ZeroshotCLIP,), {})
    monkeypatch.setitem(TRAINER_REGISTRY._obj_map, "MyPrompts", derived)
    assert not learns("MyPrompts") and not learns("ZeroshotCLIP2")
    assert learns("CoOp") and learns("ATrainerOfAnotherProject")
