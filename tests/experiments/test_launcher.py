"""Plans, and the launcher at work on them.

The folders are the CoOp lineage's, written out. Where a test is about scheduling, a stand-in that takes milliseconds is
started in the place of train.py; one test starts the real one.
"""

from __future__ import annotations

import fcntl
import io
import json
import os
import re
import shlex
import signal
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import yaml
from golden_data import write_backbones
from rich.console import Console
from score_tables import score_tables
from stand_in import finish, install, lay_out, starts
from tiny_runs import write_data

import train
from dassl.utils import UserError
from dassl.utils.locks import ALREADY_AT_WORK, LOCK_NAME, BusyError
from experiments import __main__ as program
from experiments.launch import command as launch
from experiments.launch import launcher
from experiments.launch.job import failure_in, run_command
from experiments.launch.launcher import Launch, do_run
from experiments.launch.progress import LiveView, PlainView, Tally
from experiments.launch.workers import Worker, make_workers
from experiments.plan import declaration
from experiments.plan.runs import config_variant
from experiments.plan.settings import Places, PlannedMethod, PlannedSetting, make_plan
from experiments.plan.status import is_finished
from experiments.report.runs import find_runs
from runner.result import read_plan

ROOT = Path(train.__file__).parent
SHIPPED = sorted((ROOT / "configs" / "experiments").glob("*.yaml"))
BASE2NEW = PlannedSetting("base2new", ("eurosat",))
FEW_SHOT = {"few_shot": {"datasets": ["eurosat"], "shots": [1]}}


@pytest.fixture
def places(tmp_path):
    return Places(tmp_path / "data", tmp_path / "out")


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Starts the stand-in instead of train.py."""
    program = tmp_path / "program"
    program.mkdir()
    monkeypatch.setattr(launcher, "TRAIN_PROGRAM", install(program) / "train.py")


def train_and_test(methods, seeds, places) -> list:
    """Two runs of each method and seed: a training, and the test of its model on the new classes."""
    return [run for run in make_plan([BASE2NEW], methods, seeds, places) if run.part != "test_all"]


def folders(runs, places) -> list[str]:
    return [run.folder.relative_to(places.output).as_posix() for run in runs]


def reported(run) -> dict:
    """The rest of a result that the report asks for."""
    none = ("per_class", "train_seconds", "test_seconds", "peak_memory_bytes", "few_shot_sha256", "weights_sha256")
    names = {"dataset": run.config()["DATASET"]["NAME"], "dataset_config": run.dataset, "backbone": "ViT-B/16"}
    what = {"setting": run.setting, "part": run.part, "trainer": run.method.trainer, "config": run.config_file.stem}
    size = {"shots": run.shots, "seed": run.seed, "classes": 10, "subsample_classes": "all"}
    where = {"device": "cpu", "history": [], "versions": {}, "git_commit": None, "git_dirty": False}
    return dict.fromkeys(none) | names | what | size | where


def declare(path: Path, **content) -> Path:
    content = {"trainers": ["coop"], "settings": {"base2new": {"datasets": ["eurosat"]}}} | content
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


# Plans


def test_a_shipped_file_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = declaration.read_experiment(SHIPPED[0])
    assert declaration.read_experiment(Path(SHIPPED[0].name)) == shipped
    declare(tmp_path / SHIPPED[0].name, seeds=[7])  # a file that is there comes first
    assert declaration.read_experiment(Path(SHIPPED[0].name)).seeds == (7,)


def test_every_shipped_experiment_can_go_on_from_the_middle_of_a_training():
    for file in SHIPPED:
        for method in declaration.read_experiment(file).methods:
            assert 1 <= int(dict(method.options)["TRAIN.CHECKPOINT_FREQ"]) <= 10


def test_a_launch_records_what_it_plans(stand_in, tmp_path):
    """Two launches into one folder; a dry run records nothing."""
    options = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--workers", "1"]
    path = declare(tmp_path / "x.yaml", seeds=[1], settings=FEW_SHOT)
    program.main(["run", str(path), *options, "--dry-run"])
    assert read_plan(tmp_path / "out") == []
    for seeds in ([1], [2]):
        program.main(["run", str(declare(tmp_path / "x.yaml", seeds=seeds, settings=FEW_SHOT)), *options])
    assert [Path(folder).name for folder in read_plan(tmp_path / "out")] == ["seed1", "seed2"]


def test_base_to_new(places):
    runs = make_plan([BASE2NEW], [PlannedMethod("zsclip"), PlannedMethod("maple")], [1, 2], places)
    maple = "eurosat/shots_16/MaPLe/vit_b16_c2_ep5_batch4_2ctx"
    zero_shot = "eurosat/shots_16/ZeroshotCLIP/vit_b16"
    assert folders(runs, places) == [
        f"base2new/train_base/{zero_shot}/seed1",  # does not depend on the seed: once
        f"base2new/test_new/{zero_shot}/seed1",
        f"base2new/test_all/{zero_shot}/seed1",
        f"base2new/train_base/{maple}/seed1",
        f"base2new/test_new/{maple}/seed1",
        f"base2new/test_all/{maple}/seed1",
        f"base2new/train_base/{maple}/seed2",
        f"base2new/test_new/{maple}/seed2",
        f"base2new/test_all/{maple}/seed2",
    ]
    first, second = runs[3].folder, runs[6].folder
    assert [run.needs for run in runs] == [None, None, None, None, first, first, None, second, second]
    assert [run.trains for run in runs] == [False, False, False, True, False, False, True, False, False]
    assert [run.classes for run in runs[3:6]] == ["base", "new", "all"]


@pytest.mark.parametrize(
    ("dataset", "path", "name"),
    [
        ("folder", "my_images/", "my_images"),
        ("folder", "~/photos.v2", "photos.v2"),
        ("csv", "lists/my_images.csv", "my_images"),
        ("folder", "data/EuroSAT", "EuroSAT-own"),  # not to be taken for the known data set
        ("folder", "a/\x1b[2Jb", r"\x1b[2Jb"),
        ("eurosat", "my_images/", "eurosat"),  # its reader does not look at the path
    ],
)
def test_own_data_is_called_by_its_folder_or_file(places, dataset, path, name):
    method = PlannedMethod("maple", options=(("DATASET.PATH", path),))
    settings = [
        PlannedSetting("base2new", (dataset,)),
        PlannedSetting("few_shot", (dataset,)),
        PlannedSetting("cross_dataset", (dataset,)),
    ]
    runs = make_plan(settings, [method], [1], places)
    config = "vit_b16_c2_ep5_batch4_2ctx"
    assert folders(runs, places) == [
        f"base2new/train_base/{name}/shots_16/MaPLe/{config}/seed1",
        f"base2new/test_new/{name}/shots_16/MaPLe/{config}/seed1",
        f"base2new/test_all/{name}/shots_16/MaPLe/{config}/seed1",
        f"{name}/MaPLe/{config}_16shots/seed1",
        f"imagenet/MaPLe/{config}_cross_datasets_16shots/seed1",
        f"evaluation/MaPLe/{config}_cross_datasets_16shots/{name}/seed1",
    ]
    assert (
        name in runs[0].label and name in runs[0].short_label and f"configs/datasets/{dataset}.yaml" in runs[0].command
    )
    source = make_plan([PlannedSetting("cross_dataset", ("dtd",), source=dataset)], [method], [1], places)
    assert f"_from_{name}/dtd/seed1" in str(source[1].folder)


def test_two_own_data_sets_of_one_name_do_not_share_a_folder_in_silence(places):
    methods = [PlannedMethod("maple", options=(("DATASET.PATH", path),)) for path in ("a/images", "b/images")]
    with pytest.raises(UserError, match=r"DATASET.PATH is '.*a/images' there, '.*b/images' here"):
        make_plan([PlannedSetting("few_shot", ("folder",))], methods, [1], places)


def test_cross_dataset_and_domain_generalisation_share_their_source(places):
    settings = [
        PlannedSetting("cross_dataset", ("dtd", "ucf101")),
        PlannedSetting("domain_generalization", ("imagenet_a",)),
    ]
    runs = make_plan(settings, [PlannedMethod("maple")], [1], places)
    config = "vit_b16_c2_ep5_batch4_2ctx_cross_datasets_16shots"
    assert folders(runs, places) == [
        f"imagenet/MaPLe/{config}/seed1",
        f"evaluation/MaPLe/{config}/dtd/seed1",
        f"evaluation/MaPLe/{config}/ucf101/seed1",
        f"evaluation/MaPLe/{config}/imagenet_a/seed1",
    ]
    assert {run.needs for run in runs[1:]} == {runs[0].folder}
    assert [f"{run.setting}/{run.part}" for run in runs[2:]] == ["cross_dataset/target", "domain_generalization/target"]


def test_a_training_that_two_settings_share_is_reported_in_both(places):
    few_shot, transfer = PlannedSetting("few_shot", ("imagenet",), (1, 16)), PlannedSetting("cross_dataset", ("dtd",))
    for settings in ((few_shot, transfer), (transfer, few_shot)):
        output = Places(places.data, places.output / settings[0].name)
        runs = make_plan(settings, [PlannedMethod("vpt")], [1], output)
        assert len(runs) == 3  # 16 shots once
        for accuracy, run in enumerate(sorted(runs, key=lambda run: (run.part == "target", run.shots)), 61):
            finish(run, accuracy, **reported(run))
        found = find_runs(output.output).runs
        shown = {}
        for table in score_tables(found):
            shown[table.setting] = sorted({score.mean for score in table.scores()})
        assert shown == {"few_shot": [61.0, 62.0], "cross_dataset": [62.0, 63.0]}


def test_another_source_has_folders_of_its_own(places):
    usual, other = (
        make_plan([PlannedSetting("cross_dataset", ("dtd",), source=source)], [PlannedMethod("maple")], [1], places)[1]
        for source in ("", "caltech101")
    )
    assert usual.folder != other.folder and "_from_caltech101/dtd/seed1" in str(other.folder)


def test_few_shot_as_coop_does_it(places):
    """CoOp, section 4.1: 200 epochs for 16 and 8 shots, 100 for 4 and 2, 50 for 1 and on ImageNet."""
    runs = make_plan(
        [PlannedSetting("few_shot", ("dtd", "imagenet"), (1, 2, 4, 8, 16))], [PlannedMethod("coop")], [1], places
    )
    by_shots = {1: "vit_b16_ep50", 2: "vit_b16_ep100", 4: "vit_b16_ep100", 8: "vit_b16", 16: "vit_b16"}
    below = "nctx16_cscFalse_ctpend/seed1"
    on_dtd = [f"dtd/CoOp/{config}_{shots}shots/{below}" for shots, config in by_shots.items()]
    on_imagenet = [f"imagenet/CoOp/vit_b16_ep50_{shots}shots/{below}" for shots in by_shots]
    expected = [folder for pair in zip(on_dtd, on_imagenet, strict=True) for folder in pair]
    assert folders(runs, places) == expected
    assert {run.config_file.reported_as for run in runs} == {"vit_b16_epochs_by_shots"}  # one row of the table


def test_overrides_and_variants(places, tmp_path):
    path = declare(
        tmp_path / "x.yaml",
        trainers=["coop", {"method": "prometar", "variant": "rate4", "overrides": {"TRAINER.PROMETAR.DIM_RATE": 4}}],
        overrides={"OPTIM.MAX_EPOCH": 3},
        variants={"slow": {"OPTIM.LR": 0.001}, "fast": {"OPTIM.LR": 0.1}},
        seeds=[5],
    )
    experiment = declaration.read_experiment(path)
    runs = make_plan(experiment.settings, experiment.methods, experiment.seeds, places)
    assert [config_variant(run.config_file.stem, run.variant).partition("@")[2] for run in runs[::3]] == [
        "slow",
        "fast",
        "rate4-slow",
        "rate4-fast",
    ]
    config = runs[-1].config()
    assert (config["SEED"], config["OPTIM"]["LR"], config["OPTIM"]["MAX_EPOCH"]) == (5, 0.1, 3)
    assert config["TRAINER"]["PROMETAR"]["DIM_RATE"] == 4 and config["DATASET"]["SUBSAMPLE_CLASSES"] == "all"
    assert runs[-1].folder.parent.name == "vit_b16_c2_ep10_batch4_4+4ctx@rate4-fast"


def test_two_runs_in_one_folder_are_refused(places):
    methods = [PlannedMethod("coop"), PlannedMethod("coop", options=(("OPTIM.LR", "0.5"),))]
    with pytest.raises(UserError, match="OPTIM.LR"):
        make_plan([BASE2NEW], methods, [1], places)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("trainers: [coop", "cannot read"),
        ("!!python/object/apply:os.system [true]", "cannot read"),
        ("- coop", "x.yaml: should be a mapping of keys to values, not ['coop']"),
        ("", "x.yaml: should be a mapping of keys to values, but is empty"),
        ({"trainers": []}, "trainers: is empty: name at least one"),
        ({"trainers": "coop"}, "trainers: should be a list, not 'coop': write [coop]"),
        ({"trainers": ["coopp"]}, 'trainers[0]: "coopp" is not a method; did you mean "coop"?'),
        ({"trainers": ["ProMetaR"]}, 'trainers[0]: "ProMetaR" is not a method; did you mean "prometar"?'),
        ({"trainers": ["xxxxx"]}, 'trainers[0]: "xxxxx" is not a method; choose from zsclip'),
        ({"trainers": [None]}, "trainers[0]: should be the name of a method, but is empty"),
        ({"trainers": [{"config": "vit_b16"}]}, 'trainers[0]: the key "method" is missing'),
        ({"trainers": [{"methd": "coop"}]}, 'trainers[0]: unknown key "methd"; did you mean "method"?'),
        ({"trainers": [{"method": "coop", "overides": {}}]}, 'unknown key "overides"; did you mean "overrides"?'),
        (
            {"settings": {"base2old": {"datasets": ["dtd"]}}},
            'settings: unknown key "base2old"; did you mean "base2new"?',
        ),
        ({"settings": {"base2new": {"shots": 16}}}, 'settings.base2new: the key "datasets" is missing'),
        ({"settings": {"base2new": {"datasets": "dtd"}}}, "settings.base2new.datasets: should be a list"),
        (
            {"settings": {"base2new": {"datasets": ["../dtd"]}}},
            'base2new.datasets[0]: "../dtd" is not a name of',
        ),
        ({"settings": {"base2new": {"datasets": ["dtdd"]}}}, 'data set dtdd; did you mean "dtd"?'),
        ({"settings": {"few_shot": {"datasets": ["dtd"], "shots": [0]}}}, "shots[0]: should be at least 1, not 0"),
        (
            {"settings": {"base2new": {"datasets": ["dtd"], "shots": [1, 2]}}},
            "should be a whole number, not [1, 2]",
        ),
        ({"seeds": ["one"]}, "seeds[0]: should be a whole number, not 'one'"),
        ({"seeds": [2**32]}, "seeds[0]: should be at most 4294967295, not 4294967296"),
        (
            {"trainers": [{"method": "coop", "config": "vit_b17"}]},
            "CoOp/vit_b17.yaml (KEY VALUE pairs come after CFG); did",
        ),
        ({"overrides": {"OPTIM.LEARNING_RATE": 1}}, "OPTIM.LEARNING_RATE"),
        ({"overrides": {"lr": 1}}, 'overrides: "lr" is not a config key, such as OPTIM.LR'),
        ({"overrides": {"OPTIM.MAX_EPOCH": "many"}}, "OPTIM.MAX_EPOCH"),
        ({"variants": {"a/b": {"OPTIM.LR": 1}}}, 'variants: "a/b" is not a name of letters, digits'),
        ({"sedes": [1]}, 'x.yaml: unknown key "sedes"; did you mean "seeds"?'),
    ],
)
def test_a_bad_declaration_is_one_line(tmp_path, content, says):
    path = tmp_path / "x.yaml"
    if isinstance(content, str):
        path.write_text(content)
    else:
        declare(path, **content)
    with pytest.raises(UserError) as error:
        program.main(["run", str(path), "--dry-run"])
    assert says in str(error.value) and "\n" not in str(error.value)


def test_a_part_of_an_experiment(tmp_path):
    experiment = declaration.read_experiment(declare(tmp_path / "x.yaml", trainers=["coop", "vpt"]))
    selection = declaration.Selection(methods=("vpt",), seeds=(2,))
    selection.check([experiment])
    part = selection.of(experiment)
    assert [method.name for method in part.methods] == ["vpt"] and part.seeds == (2,)
    assert part.settings == experiment.settings
    with pytest.raises(UserError, match="no data set dtd is declared; choose from eurosat"):
        declaration.Selection(datasets=("dtd",)).check([experiment])


def test_there_are_shipped_experiments():
    settings = ("base2new", "cross_dataset", "domain_generalization", "few_shot")
    expected = [f"{kind}_{setting}" for kind in ("embedded", "paper") for setting in settings]
    assert [path.stem for path in SHIPPED] == expected


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_experiment(path, places):
    first = path.read_text().splitlines()[0]
    assert first == f"# python -m experiments run configs/experiments/{path.name}"
    experiment = declaration.read_experiment(path)
    runs = make_plan(experiment.settings, experiment.methods, experiment.seeds, places)
    assert path.stem.endswith(experiment.settings[0].name) and experiment.seeds == (1, 2, 3)
    launch.check_configs(runs)
    backbone = "ViT-Shapes" if path.stem.startswith("embedded") else "ViT-B/16"
    assert {run.config()["MODEL"]["BACKBONE"]["NAME"] for run in runs[:5]} == {backbone}


def test_dry_run_prints_commands_that_work_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    path = declare(tmp_path / "x.yaml", overrides={"TRAINER.COOP.CTX_INIT": "a photo of a"}, seeds=[3])
    options = ["--data", str(tmp_path / "my data"), "--output", str(tmp_path / "out"), "--dry-run"]
    assert program.main(["run", str(path), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(line.startswith("python train.py ") for line in lines)
    for line, classes in zip(lines, ("base", "new", "all"), strict=True):
        cfg = train.setup_cfg(train.parse_args(shlex.split(line)[2:]))
        assert cfg.SEED == 3 and cfg.DATASET.NUM_SHOTS == 16 and classes == cfg.DATASET.SUBSAMPLE_CLASSES
        assert cfg.TRAINER.COOP.CTX_INIT == "a photo of a" and str(tmp_path / "my data") == cfg.DATASET.ROOT
    assert not (tmp_path / "out").exists()


# What has finished


def test_a_folder_or_a_log_is_no_result(places):
    run = train_and_test([PlannedMethod("coop")], [1], places)[0]
    run.folder.mkdir(parents=True)
    (run.folder / "log.txt").write_text("Finish training\n* accuracy: 90.0%\n")
    assert not is_finished(run)
    finish(run)
    assert is_finished(run)


@pytest.mark.parametrize("text", ["{", "[]", '{"finished": false}', '{"finished": true, "schema": 99}', None])
def test_an_unusable_result_is_named(places, text):
    run = train_and_test([PlannedMethod("coop")], [1], places)[0]
    run.folder.mkdir(parents=True)
    path = run.folder / "result.json"
    path.write_text(text) if text else os.mkfifo(path)
    with pytest.raises(UserError, match="result.json"):
        is_finished(run)


@pytest.mark.parametrize(
    "change",
    [
        {"date": 5},
        {"date": "\ud800"},
        {"full_config": []},
        {"results": None},
        {"results": {"accuracy": "high"}},
        {"results": {"accuracy": 130}},
        {"results": {"accuracy": 10**400}},
    ],
)
def test_a_damaged_result_is_one_line_and_stops_only_what_needs_it(places, stand_in, change, capsys):
    runs = train_and_test([PlannedMethod("coop"), PlannedMethod("vpt")], [1], places)
    for run in runs:
        lay_out(run)
    finish(runs[0], **change)
    tally = launched(runs)
    assert (tally.finished, list(tally.failures)) == (2, runs[:2])
    why = tally.failures[runs[0]]
    assert f"{runs[0].folder / 'result.json'} is damaged" in why and "\n" not in why
    capsys.readouterr()


@pytest.mark.parametrize("folder", ["../..", "/etc", "\ud800", ""])
def test_a_plan_that_leads_elsewhere_stops_a_launch_before_it_begins(stand_in, tmp_path, folder):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "plan.json").write_text(json.dumps({"folders": ["a", folder]}))
    options = ["--data", str(tmp_path / "data"), "--output", str(tmp_path / "out"), "--workers", "1"]
    with pytest.raises(UserError, match="plan.json names .*delete it") as caught:
        program.main(["run", str(declare(tmp_path / "x.yaml", seeds=[1], settings=FEW_SHOT)), *options])
    assert str(caught.value).isprintable() and not list((tmp_path / "out").glob("eurosat"))


def test_the_configuration_must_be_the_planned_one(places):
    (run, test), (other, _), (harmless, _), (drawn_otherwise, same_test) = (
        train_and_test([PlannedMethod("coop", options=options)], [1], places)
        for options in ((), (("OPTIM.LR", "0.5"),), (("TRAIN.PRINT_FREQ", "3"),), (("DATALOADER.NUM_WORKERS", "3"),))
    )
    finish(run)
    finish(test)
    assert is_finished(harmless)
    with pytest.raises(UserError, match="DATALOADER.NUM_WORKERS is 8 there, planned: 3"):
        is_finished(drawn_otherwise)  # other augmentations
    assert is_finished(same_test)  # nothing is augmented
    with pytest.raises(UserError, match=r"OPTIM.LR is 0.002 there, planned: 0.5"):
        is_finished(other)
    older = run.config()
    del older["DETERMINISTIC"], older["OPTIM"]["LR"]  # as if recorded before there were such keys
    finish(run, full_config=older)
    with pytest.raises(UserError, match=r"OPTIM.LR is 0.0003 there"):  # its default, from Dassl
        is_finished(run)


def test_a_test_of_an_older_model_is_repeated(places):
    trained, tested = train_and_test([PlannedMethod("coop")], [1], places)
    finish(trained)
    finish(tested)
    assert is_finished(tested)
    finish(trained)
    assert not is_finished(tested)


# At work


def launched(runs, workers=2, view=PlainView):
    tally = Tally(len(runs))
    left = launch.split_finished(runs, tally)
    with tempfile.TemporaryDirectory() as folder:
        Launch([Worker(str(k)) for k in range(workers)], Path(folder), view(tally), tally).work(left)
    return tally


def test_a_failing_run_stops_only_what_needs_it(places, stand_in, capsys):
    runs = train_and_test([PlannedMethod("coop"), PlannedMethod("vpt")], [1, 2], places)
    for run in runs:
        lay_out(run)
    lay_out(runs[0], status=1, says="no such file: split.json")
    tally = launched(runs)
    assert (tally.finished, list(tally.failures)) == (6, runs[:2])
    assert "no such file: split.json" in tally.failures[runs[0]] and "needs a run" in tally.failures[runs[1]]
    printed = capsys.readouterr().out
    assert printed.count("FAILED") == 2 and printed.count("accuracy 50.0 %") == 6
    assert "something after" in (runs[0].folder / "console.txt").read_text()

    lay_out(runs[0])
    again = launched(runs)
    assert (again.skipped, again.finished, len(again.failures)) == (6, 2, 0)
    assert [len(starts(run)) for run in runs] == [2, 1, 1, 1, 1, 1, 1, 1]


def test_a_test_comes_after_its_training(places, stand_in):
    runs = train_and_test([PlannedMethod("coop"), PlannedMethod("vpt")], [1], places)
    for run in runs:
        lay_out(run, seconds=2.0 if run.trains else 0.0)
    launched(runs, workers=4)
    for trained, tested in (runs[:2], runs[2:]):
        assert (tested.folder / "started.txt").stat().st_mtime > (trained.folder / "result.json").stat().st_mtime
    both = [(run.folder / "started.txt").stat().st_mtime for run in (runs[0], runs[2])]
    assert max(both) < min((run.folder / "result.json").stat().st_mtime for run in (runs[0], runs[2]))  # side by side


def test_a_result_of_something_else_is_left_alone(places, stand_in):
    runs = train_and_test([PlannedMethod("coop")], [1], places)
    finish(train_and_test([PlannedMethod("coop", options=(("OPTIM.LR", "0.5"),))], [1], places)[0])
    before = (runs[0].folder / "result.json").read_bytes()
    tally = launched(runs)
    assert "OPTIM.LR is 0.5 there" in tally.failures[runs[0]] and len(tally.failures) == 2
    assert (runs[0].folder / "result.json").read_bytes() == before and not starts(runs[0])


def test_a_process_that_ends_without_a_result_has_failed(places, stand_in):
    run = train_and_test([PlannedMethod("coop")], [1], places)[0]
    lay_out(run, config=run.config() | {"SEED": 7})
    assert "SEED is 7 there" in launched([run]).failures[run]


def test_a_process_that_ends_in_silence_has_failed(places, tmp_path, monkeypatch):
    (tmp_path / "train.py").touch()
    monkeypatch.setattr(launcher, "TRAIN_PROGRAM", tmp_path / "train.py")
    run = train_and_test([PlannedMethod("coop")], [1], places)[0]
    assert re.fullmatch(r"job \d+ ended as FINISHED without a result: no output", launched([run]).failures[run])


def test_ctrl_c_ends_what_is_at_work_and_the_next_launch_goes_on(places, stand_in):
    class Impatient(PlainView):
        def refresh(self, working):
            if all(starts(run) for run in working):
                raise KeyboardInterrupt

    runs = train_and_test([PlannedMethod("coop"), PlannedMethod("vpt")], [1], places)
    for run in runs:
        lay_out(run, seconds=30)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        launched(runs, view=Impatient)
    assert time.monotonic() - began < 15
    for run in (runs[0], runs[2]):
        with pytest.raises(ProcessLookupError):
            os.kill(int(starts(run)[0][0]), 0)
    for run in runs:
        lay_out(run)
    assert launched(runs).finished == 4


def test_what_a_killed_launcher_left_at_work_is_waited_for(places, stand_in, monkeypatch, capsys):
    monkeypatch.setattr(launcher, "SECONDS_UNTIL_RETRY", 0.1)
    runs = train_and_test([PlannedMethod("coop")], [1], places)
    for run in runs:
        lay_out(run)
    lay_out(runs[0], seconds=1.5)
    with open(runs[0].folder / LOCK_NAME, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        command = [sys.executable, launcher.TRAIN_PROGRAM, *runs[0].arguments]
        left_behind = subprocess.Popen(command, pass_fds=[file.fileno()])  # holds it to its end, as train.py does
    with pytest.raises(BusyError):
        launcher.claim(runs[0])
    assert launched(runs).finished == 2
    assert "waiting for the process at work" in capsys.readouterr().out
    assert left_behind.wait() == 0 and len(starts(runs[0])) == 1


def test_a_run_that_another_launch_began_at_the_same_time_is_waited_for(places, stand_in, monkeypatch):
    """Between the launcher's look at the folder and the lock of its train.py another train.py came first."""

    class OtherFinishes(PlainView):
        def say(self, line):
            super().say(line)
            if "waiting for the process at work" in line:
                lay_out(run)

    monkeypatch.setattr(launcher, "SECONDS_UNTIL_RETRY", 0.1)
    run = train_and_test([PlannedMethod("coop")], [1], places)[0]
    lay_out(run, status=1, says=f"{ALREADY_AT_WORK} {run.folder} (process 7 on host): wait for its end")
    tally = launched([run], view=OtherFinishes)
    assert (tally.finished, tally.failures) == (1, {}) and len(starts(run)) == 2


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("import sys; print('error: no memory'); print('after'); sys.exit(3)", "exit status 3: error: no memory"),
        ("import os; print('words', flush=True); os.kill(os.getpid(), 9)", "killed by signal 9: words"),
        ("raise SystemExit(1)", "exit status 1: no output"),
        ("", None),
    ],
)
def test_a_job_says_how_its_command_ended(tmp_path, script, why, capsys):
    console = tmp_path / "console.txt"
    assert run_command([sys.executable, "-c", script], tmp_path, console, {}) == why
    assert failure_in(f"submitit INFO\n{capsys.readouterr().out}submitit INFO\n") == why


@pytest.mark.parametrize("stop", ["Ctrl-C on the terminal", "kill"])
def test_an_interrupted_launch_says_one_line_and_leaves_no_process(places, stand_in, tmp_path, stop):
    """Ctrl-C reaches the launcher and every process of submitit, `kill` the launcher alone."""
    run = make_plan([PlannedSetting("few_shot", ("eurosat",), (1,))], [PlannedMethod("coop")], [1], places)[0]
    lay_out(run, seconds=60)
    path = declare(tmp_path / "x.yaml", seeds=[1], settings=FEW_SHOT)
    command = "import pathlib, sys; from experiments.launch import launcher; from experiments.__main__ import main; "
    command += f"launcher.TRAIN_PROGRAM = pathlib.{launcher.TRAIN_PROGRAM!r}; sys.exit(main(sys.argv[1:]))"
    words = ["run", path, "--data", places.data, "--output", places.output, "--workers", "1"]
    process = subprocess.Popen(
        [sys.executable, "-c", command, *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not starts(run) and process.poll() is None:
            time.sleep(0.1)
        if stop == "kill":
            process.terminate()
        else:
            os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (130, "interrupted: the same command continues\n")
        assert "1 left" in output
        for left_behind in (lambda: os.kill(int(starts(run)[0][0]), 0), lambda: os.killpg(process.pid, 0)):
            with pytest.raises(ProcessLookupError):
                left_behind()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def test_workers(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert [worker.environment for worker in make_workers(2)] == [{"OMP_NUM_THREADS": "1"}] * 2
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [worker.environment["CUDA_VISIBLE_DEVICES"] for worker in make_workers(3)] == ["0", "1", "0"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [worker.environment["CUDA_VISIBLE_DEVICES"] for worker in make_workers(None)] == ["3", "5"]


def test_the_environment_reaches_the_process(places, stand_in, tmp_path):
    run = train_and_test([PlannedMethod("coop")], [1], places)[0]
    lay_out(run)
    tally = Tally(1)
    variables = {"CUDA_VISIBLE_DEVICES": "GPU-5a", "OMP_NUM_THREADS": "1"}  # submitit itself knows numbers only
    Launch([Worker("here", variables)], tmp_path, PlainView(tally), tally).work([run])
    assert starts(run)[0][1:] == ["GPU-5a", "1"]


def test_the_live_view(places, stand_in, tmp_path):
    screen = io.StringIO()
    runs = train_and_test([PlannedMethod("coop"), PlannedMethod("vpt")], [1], places)
    for run in runs:
        lay_out(run, seconds=0.3)
    lay_out(runs[0], status=1, says="bad [image]")
    tally = Tally(len(runs))
    with LiveView(tally, Console(file=screen, force_terminal=True, width=200)) as view:
        Launch([Worker("here")], tmp_path, view, tally).work(runs)
    shown = screen.getvalue()
    assert "all runs, 2 failed" in shown and "4/4" in shown and "bad [image]" in shown


def test_the_time_left_is_shown(places, stand_in, tmp_path, capsys):
    """Zero-shot CLIP: one run, and then four, of which that one has finished."""
    words = ["--root", str(places.data), "--output-dir", str(places.output), "--workers", "1"]
    settings = [PlannedSetting("few_shot", ("eurosat",), (1,)), BASE2NEW]
    for run in make_plan(settings, [PlannedMethod("zsclip")], [1], places):
        lay_out(run, seconds=0.1)
    one, three = FEW_SHOT, FEW_SHOT | {"base2new": {"datasets": ["eurosat"]}}
    for settings, expected in ((one, "not known before a run of each kind has ended (1 run)"), (three, "about")):
        path = declare(tmp_path / "x.yaml", trainers=["zsclip"], settings=settings)
        assert program.main(["run", str(path), *words]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert expected in lines[0]
    assert re.fullmatch(r"4 runs, 1 of them finished before; about \d+ s left", lines[0])
    finished = [line for line in lines if " finished base2new/" in line]
    assert re.search(r"\(\d+ s\); about \d+ s left$", finished[0]) and finished[-1].endswith(" s)")


def test_a_launch_leaves_no_files_of_its_jobs(places, stand_in, tmp_path, capsys, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (run,) = make_plan([PlannedSetting("few_shot", ("eurosat",), (1,))], [PlannedMethod("zsclip")], [1], places)
    lay_out(run)
    path = declare(tmp_path / "x.yaml", trainers=["zsclip"], settings=FEW_SHOT)
    command = ["run", str(path), "--data", str(places.data), "--output", str(places.output), "--launcher", "local"]
    assert program.main(command) == 0
    assert "1 finished now" in capsys.readouterr().out
    assert not list((tmp_path / "temporary").iterdir()) and not (places.output / "jobs").exists()
    assert (places.output / "eurosat" / "ZeroshotCLIP" / "vit_b16_0shots" / "seed1" / "result.json").is_file()


# Jobs


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """Slurm's commands, as far as submitting needs them: sbatch keeps the files that it is given."""
    commands, queue = tmp_path / "bin", tmp_path / "queue"
    commands.mkdir()
    queue.mkdir()
    (commands / "srun").write_text("#!/bin/sh\n")
    number = f'n=$(($(ls "{queue}" | wc -l) + 1))'
    (commands / "sbatch").write_text(f'#!/bin/sh\n{number}\ncp "$1" "{queue}/$n"\necho "Submitted batch job $n"\n')
    for command in commands.iterdir():
        command.chmod(command.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", "")
    return queue


def test_slurm_runs_a_test_after_its_training(slurm, tmp_path, capsys):
    path = declare(tmp_path / "x.yaml", seeds=[1], settings={"cross_dataset": {"datasets": ["dtd", "ucf101"]}})
    options = ["--output", str(tmp_path / "out"), "--launcher", "slurm", "--no-wait"]
    assert program.main(["run", str(path), *options, "--slurm", "slurm_partition=gpu", "timeout_min=90"]) == 0
    files = {file.name: file.read_text().splitlines() for file in slurm.iterdir()}
    dependencies = {name: [line for line in lines if "dependency" in line] for name, lines in files.items()}
    after = ["#SBATCH --dependency=afterok:1"]
    assert dependencies == {"1": [], "2": after, "3": after}
    assert all("#SBATCH --partition=gpu" in lines and "#SBATCH --time=90" in lines for lines in files.values())
    assert "3 left" in capsys.readouterr().out


def test_slurm_begins_a_training_after_no_other_run(slurm, tmp_path):
    path = declare(tmp_path / "x.yaml", trainers=["coop", "vpt"], seeds=[1])
    options = ["--output", str(tmp_path / "out"), "--launcher", "slurm", "--no-wait"]
    assert program.main(["run", str(path), *options]) == 0
    files = {file.name: file.read_text().splitlines() for file in slurm.iterdir()}
    dependencies = {name: [line for line in lines if "dependency" in line] for name, lines in sorted(files.items())}
    first, second = [AFTER.format(1)], [AFTER.format(4)]
    assert dependencies == {"1": [], "2": first, "3": first, "4": [], "5": second, "6": second}


AFTER = "#SBATCH --dependency=afterok:{}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--slurm", "timeout_min=9"], "add --launcher slurm"),
        (["--no-wait"], "add --launcher slurm"),
        (["--launcher", "slurm", "--workers", "2"], "--workers and --launcher slurm exclude each other"),
    ],
)
def test_flags_without_effect_are_refused(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        program.main(["run", str(declare(tmp_path / "x.yaml")), "--dry-run", *options])


def test_slurm_is_needed_for_slurm(tmp_path, monkeypatch):
    path = declare(tmp_path / "x.yaml")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", "")
    with pytest.raises(UserError, match="slurm"):
        program.main(["run", str(path), "--output", str(tmp_path / "out"), "--launcher", "slurm"])
    with pytest.raises(UserError, match="KEY=VALUE"):
        program.main(["run", str(path), "--launcher", "slurm", "--slurm", "gpu"])


def test_a_job_is_safe_to_submit_twice(places, stand_in):
    trained, tested = train_and_test([PlannedMethod("coop")], [1], places)
    lay_out(trained, status=1, says="no memory")
    with pytest.raises(UserError, match="no memory"):
        do_run(trained)
    with pytest.raises(UserError, match="no finished training"):
        do_run(tested)
    lay_out(trained)
    do_run(trained)
    do_run(trained)
    assert len(starts(trained)) == 2


# The real train.py


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A tiny data set, and overrides that put the tiny CLIP into every config."""
    folder = tmp_path_factory.mktemp("world")
    write_data(folder / "data")
    tiny = {"MODEL.BACKBONE.NAME": str(write_backbones(folder)["vit"]), "INPUT.SIZE": "(64, 64)"}
    return folder, tiny | {"DATALOADER.NUM_WORKERS": 0, "OPTIM.MAX_EPOCH": 2, "TRAINER.COOP.PREC": "fp32"}


def test_trains_and_skips(world, tmp_path, capsys):
    folder, tiny = world
    path = declare(tmp_path / "x.yaml", overrides=tiny, seeds=[1], settings=FEW_SHOT)
    command = ["run", str(path), "--data", str(folder / "data"), "--output", str(tmp_path), "--workers", "1"]
    assert program.main(command) == 0
    assert "1 run: 1 finished now, 0 before, 0 failed\nnow: " in capsys.readouterr().out
    (file,) = tmp_path.glob("eurosat/CoOp/vit_b16_ep50_1shots/nctx16_cscFalse_ctpend/seed1/result.json")
    result = json.loads(file.read_text())
    assert (result["setting"], result["part"], result["config"]) == ("few_shot", "all", "vit_b16_epochs_by_shots")
    assert (result["classes"], result["shots"], len(result["history"])) == (7, 1, 2)
    assert result["train_seconds"] > 0 and result["test_seconds"] > 0  # what the time left is told by
    assert program.main(command) == 0
    shown = capsys.readouterr().out
    assert "0 finished now, 1 before" in shown
    assert shown.splitlines()[-1] == f"now: python -m experiments report {tmp_path}"
