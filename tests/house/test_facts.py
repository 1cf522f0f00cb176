"""What a reader or a trainer states about itself is not said of classes that derive from it."""

from __future__ import annotations

import ast
import re
from collections.abc import Collection

from import_graph import modules, room

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


def names_of_rooms() -> dict[str, str]:
    """Names of methods (trainers, config nodes, recipes) and of readers -> their room; without stand-ins."""
    found = {}
    for registry, home in ((TRAINER_REGISTRY, "trainers"), (DATASET_REGISTRY, "datasets")):
        for name in registry.registered_names():
            kind = registry.get(name)
            if kind.__module__.startswith(f"{home}.") and kind.__module__ != "datasets.shapes":
                own = {name, getattr(kind, "config_node", ""), getattr(kind, "paper_name", "")} - {""}
                found |= dict.fromkeys(own | registry.stated(name, "recipes", {}).keys(), home)
    return found


def names_in(tree: ast.AST, known: Collection[str]) -> set[str]:
    """Which of the known names are strings in the code, alone or as the node of a config key."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
    ]
    return {re.sub(r"^TRAINER\.(\w+)\..*", r"\1", text) for text in strings} & set(known)


def test_no_file_lists_the_methods_or_readers_of_another_room():
    """They are found, so that adding one touches no list. One or two may be named: an example, an exception."""
    known, allowed = names_of_rooms(), {"tools.gpu_parts"}  # which states what it measures
    assert len(known) > 50
    for module, path in modules().items():
        others = {name for name, of_room in known.items() if of_room != room(module)}
        listed = names_in(ast.parse(path.read_text(encoding="utf-8")), others)
        assert len(listed) < 3 or module in allowed, (module, listed)
    assert names_in(ast.parse('KEYS = {"CoOp": "TRAINER.COOP.PREC"}'), known) == {"CoOp", "COOP"}
