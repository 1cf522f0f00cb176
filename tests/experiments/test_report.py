"""The report: statistics, what is missing or mixed, published figures, and every format.

Inputs are result.json files made here to the layout that runs write; expected numbers are computed by hand or by the
formulas in the tests.
"""

from __future__ import annotations

import csv
import itertools
import json
import math
import os
import re
import runpy
import shutil
import statistics
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import browser
import pytest
from score_tables import score_tables

from dassl.utils import UserError, printable_lines
from dassl.utils.locks import BusyError, lock
from experiments import report
from experiments.report.figures import PRINT, Palette
from experiments.report.own_data import with_own_names
from experiments.report.papers import ELEVEN, FIGURES, RECIPES, VARIANTS, published_figures
from experiments.report.recipes import Recipe
from experiments.report.runs import find_runs

ROOT = FIGURES.parent.parent
KEPT = {"OPTIM": {"LR": 0.0025, "MAX_EPOCH": 10}}  # as in the config file
PROMETAR = {"trainer": "ProMetaR", "config": "vit_b16_c2_ep10_batch4_4+4ctx", "full_config": KEPT}
CURVE = [{"epoch": epoch, "loss": 1.0 / epoch, "acc": 50.0 + epoch, "lr": 0.002} for epoch in (1, 2, 3)]
NASTY = "<script>alert('$x_1$ | & 50%')</script>"


class Output:
    """An output folder to which results are added."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = itertools.count()

    def add(self, setting: str, part: str, dataset: str, seed: int, accuracy: float, **changes) -> Path:
        trained = part in ("train_base", "source", "all") and not changes.get("trainer", "").startswith("Zeroshot")
        result = {
            "schema": 1,
            "finished": True,
            "setting": setting,
            "part": part,
            "trainer": "CoOp",
            "config": "vit_shapes",
            "dataset": dataset,
            "dataset_config": dataset.lower(),
            "subsample_classes": {"train_base": "base", "test_new": "new"}.get(part, "all"),
            "shots": 16,
            "seed": seed,
            "classes": 30,
            "backbone": "ViT-Shapes",
            "results": {"accuracy": accuracy, "error_rate": 100 - accuracy, "macro_f1": accuracy},
            "per_class": None,
            "history": CURVE if trained else [],
            "train_seconds": 12.5 if trained else None,
            "test_seconds": 1.5,
            "peak_memory_bytes": 3 * 2**20,
            "device": "cpu",
            "few_shot_sha256": f"{dataset}{seed}" if trained else None,
            "weights_sha256": "ab" * 32,
            "full_config": {"SEED": seed, "OUTPUT_DIR": str(seed)},
            "versions": {"python": "3.11.9", "torch": "2.11.0", "torchvision": "0.26", "project": "1.0.0"},
            "git_commit": "a84f3c1d9e",
            "git_dirty": False,
            "date": "2026-01-02T03:04:05Z",
        } | changes
        run = self.folder / f"run{next(self.count)}"
        run.mkdir(parents=True)
        (run / "result.json").write_text(json.dumps(result))
        return run / "result.json"

    def pair(self, dataset: str, seed: int, base: float, new: float, **changes) -> None:
        self.add("base2new", "train_base", dataset, seed, base, **changes)
        self.add("base2new", "test_new", dataset, seed, new, **changes)

    def tables(self):
        runs = find_runs(self.folder).runs
        return score_tables(runs)


@pytest.fixture
def output(tmp_path):
    return Output(tmp_path)


def scores(table, block, row=0):
    """Figures of a row by column."""
    (found,) = [each for each in table.blocks if each.name == block]
    recipe = list(found.rows)[row]
    return dict(zip(table.columns, found.rows[recipe], strict=True))


def harmonic(a, b):
    return 2 * a * b / (a + b)


def test_base_to_new_by_hand(output):
    base, new = {"A": (80.0, 84.0), "B": (60.0, 70.0)}, {"A": (50.0, 54.0), "B": (30.0, 20.0)}
    for name in base:
        for seed in (1, 2):
            output.pair(name, seed, base[name][seed - 1], new[name][seed - 1])
    (table,) = output.tables()
    row = scores(table, "A")
    assert (row["base"].mean, row["new"].mean) == (82.0, 52.0)
    assert row["base"].deviation == pytest.approx(8**0.5)  # (2**2 + 2**2) / (2 - 1)
    assert row["H"].mean == pytest.approx(harmonic(82, 52))
    by_seed = [harmonic(80, 50), harmonic(84, 54)]
    assert row["H"].deviation == pytest.approx(statistics.stdev(by_seed))
    average = scores(table, "Average")
    assert average["base"].mean == pytest.approx((82 + 65) / 2)
    assert average["base"].deviation == pytest.approx(statistics.stdev([70, 77]))
    assert average["H"].mean == pytest.approx(harmonic((82 + 65) / 2, (52 + 25) / 2))
    assert average["H"].mean != pytest.approx((harmonic(82, 52) + harmonic(65, 25)) / 2, abs=0.1)
    assert average["H"].seeds == (1, 2)
    assert not table.notes


def test_missing_runs_are_named_and_averages_say_what_they_cover(output):
    for seed, name in itertools.product((1, 2, 3), "AB"):
        output.pair(name, seed, 80, 60)
        if (name, seed) != ("A", 3):
            output.pair(name, seed, 70, 50, trainer="IVLP") if name == "A" else None
    (table,) = output.tables()
    notes = "\n".join(table.notes)
    assert "Missing: IVLP (vit_shapes): A base (seed 3), A new (seed 3), B base, B new." in notes
    assert "Averages over A alone: IVLP (vit_shapes) base/new/H." in notes
    average = scores(table, "Average", row=1)["base"]
    assert average.partial and average.remark == "1 of 2 data sets" and average.mean == 70
    assert math.isnan(scores(table, "B", row=1)["H"].mean)
    assert not scores(table, "Average", row=0)["base"].partial


def test_one_half_alone_has_no_harmonic_mean(output):
    output.add("base2new", "train_base", "A", 1, 80)
    output.add("base2new", "train_base", "A", 2, 90)
    output.add("base2new", "test_new", "A", 2, 60)
    row = scores(output.tables()[0], "A")
    assert row["base"].seeds == (1, 2) and row["new"].partial
    assert row["H"].mean == pytest.approx(harmonic(90, 60)) and row["H"].seeds == (2,)


@pytest.mark.parametrize(
    "change",
    [
        {"git_commit": "ffffffffff"},
        {"git_dirty": True},
        {"weights_sha256": "cd" * 32},
        {"device": "cuda"},
        {"versions": {"python": "3.11.9", "torch": "2.15.0", "torchvision": "0.26", "project": "1.0.0"}},
    ],
)
def test_mixed_origins_are_flagged(output, change):
    output.pair("A", 1, 80, 60)
    output.pair("A", 2, 80, 60, **change)
    (table,) = output.tables()
    assert all(score.mixed for score in scores(table, "A").values())
    assert any(note.startswith("Mixed: CoOp (vit_shapes), A base: ") and "(seed 2)" in note for note in table.notes)


def test_a_training_by_two_commits_is_flagged(output):
    output.pair("A", 1, 80, 60, earlier_commits=["b94f3c1d9e77+"])
    (table,) = output.tables()
    assert all(score.mixed for score in scores(table, "A").values())
    assert "Mixed: CoOp (vit_shapes), A base: commit a84f3c1d9 (seed 1), b94f3c1d9+ (seed 1)." in table.notes


def test_seeds_with_other_descriptions_or_class_names_are_flagged(output):
    """Draws may differ: the published ones are one file a seed."""
    for seed, digest in ((1, "ab"), (2, "cd")):
        keys = ("TRAINER.COPROMPT.DESCRIPTIONS", "DATASET.FEWSHOT_SPLIT")
        output.pair("A", seed, 80, 60, files_sha256=dict.fromkeys(keys, digest * 32))
    (note,) = (note for note in output.tables()[0].notes if "A base" in note)
    assert "file of TRAINER.COPROMPT.DESCRIPTIONS ababababa (seed 1), cdcdcdcdc (seed 2)" in note
    assert "FEWSHOT_SPLIT" not in note


def test_other_draws_than_the_other_rows_are_flagged(output):
    output.add("base2new", "train_base", "A", 1, 80)
    output.add("base2new", "train_base", "A", 1, 80, trainer="IVLP", few_shot_sha256="another")
    assert "Not comparable: 2 few-shot draws of A (base classes, 16 shots, seed 1)." in output.tables()[0].notes


def test_other_numbers_of_classes_are_flagged(output):
    """A class was added between two seeds; the halves of base and new may differ."""
    output.pair("A", 1, 80, 60)
    output.add("base2new", "train_base", "A", 2, 80)
    output.add("base2new", "test_new", "A", 2, 60, classes=31)
    noted = [note for note in output.tables()[0].notes if note.startswith("Not comparable")]
    assert noted == ["Not comparable: A has 30 and 31 classes in different runs (test_new, new classes)."]


def test_recipes_have_rows_of_their_own(output):
    output.pair("A", 1, 80, 60)
    output.pair("A", 1, 81, 61, config="vit_shapes_ep50")
    rows = list(output.tables()[0].blocks[0].rows)
    assert [row.variant for row in rows] == ["vit_shapes", "vit_shapes_ep50"]
    assert len(output.tables()) == 1
    output.pair("A", 1, 82, 62, backbone="ViT-B/16")
    assert len(output.tables()) == 2


def test_changed_settings_make_a_row_and_an_evaluation_has_those_of_its_training(output):
    for rate, seed in itertools.product((0.002, 0.1), (1, 2)):
        config = {"OPTIM": {"LR": rate}, "SEED": seed}
        if (rate, seed) != (0.1, 1):
            output.add("base2new", "train_base", "A", seed, 80 + rate, config="mine", full_config=config)
    # an evaluation does not use the rate: it has that of the one run which trained its model
    output.add("base2new", "test_new", "A", 1, 60, config="mine", full_config={"OPTIM": {"LR": 7.0}, "SEED": 1})
    (table,) = output.tables()
    rows = {recipe.variant: row for recipe, row in table.blocks[0].rows.items()}
    assert set(rows) == {"mine [OPTIM.LR 0.002]", "mine [OPTIM.LR 0.1]"}
    assert rows["mine [OPTIM.LR 0.002]"][1].mean == 60


@pytest.mark.parametrize(
    ("key", "usual", "other"), [("SPLIT", "test", "val"), ("FINAL_MODEL", "last_step", "best_val")]
)
def test_results_on_other_images_or_of_another_model_are_not_averaged(output, key, usual, other):
    for seed, value in ((1, usual), (2, usual), (3, other)):
        config = {"TEST": {key: value, "NO_TEST": False}, "SEED": seed}
        output.add("few_shot", "all", "A", seed, 60 + 10 * seed, config="mine", full_config=config)
    (table,) = output.tables()
    rows = {recipe.variant: row for recipe, row in table.blocks[0].rows.items()}
    assert set(rows) == {f"mine [TEST.{key} {usual}]", f"mine [TEST.{key} {other}]"}
    means = {score.mean for row in rows.values() for score in row if not math.isnan(score.mean)}
    assert means == {75, 90}


def test_a_setting_changed_from_the_config_file_is_named_and_not_compared(output):
    full_base2new(output, 0.0)
    changed = {"OPTIM": KEPT["OPTIM"] | {"MAX_EPOCH": 1}}
    output.pair("UCF101", 1, 70, 70, **PROMETAR | {"full_config": changed}, backbone="ViT-B/16")
    (table,) = output.tables()
    assert [recipe.changes for recipe in table.recipes()] == [(), ("OPTIM.MAX_EPOCH 1",)]
    assert {score.recipe.changes for score in table.scores() if score.comparisons} == {()}


def test_another_number_of_workers_is_named_and_compared_all_the_same(output):
    """It draws other augmentations, as another seed does; an evaluation has those of its training."""
    place = {"config": PROMETAR["config"], "trainer": "ProMetaR", "backbone": "ViT-B/16"}
    for workers in (8, 2):  # 8: the config file's
        config = KEPT | {"DATALOADER": {"NUM_WORKERS": workers}}
        output.add("base2new", "train_base", "EuroSAT", workers, 90, **place, full_config=config)
        config = KEPT | {"DATALOADER": {"NUM_WORKERS": 5}}
        output.add("base2new", "test_new", "EuroSAT", workers, 70, **place, full_config=config)
    (table,) = output.tables()
    rows = {recipe.changes: row for recipe, row in table.blocks[0].rows.items()}
    assert set(rows) == {(), ("DATALOADER.NUM_WORKERS 2",)}
    for row in rows.values():
        assert [score.mean for score in row[:2]] == [90, 70]
        assert all(score.comparisons for score in row)


def test_two_sources_of_one_curve_are_named_and_all_else_reported(output, capsys):
    """Each stands in its own setting; on the few-shot curve, which both could be a point of, neither does."""
    pair = [
        output.add(setting, "source", "ImageNet", 1, accuracy)
        for setting, accuracy in (("cross_dataset", 71.25), ("domain_generalization", 72.5))
    ]
    output.add("few_shot", "all", "ImageNet", 1, 33.25, shots=4)
    status, printed, (line,) = report_on(output, capsys)
    assert status == 1 and line.startswith("error: two results for one run (few_shot all, CoOp, ImageNet, seed 1)")
    assert all(str(path) in line for path in pair)
    assert all(number in printed for number in ("71.25", "72.50", "33.25"))


def test_start_values_make_a_row_by_their_content(output):
    for start, path, accuracy in (("ab", "a.pth", 80), ("ab", "copy.pth", 82), ("cd", "a.pth", 70)):
        config = KEPT | {"MODEL": {"INIT_WEIGHTS": path}}
        seed = 2 if path == "copy.pth" else 1
        output.add(
            "base2new", "train_base", "A", seed, accuracy, **PROMETAR | {"full_config": config},
            init_weights_sha256=start * 32,
        )  # fmt: skip
    (table,) = output.tables()
    rows = {recipe.changes: row[0].mean for recipe, row in table.blocks[0].rows.items()}
    assert rows == {("MODEL.INIT_WEIGHTS SHA-256 ababababa",): 81, ("MODEL.INIT_WEIGHTS SHA-256 cdcdcdcdc",): 70}


def test_two_reports_at_once_do_not_mix(output):
    output.pair("A", 1, 61.5, 51.5)
    folder = output.folder / "report"
    taken = lock(folder)
    with pytest.raises(BusyError, match=f"another process is at work in {folder} .process {os.getpid()} on"):
        report.main([str(output.folder)])
    assert [path.name for path in folder.iterdir()] == [".lock"]
    taken.release()
    assert report.main([str(output.folder)]) == 0
    files = {f"report.{kind}" for kind in ("md", "csv", "tex", "html")} | {"pairs.csv", "figures"}
    assert {path.name for path in folder.iterdir()} == files


def report_on(output, capsys, *options):
    """Exit status, stdout and the lines of stderr of a report without files."""
    status = report.main([str(output.folder), "--terminal-only", *options])
    printed = capsys.readouterr()
    return status, printed.out, printed.err.splitlines()


def test_two_results_for_one_run_are_named_and_all_others_reported(output, capsys):
    pair = [output.add("base2new", "train_base", "A", 1, accuracy) for accuracy in (80, 90)]
    output.add("base2new", "test_new", "A", 1, 71.25)
    output.pair("B", 1, 61.5, 51.5)
    output.add("few_shot", "all", "A", 1, 33.25)
    status, printed, (line,) = report_on(output, capsys)
    assert status == 1 and line.startswith("error: two results for one run") and all(str(path) in line for path in pair)
    assert "80.00" not in printed and "90.00" not in printed and "85.00" not in printed
    for number in ("71.25", "61.50", "51.50", "33.25", "missing"):
        assert number in printed
    assert f"left out: {line.removeprefix('error: ')}" in printed

    assert report_on(output, capsys, "--dataset", "B")[::2] == (0, [])  # the pair is not asked for
    report.main([str(output.folder)])
    text = (output.folder / "report" / "report.html").read_text()
    assert text.count("90.00") == 1  # in the list of every run
    with (output.folder / "report" / "report.csv").open(newline="") as file:
        means = [row["mean"] for row in csv.DictReader(file) if (row["dataset"], row["metric"]) == ("A", "base")]
    assert means == [""]


def test_results_of_one_run_alone_leave_nothing_to_report(output, capsys):
    pair = [output.add("other", "all", "A", 1, accuracy) for accuracy in (80, 90, 80)]
    with pytest.raises(UserError, match="no finished runs"):
        report.main([str(output.folder)])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: 3 results for one run") and all(str(path) in line for path in pair)


def test_zero_shot_results_at_several_shots_must_agree(output, capsys):
    for shots in (1, 16):
        output.add("few_shot", "all", "A", 1, 55.5, trainer="ZeroshotCLIP", shots=shots)
        output.add("few_shot", "all", "A", 1, 60 + shots, shots=shots)
    assert report_on(output, capsys)[0] == 0
    output.add("few_shot", "all", "A", 1, 56.5, trainer="ZeroshotCLIP", shots=4)
    status, printed, (line,) = report_on(output, capsys)
    assert status == 1 and "3 results for one run" in line and "55.50" not in printed and "76.00" in printed


def own(output, path, seed, accuracy, dataset="ImageFolder"):
    config = {"DATASET": {"NAME": dataset, "PATH": path}}
    output.add("other", "all", dataset, seed, accuracy, full_config=config)


def test_own_data_is_called_by_its_folder_or_file(output, capsys):
    """Equal names of different paths are told apart, names of known data sets marked, nothing is mixed."""
    for seed in (1, 2):
        own(output, "/home/me/birds/", seed, 10.5)
        own(output, "lists/fish.csv", seed, 20.5, "ImageCSV")
        own(output, "/a/images", seed, 30.5)
        own(output, "/b/images", seed, 40.5)
        own(output, "/c/DTD", seed, 50.5)
        own(output, "/c/EuroSAT", seed, 60.5)
        own(output, "/c/Pets", seed, 70.5)
        output.add("other", "all", "EuroSAT", seed, 80.5)
        output.add("other", "all", "Pets", seed, 90.5)  # another repository's reader
    status, printed, problems = report_on(output, capsys)
    assert (status, problems) == (0, [])
    shown = dict(re.findall(r"^(.*), all classes, 16 shots .* (\d\d\.50) ", printed, flags=re.MULTILINE))
    assert shown == {
        "birds": "10.50",
        "fish": "20.50",
        "a/images": "30.50",
        "b/images": "40.50",
        "DTD (own data)": "50.50",
        "EuroSAT (own data)": "60.50",
        "Pets (own data)": "70.50",
        "EuroSAT": "80.50",
        "Pets": "90.50",
    }
    assert "10.50" in report_on(output, capsys, "--dataset", "birds")[1]


def test_own_data_is_not_compared_with_published_figures(output):
    names = {name for pair in ELEVEN.items() for name in pair}
    for name in names:
        config = KEPT | {"DATASET": {"PATH": f"/mine/{name}"}}
        output.pair("ImageFolder", 1, 80, 70, **PROMETAR | {"full_config": config}, backbone="ViT-B/16")
    runs = with_own_names(find_runs(output.folder).runs)
    (table,) = score_tables(runs)
    assert {block.name for block in table.blocks} == {"Average", *(f"{name} (own data)" for name in names)}
    assert not any(score.comparisons for score in table.scores())


def test_a_training_kept_in_both_places_is_shown_in_each(output):
    """Few-shot and source of a transfer: shared where one of them is missing, else each its own."""
    for setting, part, accuracy in (("few_shot", "all", 61.0), ("cross_dataset", "source", 62.0)):
        output.add(setting, part, "ImageNet", 1, accuracy)
    output.add("cross_dataset", "target", "C", 1, 50.0)
    transfer, curve = output.tables()
    assert scores(transfer, "")["ImageNet (source)"].mean == 62.0
    assert scores(curve, "ImageNet")["16 shots"].mean == 61.0


def published(method, dataset, metric, setting="base2new"):
    return published_figures()[setting, method, dataset, metric].value


def full_base2new(output, offset, leave_out=(), **changes):
    for name, short in ELEVEN.items():
        if name not in leave_out:
            base, new = (published("ProMetaR", short, half) for half in ("base", "new"))
            output.pair(name, 1, base + offset, new + offset, **PROMETAR, backbone="ViT-B/16", **changes)


@pytest.mark.parametrize(
    ("offset", "base", "new", "new_dtd", "average_h"),
    [
        (0.4, True, True, True, True),
        (0.9, True, True, True, False),
        (-1.9, False, True, True, False),
        (-2.1, False, False, True, False),
        (-4.1, False, False, False, False),
    ],
)
def test_bands_around_published_figures(output, offset, base, new, new_dtd, average_h):
    full_base2new(output, offset)
    (table,) = output.tables()
    for short, metric, within in (
        ("UCF101", "base", base),
        ("UCF101", "new", new),
        ("DTD", "new", new_dtd),
        ("EuroSAT", "new", new_dtd),
        ("DTD", "base", base),
        ("DTD", "H", None),
        ("Average", "H", average_h),
    ):
        (comparison,) = scores(table, short)[metric].comparisons
        assert comparison.within is within, (short, metric)
        if metric != "H":
            assert comparison.difference == pytest.approx(offset)
        assert comparison.published.status in ("confirmed", "recalled") and comparison.published.provenance


def test_one_data_set_has_no_average(output):
    output.pair("EuroSAT", 1, 90, 70, **PROMETAR, backbone="ViT-B/16")
    (table,) = output.tables()
    assert [block.name for block in table.blocks] == ["EuroSAT"] and not table.notes


def test_what_is_not_alike_is_not_compared(output):
    full_base2new(output, 0.0, leave_out=("EuroSAT",))
    average = scores(output.tables()[0], "Average")["H"]
    assert average.partial and average.remark == "10 of 11 data sets" and not average.comparisons
    output.pair("ImageNet", 1, 70, 70, **PROMETAR, backbone="RN50")
    output.pair("ImageNet", 1, 70, 70, **PROMETAR | {"config": "mine"}, backbone="ViT-B/16")
    output.pair("ImageNet", 1, 70, 70, **PROMETAR, backbone="ViT-B/16", shots=4)
    compared = [score for table in output.tables() for score in table.scores() if score.comparisons]
    assert compared and {(score.recipe.config, score.shots) for score in compared} == {(PROMETAR["config"], 16)}
    assert {score.recipe.backbone for score in compared} == {"ViT-B/16"}


def test_the_published_table_agrees_with_itself():
    figures = published_figures()
    # their papers average the H of the data sets, or two sources differ; the provenance says so
    others = {("base2new", "RPO", "Average", "H"), ("base2new", "CLIP-AST", "Average", "H")}
    assert all(re.search(r"H of the averages|mean of the eleven H", figures[key].provenance) for key in others)
    for setting, method, dataset, metric in figures:
        if metric == "H" and (setting, method, dataset, metric) not in others:
            base, new = (figures[setting, method, dataset, half].value for half in ("base", "new"))
            assert figures[setting, method, dataset, "H"].value == pytest.approx(harmonic(base, new), abs=0.02)
    methods = {method for _, method, _, _ in figures}
    for method, _, config, settings in RECIPES:
        assert method in methods
        if config != "vit_b16_epochs_by_shots":  # a name for three config files
            assert list((ROOT / "configs" / "trainers").glob(f"*/{config}.yaml")), config
        assert settings


def test_the_published_table_is_the_shared_one():
    shared = ROOT.parent / "shared" / FIGURES.name
    if not shared.is_file():
        pytest.skip("no shared folder beside the repository")
    assert FIGURES.read_text() == shared.read_text()


def test_transfer_takes_the_source_from_either_setting(output):
    place = {"backbone": "ViT-B/16", "trainer": "MaPLe", "config": "vit_b16_c2_ep5_batch4_2ctx_cross_datasets"}
    output.add("cross_dataset", "source", "ImageNet", 1, 70.72, **place)
    output.add("cross_dataset", "target", "DescribableTextures", 1, 46.0, **place)
    for place_in_row, name in enumerate(VARIANTS):
        output.add("domain_generalization", "target", name, 1, 50.0 + place_in_row, **place)
    cross, variants = output.tables()
    assert cross.columns == ["ImageNet (source)", "DTD"]
    row = scores(variants, "")
    assert list(row) == [
        "ImageNet (source)",
        "ImageNetV2",
        "ImageNet-Sketch",
        "ImageNet-A",
        "ImageNet-R",
        "OOD average",
    ]
    assert row["ImageNet (source)"].mean == 70.72
    assert row["OOD average"].mean == pytest.approx(51.5)
    (comparison,) = row["OOD average"].comparisons
    assert comparison.difference == pytest.approx(51.5 - 60.27) and comparison.within is None


def test_few_shot_curve(output):
    for shots, seed in itertools.product((1, 16), (1, 2)):
        output.add("few_shot", "all", "A", seed, 60 + shots + seed, shots=shots)
    output.add("few_shot", "all", "A", 1, 55.0, trainer="ZeroshotCLIP", shots=1)
    output.add("few_shot", "all", "A", 1, 55.0, trainer="ZeroshotCLIP", shots=16)
    (table,) = output.tables()
    zero_shot, coop = (scores(table, "A", row) for row in (0, 1))
    assert [score.mean for score in coop.values()] == [62.5, 77.5]
    assert [score.mean for score in zero_shot.values()] == [55.0, 55.0]
    assert table.columns == ["1 shot", "16 shots"] and not table.notes


def test_training_means_are_of_the_base_step_where_there_is_one():
    from experiments.report.figures import LOSSES, _meter

    class Recorded:
        history = ({"epoch": 1, "loss": 1e-4, "loss_base": 0.7},)

    assert _meter(Recorded, LOSSES) == "loss_base"


def corrupt(change):
    def write(path):
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return write


def test_names_from_results_are_shown_and_not_obeyed(output, capsys):
    """Terminal control, changes of direction, formulas, LaTeX arguments: none survives in any format."""
    hostile = ["\x1b[2J\u202ecat", "=cmd|' /C calc'!A0", "@SUM(A1)", "+1", "-1", "\t=1", "[2cm]", "\ud800&#x202e;"]
    for place, name in enumerate(hostile):
        per_class = {f"{name} class": 12.5}
        output.add("other", "all", f"{name} data", 1, 50 + place, trainer=name, config=name, per_class=per_class)
    assert report.main([str(output.folder)]) == 0
    files = {path.suffix: path.read_text() for path in (output.folder / "report").glob("report.*")}
    for text in (capsys.readouterr().out, *files.values()):
        assert printable_lines(text) == text and re.search(r"(\\|textbackslash\{\})u202ecat", text)
    assert "&amp;#x202e;" in files[".html"] and r"\&\#x202e;" in files[".md"]
    assert not re.search(r"\\\\\n[\[*]", files[".tex"]) and "{}[2cm]" in files[".tex"]
    cells = [cell for row in csv.reader(files[".csv"].splitlines()) for cell in row]
    assert "'=cmd|' /C calc'!A0" in cells and "'-1" in cells
    assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)


def replaced_by(make):
    def replace(path):
        path.unlink()
        make(path)

    return replace


def nested(depth):
    return {"a": nested(depth - 1)} if depth else 1


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_text(path.read_text()[:100]), "JSON"),
        (lambda path: path.write_text("[]"), "object"),
        (corrupt(lambda content: content.pop("trainer")), "trainer"),
        (corrupt(lambda content: content.update(schema=99)), "schema 99"),
        (corrupt(lambda content: content.update(shots="many")), "shots is 'many'"),
        (corrupt(lambda content: content["results"].update(accuracy=float("nan"))), "it contains NaN"),
        (corrupt(lambda content: content["results"].update(accuracy=130)), "130"),
        (corrupt(lambda content: content["results"].update(accuracy=10**400)), "401 digits"),
        (corrupt(lambda content: content.update(setting="nonsense")), "nonsense"),
        (corrupt(lambda content: content.update(setting="\ud800")), r"\ud800"),
        (corrupt(lambda content: content.update(seed=10**400)), "seed is a number of 401 digits"),
        (corrupt(lambda content: content.update(peak_memory_bytes=10**4000)), "peak_memory_bytes"),
        (corrupt(lambda content: content.update(train_seconds=float("inf"))), "Infinity"),
        (lambda path: path.write_text(path.read_text().replace("12.5", "1e999")), "train_seconds is inf"),
        (corrupt(lambda content: content.update(test_seconds=-1)), "test_seconds is -1"),
        (corrupt(lambda content: content.update(date="yesterday")), "yesterday"),
        (corrupt(lambda content: content.update(full_config=nested(900))), "deep"),
        (corrupt(lambda content: content.update(per_class={"a\x1b": 1, "a\\x1b": 2})), "hidden"),
        (corrupt(lambda content: content.update(history=[3])), "history"),
        (corrupt(lambda content: content.update(history=[{"epoch": 1, "loss": "low"}])), "'low'"),
        (corrupt(lambda content: content.update(history=[{"epoch": True}])), "epoch"),
        (corrupt(lambda content: content.update(history=[{"epoch": 1, "loss": 10**400}])), "loss in the history"),
        (replaced_by(os.mkfifo), "not a regular file"),
        (replaced_by(os.mkdir), "not a regular file"),
        (replaced_by(lambda path: os.symlink("/dev/zero", path)), "not a regular file"),
        (replaced_by(lambda path: os.symlink("nowhere", path)), "no such file"),
        (lambda path: path.write_bytes(b"\xff\xfe{}"), "cannot read"),
    ],
)
def test_a_result_that_cannot_be_used_is_named_and_all_others_reported(output, damage, reason, capsys):
    path = output.add("base2new", "train_base", "A", 1, 80)
    output.add("other", "all", "B", 1, 43.25)
    damage(path)
    status, printed, (line,) = report_on(output, capsys)
    assert status == 1 and line.startswith("error: ") and str(path) in line and reason in line
    assert "43.25" in printed and "left out: " in printed and "1 finished runs" in printed
    path.unlink() if not path.is_dir() else path.rmdir()
    assert report_on(output, capsys)[::2] == (0, [])


def test_a_folder_that_cannot_be_read_is_named(output, capsys, monkeypatch):
    folder = output.add("base2new", "train_base", "A", 1, 80).parent
    output.add("other", "all", "B", 1, 43.25)
    scandir = os.scandir

    def refuse(path):  # as without permission; root has it everywhere
        if str(path) == str(folder):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    status, printed, (line,) = report_on(output, capsys)
    assert status == 1 and f"{folder}: Permission denied" in line and "43.25" in printed


def test_unfinished_runs_are_named_and_an_empty_folder_is_an_error(output, capsys):
    (output.folder / "crashed").mkdir()
    (output.folder / "crashed" / "log.txt").write_text("Traceback")
    with pytest.raises(UserError, match="no finished runs"):
        report.main([str(output.folder)])
    output.add("other", "all", "A", 1, 80)
    report.main([str(output.folder), "--terminal-only"])
    printed = capsys.readouterr().out
    assert "unfinished and left out: crashed" in printed and "80.00" in printed
    assert not (output.folder / "report").exists()
    with pytest.raises(UserError, match="no finished runs of few_shot"):
        report.main([str(output.folder), "--setting", "few_shot"])


def test_planned_runs_that_never_began_are_named(output, capsys):
    done = output.add("other", "all", "A", 1, 80)
    planned = [str(done.parent.relative_to(output.folder)), "never/seed2"]
    (output.folder / "plan.json").write_text(json.dumps({"folders": planned}))
    report.main([str(output.folder), "--terminal-only"])
    assert "planned and not begun: never/seed2\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        "[]",
        '{"folders": ["../.."]}',
        '{"folders": ["a/../../b"]}',
        '{"folders": ["/etc"]}',
        '{"folders": ["\\ud800"]}',
        '{"folders": ["a\\u0000b"]}',
        '{"folders": [""]}',
        '{"folders": [{"a": 1}]}',
        None,
    ],
)
def test_a_plan_that_cannot_be_used_is_named_and_the_results_reported(output, capsys, content):
    output.add("other", "all", "A", 1, 43.25)
    path = output.folder / "plan.json"
    path.write_text(content) if content else os.mkfifo(path)
    status, printed, (line,) = report_on(output, capsys)
    assert status == 1 and str(path) in line and "43.25" in printed
    assert content or "not a regular file" in line


def test_command_line_error_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["experiments", "report", str(tmp_path / "nowhere")])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_module("experiments", run_name="__main__")
    # Python prints such a code to stderr and exits with status 1
    assert stopped.value.code.startswith(f"error: no such folder: {tmp_path / 'nowhere'}; {tmp_path} has ")


class Page(HTMLParser):
    """The tags of a page, with their attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The files of a report on all settings, with names that are markup in every format."""
    output = Output(tmp_path_factory.mktemp("report"))
    for seed in (1, 2):
        for trainer in ("CoOp", NASTY):
            output.pair("A", seed, 80 + seed, 60, trainer=trainer, per_class={"<b>cat</b>": 12.5})
            output.pair("B_1", seed, 80, 60, trainer=trainer)
            output.add("cross_dataset", "source", "A", seed, 70, trainer=trainer)
            output.add("cross_dataset", "target", "C", seed, 71, trainer=trainer)
            output.add("domain_generalization", "target", "D", seed, 72, trainer=trainer)
            for shots in (1, 4):
                output.add("few_shot", "all", "A", seed, 70 + shots, trainer=trainer, shots=shots)
            output.add("other", "all", NASTY, seed, 50, trainer=trainer)
    full_base2new(output, 0.25, history=[])
    report.main([str(output.folder)])
    return output.folder / "report"


def test_the_page_is_self_contained_and_escaped(written):
    text = (written / "report.html").read_text()
    page = Page(text)
    tags = [tag for tag, _ in page.tags]
    assert tags.count("script") == 1 and "<b>cat" not in text and "&lt;b&gt;cat" in text
    links = {value for _, attributes in page.tags for key, value in attributes.items() if key in ("src", "href")}
    anchors = {attributes.get("id") for _, attributes in page.tags}
    assert links and all(link.startswith("#") and link[1:] in anchors for link in links)
    urls = set(re.findall(r"https?://[^\s\"'<]+", text))
    assert urls <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert not re.search(r"@import|url\((?!#)", text)
    for name in ("Base to new", "Few-shot", "Training curves", "Cost of a run", "Hardest classes", "published"):
        assert name in text


def test_drawings_are_well_formed_and_take_their_colours_from_the_page(written):
    text = (written / "report.html").read_text()
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) >= 8
    defined = set(re.findall(r"(--[\w-]+):", text))
    for drawing in drawings:
        ElementTree.fromstring(drawing)
        assert "#fdf" not in drawing and "$" not in drawing.replace("$x_1$", "")
        assert set(re.findall(r"var\((--[\w-]+)\)", drawing)) <= defined
    labels = [label for drawing in drawings for label in re.findall(r'aria-label="([^"]*)"', drawing)]
    assert any("Base and new accuracy" in label for label in labels)


def test_tables_can_be_sorted_by_value(written):
    text = (written / "report.html").read_text()
    assert text.count('<th scope="col"') == text.count('aria-sort="none"') > 30
    numbers = [
        attributes["data-sort"] for tag, attributes in Page(text).tags if tag == "td" and "data-sort" in attributes
    ]
    assert "81.5" in numbers  # mean of 81 and 82, at full precision


def test_every_row_of_the_text_formats_has_its_columns(written):
    markdown = (written / "report.md").read_text()
    tables = re.findall(r"(?:^\|.*\n)+", markdown, flags=re.MULTILINE)
    assert len(tables) >= 6
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert "<script>" not in markdown.replace(r"\<script", "")


def latex_problems(text: str) -> list[str]:
    """What would keep LaTeX from compiling a text of tables: environments, braces, columns, special characters."""
    text = re.sub(r"(?m)(?<!\\)%.*$", "", text)
    problems, opened = [], []
    for kind, name in re.findall(r"\\(begin|end)\{([\w*]+)\}", text):
        if kind == "begin":
            opened.append(name)
        elif not opened or opened.pop() != name:
            problems.append(f"\\end{{{name}}} closes another environment")
    problems += [f"\\begin{{{name}}} is not closed" for name in opened]
    depth = 0
    for brace in re.findall(r"(?<!\\)[{}]", text):
        depth += 1 if brace == "{" else -1
        if depth < 0:
            problems.append("a } too many")
            depth = 0
    problems += ["a { too many"] * (depth > 0)
    for kinds, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}\n(.*?)\\end\{tabular\}", text, flags=re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        problems += [row for row in rows if len(re.findall(r"(?<!\\)&", row)) != len(kinds) - 1]
        problems += ["no rows"] * (not rows)
        if re.search(r"(?<!\\)[#_]", body) or body.count("$") % 2 or not body.isascii():
            problems.append(f"special characters in {body[:80]}")
    return problems


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (r"\begin{table}\end{table*}", "closes another"),
        (r"\begin{table}", "not closed"),
        (r"\caption{a", "{ too many"),
        ("\\begin{tabular}{lr}\na & b & c \\\\\n\\end{tabular}", "a & b & c"),
        ("\\begin{tabular}{lr}\na_1 & b \\\\\n\\end{tabular}", "special"),
        ("\\begin{tabular}{lr}\n− & b \\\\\n\\end{tabular}", "special"),
    ],
)
def test_the_check_of_latex_finds_faults(text, problem):
    assert any(problem in found for found in latex_problems(text))


def test_latex_has_one_float_for_each_table(written):
    latex = (written / "report.tex").read_text()
    assert latex_problems(latex) == []
    labels = re.findall(r"\\label\{(.*?)\}", latex)
    captions = re.findall(r"\\caption\{(.*)\}", latex)
    assert len(labels) == len(set(labels)) == len(captions) == len(re.findall(r"\\begin\{table", latex)) >= 6
    assert sum(caption.startswith("Base to new, ViT-B/16") for caption in captions) == 1  # twelve blocks in it
    assert "vit_b16_c2" not in latex.replace(r"\_", "_")  # names instead of config files


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_latex_compiles_as_it_is_pasted(written, tmp_path):
    head = r"\documentclass{article}\usepackage{booktabs}\usepackage{graphicx}\begin{document}"
    (tmp_path / "paper.tex").write_text(head + "\n" + (written / "report.tex").read_text() + r"\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout[-2000:]
    assert not re.findall(r"Overfull \\hbox.*|.*Float too large.*", done.stdout)


WIDTHS = (390, 820, 1440)


@pytest.mark.skipif(browser.PROGRAM is None, reason="needs a Chromium or Chrome")
def test_the_page_in_a_browser_at_three_widths(written, tmp_path):
    page = (written / "report.html").read_text()
    grounds = {}
    for dark in (False, True):
        folder = tmp_path / str(dark)
        folder.mkdir()
        found = browser.measured(page, WIDTHS, folder, dark)
        assert set(found) == set(WIDTHS)
        for width, values in found.items():
            assert values["texts"] > 500 and values["overflow"] <= 0 and not values["cut"], (width, values)
            assert values["smallest"] >= 10 and not values["moved"], (width, values)
        assert found[390]["scrolled"] > 0
        grounds[dark] = found[390]["ground"], found[390]["ink"]
    assert grounds[False] != grounds[True]


def test_the_page_has_no_fixed_width_above_a_phone_s_and_no_small_text(written):
    """What can be told without a browser; it knows which of a page's parts scroll by their class."""
    text = (written / "report.html").read_text()
    style = re.sub(r"@media print.*", "", re.search(r"<style>(.*?)</style>", text, flags=re.DOTALL)[1], flags=re.DOTALL)
    assert min(float(size) for size in re.findall(r"font(?:-size)?: ?([\d.]+)px", style)) >= 10
    widths = [float(width) for width in re.findall(r"(?<![-\w])(?:min-)?width: ([\d.]+)px", style)]
    assert widths and max(widths) <= 390 - 44
    assert 'name="viewport" content="width=device-width' in text
    for drawing in re.findall(r"<svg role.*?</svg>", text, flags=re.DOTALL):
        wide = float(re.search(r'viewBox="0 0 ([\d.]+)', drawing)[1])
        narrowest = float(re.search(r"min-width: (\d+)px", drawing)[1])
        sizes = [float(size) for size in re.findall(r"font-size: ([\d.]+)px", drawing)]
        assert min(sizes, default=99) * narrowest / wide >= 10
    for_phones = re.findall(r'<div class="on-phone"><svg role.*?min-width: (\d+)px', text)
    assert len(for_phones) == text.count('<div class="on-wide">') > 3 and max(map(int, for_phones)) <= 390 - 44


def test_figures_are_files_of_both_kinds_with_their_methods_colours(written):
    files = {path.name for path in (written / "figures").iterdir()}
    stems = {name.partition(".")[0] for name in files}
    assert files == {f"{stem}.{kind}" for stem in stems for kind in ("pdf", "png")}
    assert {"base2new-1", "cross_dataset-3", "domain_generalization-4"} <= stems
    assert any(stem.startswith("training-") for stem in stems)
    assert all((written / "figures" / name).read_bytes()[:4] in (b"%PDF", b"\x89PNG") for name in files)


def test_names_that_are_alike_have_files_of_their_own(output):
    """Names of data sets differ in signs that file names do not have, or are longer than a file name may be."""
    for name in ("a/b", "a.b", 300 * "x"):
        output.add("few_shot", "all", name, 1, 70)
    report.main([str(output.folder)])
    stems = {path.stem for path in (output.folder / "report" / "figures").glob("training-*.png")}
    assert len(stems) == 3 and all(len(stem) < 120 for stem in stems)


def test_a_method_has_one_colour_and_marker_in_all_settings():
    config = "vit_b16_c2_ep5_batch4_2ctx"
    found = [Recipe("MaPLe", config + suffix, "ViT-B/16") for suffix in ("", "_cross_datasets")]
    found.append(Recipe("CoOp", "vit_b16_ep50_ctxv1", "ViT-B/16"))
    palette = Palette(dict(zip(found, ("MaPLe", "MaPLe", "CoOp"), strict=True)))
    assert palette.line(found[0]) == palette.line(found[1]) != palette.line(found[2])
    assert palette.line(found[0])["color"] != replace(palette, theme=PRINT).line(found[0])["color"]


def test_the_printed_colours_are_the_page_s():
    light = (Path(report.__file__).parent / "assets" / "page.css").read_text().partition("@media")[0]
    colours = [PRINT.ink, PRINT.faint, PRINT.surface, PRINT.base, PRINT.new, *PRINT.series]
    names = ["ink", "line", "surface", "base", "new", *(f"series-{index}" for index in range(10))]
    for name, colour in zip(names, colours, strict=True):
        assert f"--{name}: {colour};" in light


def test_figures_copied_from_papers_are_set_apart(written):
    latex = (written / "report.tex").read_text()
    copied = latex[latex.index("Copied from papers, not run here") :]
    assert copied.partition("\n")[0].endswith("(setting Base to new; data set Average; 16 shots)}")  # in all rows
    row = next(line for line in copied.splitlines() if line.startswith("TCP &"))
    assert "& no &" in row and "84.13" in row and "reprinted" in row
    row = next(line for line in copied.splitlines() if line.startswith("ProMetaR &"))
    assert "& yes &" in row and "84.39" in row and "confirmed" in row


def test_csv_has_full_precision_and_provenance(written):
    with (written / "report.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    (row,) = [row for row in rows if (row["trainer"], row["dataset"], row["metric"]) == ("ProMetaR", "Average", "H")]
    shorts = ELEVEN.values()
    halves = [statistics.fmean(published("ProMetaR", name, half) + 0.25 for name in shorts) for half in ("base", "new")]
    assert float(row["mean"]) == pytest.approx(harmonic(*halves), abs=1e-9)
    assert float(row["published"]) == published("ProMetaR", "Average", "H")
    assert (row["band"], row["within_band"], row["n_seeds"]) == ("0.5", "1", "1") and row["provenance"]
    settings = {"base2new", "cross_dataset", "domain_generalization", "few_shot", "other"}
    assert {row["setting"] for row in rows} == settings
