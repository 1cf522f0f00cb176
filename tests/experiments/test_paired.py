"""Paired differences, averages in each way, and what is measured beside accuracy.

Expected values: counts and harmonic means by hand, the bootstrap's intervals by the variance of their definition.
"""

from __future__ import annotations

import csv
import itertools
import math

import numpy as np
import pytest

from dassl.utils import UnknownNameError
from experiments import report
from experiments.figures.predictions import Evaluations
from experiments.report.averages import averages
from experiments.report.calibration import curves
from experiments.report.charts import calibration_charts
from experiments.report.comparisons import Comparisons, find_row
from experiments.report.frame import run_frame
from experiments.report.measures import joint_section, measures_section
from experiments.report.names import names_of
from experiments.report.paired import NOT_DISTINGUISHABLE
from experiments.report.recipes import recipes
from experiments.report.runs import find_runs
from tests.experiments.test_report import Output, harmonic, report_on

IMAGES = 200


@pytest.fixture
def output(tmp_path):
    return Output(tmp_path)


def predicted(output, setting, part, dataset, seed, right, confidence=None, images=None, **changes):
    """A run that gets the images of `right` (a mask) right and says class 1 for the others, with its predictions."""
    right = np.asarray(right)
    path = output.add(setting, part, dataset, seed, 100 * right.mean(), **changes)
    score = np.full(len(right), 0.75) if confidence is None else np.asarray(confidence)
    top = np.where(right, 0, 1)[:, None]
    names = [f"{dataset}/{i}.jpg" for i in range(len(right))] if images is None else images
    np.savez_compressed(
        path.parent / "predictions.npz",
        images=np.array(names),
        labels=np.zeros(len(right), dtype=np.int32),
        top5=top.astype(np.int32),
        scores=score[:, None].astype(np.float16),
        label_scores=score.astype(np.float16),
        classnames=np.array(["cat", "dog"]),
        part=np.array(part),
    )
    return path


def first(share, offset=0):
    """A mask of the images from `offset` on, of that share."""
    mask = np.zeros(IMAGES, dtype=bool)
    mask[offset : offset + round(share * IMAGES)] = True
    return mask


def difference(output, number="accuracy", names=("MaPLe", "IVLP"), block=None):
    (table,) = output.tables()
    comparisons = Comparisons()
    recipe = {found.trainer: found for found in table.recipes()}
    for sheet, place in table.places():
        if place.metric == number and block in (None, place.block):
            return comparisons.difference(sheet, place, *(recipe[name] for name in names)), comparisons
    raise AssertionError(number)


def test_one_seed_is_the_bootstrap_over_images(output):
    """Standard error of a paired difference: sqrt((n10 + n01 - (n10 - n01)^2 / n)) / n."""
    predicted(output, "other", "all", "A", 1, first(0.8), trainer="MaPLe")
    predicted(output, "other", "all", "A", 1, first(0.7, 20), trainer="IVLP")
    found, _ = difference(output)
    assert found.difference == pytest.approx(10.0) and found.resampled == "images"
    assert (found.first_only, found.second_only) == (20, 0) and (found.decisions, found.differing) == (200, 20)
    error = 100 * math.sqrt(20 - 20**2 / IMAGES) / IMAGES
    assert found.low == pytest.approx(10 - 1.96 * error, abs=0.51)  # one image is 0.5
    assert found.high == pytest.approx(10 + 1.96 * error, abs=0.51)  # one image is 0.5
    assert found.verdict == "higher" and difference(output, names=("IVLP", "MaPLe"))[0].verdict == "lower"


def test_an_interval_with_zero_is_not_distinguishable(output):
    predicted(output, "other", "all", "A", 1, first(0.5), trainer="MaPLe")
    predicted(output, "other", "all", "A", 1, first(0.49, 80), trainer="IVLP")
    found, _ = difference(output)
    assert found.difference == pytest.approx(1.0) and found.low < 0 < found.high
    assert found.verdict == NOT_DISTINGUISHABLE


def test_seeds_add_their_spread(output):
    """Two seeds: the images of each, and which seeds are drawn. Variances of the definition."""
    shares = {1: (0.9, 0.8), 2: (0.6, 0.56)}
    for seed, (ours, theirs) in shares.items():
        predicted(output, "other", "all", "A", seed, first(ours), trainer="MaPLe")
        predicted(output, "other", "all", "A", seed, first(theirs), trainer="IVLP")
    found, _ = difference(output)
    assert found.difference == pytest.approx(7.0) and found.resampled == "images and seeds" and found.seeds == (1, 2)
    of_images = np.mean([100**2 * (d - d**2) / IMAGES for d in (0.1, 0.04)]) / 2
    of_seeds = np.var([10.0, 4.0]) / 2
    expected = 2 * 1.96 * math.sqrt(of_images + of_seeds)
    assert found.high - found.low == pytest.approx(expected, rel=0.12)


def test_without_predictions_seeds_alone_are_drawn(output):
    for seed, (ours, theirs) in enumerate([(70, 60), (72, 64), (74, 71)], 1):
        output.add("other", "all", "A", seed, ours, trainer="MaPLe")
        output.add("other", "all", "A", seed, theirs, trainer="IVLP")
    found, _ = difference(output)
    assert found.resampled == "seeds" and (found.low, found.high) == (3.0, 10.0)  # three times one seed: 1 in 27
    assert found.difference == pytest.approx(7.0) and found.decisions == 0 and found.verdict == "higher"


def test_one_seed_without_predictions_has_no_interval(output):
    for trainer, accuracy in (("MaPLe", 80), ("IVLP", 70)):
        output.add("other", "all", "A", 1, accuracy, trainer=trainer)
    found, _ = difference(output)
    assert found.difference == 10 and math.isnan(found.low) and found.verdict == "no interval"


def test_only_common_seeds_and_draws_are_compared(output):
    for seed in (1, 2, 3):
        output.add("other", "all", "A", seed, 80 + seed, trainer="MaPLe")
        if seed < 3:
            digest = "another" if seed == 2 else "A1"
            output.add("other", "all", "A", seed, 70, trainer="IVLP", few_shot_sha256=digest)
    found, comparisons = difference(output)
    assert found.seeds == (1,) and found.difference == 11
    assert comparisons.notes == ["other few-shot draws of A: MaPLe (vit_shapes) and IVLP (vit_shapes) (seed 2)"]


def test_zero_shot_is_compared_with_every_seed(output):
    output.add("other", "all", "A", 1, 60, trainer="ZeroshotCLIP")
    for seed in (1, 2, 3):
        output.add("other", "all", "A", seed, 70 + seed, trainer="IVLP")
    found, _ = difference(output, names=("IVLP", "ZeroshotCLIP"))
    assert found.seeds == (1, 2, 3) and found.difference == pytest.approx(12.0)


def test_predictions_of_other_images_are_not_compared_image_by_image(output):
    predicted(output, "other", "all", "A", 1, first(0.8), trainer="MaPLe")
    predicted(output, "other", "all", "A", 1, first(0.7), trainer="IVLP", images=[f"B/{i}" for i in range(IMAGES)])
    found, comparisons = difference(output)
    assert found.decisions == 0 and found.verdict == "no interval" and found.difference == pytest.approx(10)
    assert "predictions of different images" in comparisons.notes[0]


def test_predictions_in_another_order_are_compared(output):
    right = first(0.8)
    names = [f"A/{i:03d}.jpg" for i in range(IMAGES)]
    predicted(output, "other", "all", "A", 1, right, trainer="MaPLe", images=names)
    predicted(output, "other", "all", "A", 1, right[::-1], trainer="IVLP", images=names[::-1])
    found, _ = difference(output)
    assert (found.decisions, found.differing) == (IMAGES, 0) and (found.low, found.high) == (0, 0)


def test_damaged_predictions_are_named_and_all_else_reported(output, capsys):
    path = predicted(output, "other", "all", "A", 1, first(0.8), trainer="MaPLe").parent / "predictions.npz"
    predicted(output, "other", "all", "A", 1, first(0.7), trainer="IVLP")
    path.write_bytes(path.read_bytes()[:300])
    status, printed, (line,) = report_on(output, capsys, "--baseline", "IVLP")
    assert status == 1 and str(path) in line and "80.00" in printed and "+10.00" in printed


def pairs(output, **of_trainers):
    """Two data sets and two seeds of base and new: {trainer: points more}."""
    for trainer, more in of_trainers.items():
        for dataset, seed in itertools.product(("DescribableTextures", "EuroSAT"), (1, 2)):
            low = 0.3 if dataset == "EuroSAT" else 0
            predicted(output, "base2new", "train_base", dataset, seed, first(0.8 - low + more), trainer=trainer)
            predicted(output, "base2new", "test_new", dataset, seed, first(0.6 - low + more), trainer=trainer)


def test_h_of_an_average_is_compared_as_the_table_computes_it(output):
    pairs(output, MaPLe=0.1, IVLP=0.0)
    found, _ = difference(output, "H", block="Average")
    ours, theirs = harmonic((90 + 60) / 2, (70 + 40) / 2), harmonic((80 + 50) / 2, (60 + 30) / 2)
    assert found.difference == pytest.approx(ours - theirs) and found.low < ours - theirs < found.high
    assert found.datasets == 2 and found.decisions == 8 * IMAGES


def test_averages_with_and_without_eurosat_and_both_kinds_of_h(output):
    papers = {"A": "DescribableTextures"}
    for dataset, base, new in (("A", 80.0, 60.0), ("EuroSAT", 50.0, 30.0), ("UCF101", 70.0, 75.0)):
        output.pair(papers.get(dataset, dataset), 1, base, new, trainer="IVLP")
    (table,) = output.tables()
    found = {}
    for sheet, place in averages(table):
        score = sheet.score(table.recipes()[0], place)
        found[place.metric, bool(place.without), place.mean_of_h] = score["mean"], score["covered"]
    assert found["base", False, False] == (pytest.approx(200 / 3), 3)
    assert found["H", False, False][0] == pytest.approx(harmonic(200 / 3, 55))
    each = harmonic(80, 60), harmonic(50, 30), harmonic(70, 75)
    assert found["H", False, True][0] == pytest.approx(sum(each) / 3)
    assert found["H", True, False] == (pytest.approx(harmonic(75, 67.5)), 2)
    assert found["H", True, True][0] == pytest.approx((each[0] + each[2]) / 2)


def test_a_baseline_adds_differences_to_every_format(output, capsys):
    pairs(output, MaPLe=0.1, IVLP=0.0)
    assert report.main([str(output.folder), "--baseline", "ivlp", "--no-figures"]) == 0
    folder = output.folder / "report"
    assert "+10.00 [" in capsys.readouterr().out and not (folder / "figures").exists()
    assert "{\\scriptsize +10.00 [" in (folder / "report.tex").read_text()
    assert '<small class="difference">+10.00 [' in (folder / "report.html").read_text()
    assert "(+10.00 \\[" in (folder / "report.md").read_text()
    with (folder / "report.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["dataset"], row["metric"]) == ("DTD", "base")]
    verdicts = {row["method"]: (row["baseline"], row["baseline_verdict"]) for row in rows}
    assert verdicts == {"IVLP": ("", ""), "MaPLe": ("IVLP", "higher")}


@pytest.mark.parametrize("baseline, method, difference", [("IVLP", "MaPLe", 10), ("MaPLe", "IVLP", -10)])
def test_other_methods_are_compared_with_the_baseline(baseline, method, difference, output):
    pairs(output, MaPLe=0.1, IVLP=0.0)
    assert report.main([str(output.folder), "--baseline", baseline, "--no-figures"]) == 0
    with (output.folder / "report" / "pairs.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["number"] == "base"]
    assert [(row["method"], row["compared with"]) for row in rows] == [(method, baseline)]
    assert float(rows[0]["difference"]) == pytest.approx(difference)


def test_a_baseline_that_is_unknown_or_ambiguous_is_refused(output):
    pairs(output, MaPLe=0.1, IVLP=0.0)
    with pytest.raises(UnknownNameError, match='"CoOp" is not a method of this report: choose from "MaPLe"'):
        report.main([str(output.folder), "--terminal-only", "--baseline", "CoOp"])
    with pytest.raises(UnknownNameError, match="means several methods in Base to new"):
        report.main([str(output.folder), "--terminal-only", "--baseline", "vit_shapes"])
    output.pair("EuroSAT", 1, 70, 70, trainer="IVLP", config="vit_shapes_ep50")
    (table,) = output.tables()
    chosen = find_row(table, "IVLP (ep50)")
    assert chosen is not None and chosen.config == "vit_shapes_ep50"


def test_methods_have_the_names_that_their_files_state(output):
    for trainer, config in (
        ("ZeroshotCLIP", "vit_b16"),
        ("MaPLe", "vit_b16_c2_ep5_batch4_2ctx"),
        ("MultiModalAdapter", "vit_b16_ep5"),
        ("ProMetaR", "vit_b16_c2_ep10_batch4_2ctx_maple"),
        ("CoOp", "vit_b16_ep50_ctxv1"),
        ("CoOp", "vit_b16_ctxv1"),
        ("Elsewhere", "mine"),
    ):
        output.pair("A", 1, 70, 60, trainer=trainer, config=config, backbone="ViT-B/16")
    runs = find_runs(output.folder).runs
    names = {(recipe.trainer, recipe.config): name for recipe, name in names_of(recipes(runs)).items()}
    assert names == {
        ("ZeroshotCLIP", "vit_b16"): "CLIP",
        ("MaPLe", "vit_b16_c2_ep5_batch4_2ctx"): "MaPLe",
        ("MultiModalAdapter", "vit_b16_ep5"): "MMA",
        ("ProMetaR", "vit_b16_c2_ep10_batch4_2ctx_maple"): "ProMetaR on MaPLe",
        ("CoOp", "vit_b16_ep50_ctxv1"): "CoOp",
        ("CoOp", "vit_b16_ctxv1"): "CoOp (ctxv1)",
        ("Elsewhere", "mine"): "Elsewhere (mine)",
    }


def test_recipes_that_would_share_a_name_have_their_configs_behind_it(output):
    for config in ("vit_b16", "rn50"):
        output.pair("A", 1, 70, 60, trainer="ZeroshotCLIP", config=config, backbone="ViT-B/16")
    for seed, rate in enumerate((0.1, 0.5), 1):
        output.pair("A", seed, 70, 60, config="mine", full_config={"OPTIM": {"LR": rate}}, backbone="ViT-B/16")
    names = set(names_of(recipes(find_runs(output.folder).runs)).values())
    assert names == {"CLIP (vit_b16)", "CLIP (rn50)", "CoOp (mine) [OPTIM.LR 0.5]", "CoOp (mine) [OPTIM.LR 0.1]"}


def test_measures_and_joint_results_are_shown(output):
    for trainer, ece, auroc in (("MaPLe", 4.0, 80.0), ("IVLP", 2.0, 90.0)):
        for seed in (1, 2):
            measured = {"accuracy": 70, "macro_accuracy": 69, "nll": 0.5, "ece": ece, "adaptive_ece": ece, "brier": 0.4}
            joint = {"base_accuracy": 70.0 + seed, "new_accuracy": 60.0, "harmonic_mean": 64.0}
            joint |= {"auroc": auroc, "openworld_auc": 50.0}
            output.add("base2new", "test_all", "A", seed, 65, trainer=trainer, results=measured, joint=joint)
    runs = find_runs(output.folder).runs
    frame = run_frame(runs, recipes(runs))
    measures, together = measures_section(frame), joint_section(frame)
    assert measures is not None and together is not None
    rows = {row["method"]: index for index, row in measures.texts.iterrows()}
    assert [measures.texts["ECE"][rows[name]] for name in ("MaPLe", "IVLP")] == ["4.00", "2.00"]
    assert [measures.tones["ECE"][rows[name]] for name in ("MaPLe", "IVLP")] == ["second", "best"]
    rows = {row["method"]: index for index, row in together.texts.iterrows()}
    at = rows["IVLP"]
    assert (together.texts["base"][at], together.texts["AUROC"][at]) == ("71.50 ± 0.71", "90.00 ± 0.00")
    assert together.values["H"][at] == pytest.approx(harmonic(71.5, 60)) and together.tones["AUROC"][at] == "best"


def test_joint_averages_are_of_the_seeds_with_every_data_set(output):
    given = [("MaPLe", "A", 1, 80), ("MaPLe", "A", 2, 70), ("MaPLe", "B", 1, 60), ("IVLP", "A", 1, 50)]
    for trainer, dataset, seed, base in given:
        joint = {"base_accuracy": base, "new_accuracy": 40.0, "harmonic_mean": harmonic(base, 40)}
        joint |= {"auroc": 80.0, "openworld_auc": 50.0}
        output.add("base2new", "test_all", dataset, seed, 65, trainer=trainer, joint=joint)
    runs = find_runs(output.folder).runs
    found = joint_section(run_frame(runs, recipes(runs)))
    assert found is not None
    rows = [(row["data set"], row["method"], row["base"], row["H"], row["seeds"]) for _, row in found.values.iterrows()]
    assert rows == [
        ("Average", "MaPLe", 70, pytest.approx(harmonic(70, 40)), 1),
        ("A", "IVLP", 50, pytest.approx(harmonic(50, 40)), 1),
        ("A", "MaPLe", 75, pytest.approx(harmonic(75, 40)), 2),
        ("B", "MaPLe", 60, pytest.approx(harmonic(60, 40)), 1),
    ]


def test_results_of_earlier_versions_have_neither(output):
    output.pair("A", 1, 70, 60)
    runs = find_runs(output.folder).runs
    frame = run_frame(runs, recipes(runs))
    assert measures_section(frame) is None and joint_section(frame) is None


def test_calibration_curves_by_hand(output):
    confidence = [0.05, 0.06, 0.95, 0.95, 1.0]
    path = predicted(output, "other", "all", "A", 1, [False, True, True, False, True], confidence)
    evaluation = Evaluations().of(path.parent)
    assert evaluation is not None
    found = curves([evaluation])
    assert found.accuracy == pytest.approx([0.5, 2 / 3])  # the first and the last of 15 bins
    assert found.confidence == pytest.approx([0.055, (0.95 + 0.95 + 1) / 3], abs=1e-3)
    assert found.coverage == pytest.approx([0.2, 0.6, 0.8, 1.0])  # the two of 0.95 together
    assert found.risk == pytest.approx([0, 1 / 3, 1 / 4, 2 / 5])


def test_calibration_is_shown_by_number_of_shots(output):
    for shots in (16, 2, 1):
        predicted(output, "few_shot", "all", "A", 1, first(0.8), shots=shots)
    output.add("few_shot", "all", "A", 1, 80, shots=4)  # without predictions
    runs = find_runs(output.folder).runs
    (group,) = calibration_charts(run_frame(runs, recipes(runs)), Evaluations())
    assert [chart.caption for chart in group.charts] == [
        f"A, all, ViT-Shapes, {shots}" for shots in ("1 shot", "2 shots", "16 shots")
    ]
