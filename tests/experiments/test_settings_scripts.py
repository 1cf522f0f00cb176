"""The scripts of the four settings: for every method, with the lineage's names, arguments and folders.

The scripts hand on to `experiments.launch.single`, which is tested here without training; README's tests train.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from stand_in import finish

import train
from dassl.config import get_cfg_default, merge_file
from dassl.utils import UserError
from dassl.utils.locks import lock
from experiments import __main__ as program
from experiments.launch import single as one
from experiments.plan.methods import EMBEDDED, METHODS, VARIANTS, ConfigFile, default_config_file
from experiments.plan.settings import PlannedMethod
from trainers.core.facts import ALL_SETTINGS

ROOT = Path(train.__file__).parent
SCRIPTS = {
    "base2new_train": ["train_base"],
    "base2new_test": ["test_new", "test_all"],
    "xd_train": ["source"],
    "xd_test": ["target"],
    "few_shot": ["all"],
}


@pytest.fixture
def places(tmp_path, monkeypatch):
    """DATA and OUTPUT in the environment, nothing else of what scripts read there."""
    for name in ("SHOTS", "SOURCE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATA", str(tmp_path / "data"))
    monkeypatch.setenv("OUTPUT", str(tmp_path / "out"))
    return tmp_path


def run_of(kind: str, method: str, *words: str):
    return one.read_request(kind, method, words).run()


def folder_of(places, kind: str, method: str, *words: str) -> str:
    return run_of(kind, method, *words).folder.relative_to(places / "out").as_posix()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_every_method_has_every_script(method, script):
    lines = (ROOT / "scripts" / method / f"{script}.sh").read_text().splitlines()
    assert lines[1].startswith(f"# bash scripts/{method}/{script}.sh DATASET S")
    calls = [f'bash "$(dirname "${{BASH_SOURCE[0]}}")/../run.sh" {kind} {method} "$@"' for kind in SCRIPTS[script]]
    last = f"exec {calls[-1]}"
    if len(calls) > 1:  # the first call has answered --help
        last = f"[[ ${{1:-}} == -h || ${{1:-}} == --help ]] || {last}"
    assert lines[2:] == [*(f"{call} || exit" for call in calls[:-1]), last]


@pytest.mark.parametrize("setting", ALL_SETTINGS)
@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_config_for_every_setting(name, setting):
    method = METHODS[name]
    for dataset in ("shapes", "imagenet", "dtd"):
        for shots in (1, 2, 4, 8, 16):
            config_file = default_config_file(method, setting, dataset, shots)
            path = ROOT / "configs" / "trainers" / method.folder / f"{config_file.stem}.yaml"
            assert ("ViT-Shapes" if dataset in EMBEDDED else "ViT-B/16") == backbone_in(path)


@cache
def backbone_in(path: Path) -> str:
    """MODEL.BACKBONE.NAME of a valid config file; many settings, data sets and shots have the same file."""
    assert path.is_file()
    cfg = get_cfg_default()
    train.extend_cfg(cfg)
    merge_file(cfg, str(path))
    return cfg.MODEL.BACKBONE.NAME


def test_data_sets_with_published_settings_of_their_own_get_them(places):
    """Reported with the others, whatever file they took. Expected: the published train.py files."""
    folder = folder_of(places, "train_base", "tcp", "sun397", "1")
    assert folder == "base2new/train_base/sun397/shots_16/TCP/vit_b16_ep25_ctxv1/seed1"
    assert "/vit_b16_ep100_ctxv1/" in folder_of(places, "train_base", "tcp", "dtd", "1")
    assert "/vit_b16_ep5_imnet_16shots/" in folder_of(places, "target", "mma", "dtd", "1")
    assert "/coprompt_dtd/" in folder_of(places, "test_new", "coprompt", "dtd", "1")
    assert "/coprompt/" in folder_of(places, "train_base", "coprompt", "folder", "1")
    assert default_config_file(METHODS["coprompt"], "base2new", "dtd", 16).reported_as == "coprompt"
    assert default_config_file(METHODS["prograd"], "base2new", "imagenet", 16) == ConfigFile(
        "vit_b16_ep50", "vit_b16_ep100"
    )
    for method in METHODS.values():
        further = method.recipes.few_shot_by_dataset.values()
        by_shots = [config for own in further for config in ([own] if isinstance(own, str) else own.values())]
        for config in (*method.recipes.by_dataset.values(), *by_shots):
            assert (ROOT / "configs" / "trainers" / method.folder / f"{config}.yaml").is_file()


def test_few_shot_settings_of_some_data_sets_are_taken_there_only():
    """Expected: the READMEs and scripts of ProGrad (lambda) and PromptSRC (mean and width of the epochs' weights)."""
    prograd, promptsrc = METHODS["prograd"], METHODS["promptsrc"]
    usual = ConfigFile("vit_b16", "vit_b16_epochs_by_shots")
    for dataset in ("oxford_flowers", "dtd", "eurosat"):
        expected = {4: "vit_b16_ep100", 8: "vit_b16_lambda08", 16: "vit_b16_lambda08"}
        for shots, config in expected.items():
            config_file = default_config_file(prograd, "few_shot", dataset, shots)
            assert config_file == ConfigFile(config, usual.reported)
        assert default_config_file(prograd, "base2new", dataset, 16).stem == "vit_b16_ep100"
    assert default_config_file(prograd, "few_shot", "food101", 16) == usual
    name = "vit_b16_c2_ep50_batch4_4+4ctx_few_shot"
    for dataset in ("stanford_cars", "oxford_flowers", "fgvc_aircraft", "dtd", "eurosat"):
        assert default_config_file(promptsrc, "few_shot", dataset, 1) == ConfigFile(f"{name}_gpa45", name)
        assert default_config_file(promptsrc, "base2new", dataset, 16).stem == "vit_b16_c2_ep20_batch4_4+4ctx"
    assert default_config_file(promptsrc, "few_shot", "food101", 1).stem == name


def test_a_method_without_a_config_is_told_what_to_do(tmp_path, monkeypatch):
    for module in ("methods", "settings"):
        monkeypatch.setattr(f"experiments.plan.{module}.ROOT", tmp_path)
    with pytest.raises(
        UserError, match=r"configs/trainers/CoOp/\w+.yaml .*; write it, or copy that of a similar method$"
    ):
        PlannedMethod("coop").config_file("base2new", "dtd", 16)


@pytest.mark.parametrize("base", ["vit_b16", "vit_shapes"])
@pytest.mark.parametrize(
    ("folder", "base_to_new", "transfer"),
    [
        ("MaPLe", "_c2_ep5_batch4_2ctx", "_c2_ep5_batch4_2ctx_cross_datasets"),
        ("IVLP", "_c2_ep20_batch4_4+4ctx", "_c2_ep20_batch4_4+4ctx_cross_datasets"),
        ("PromptSRC", "_c2_ep20_batch4_4+4ctx", "_c2_ep20_batch4_4+4ctx_cross_datasets"),
        ("ProMetaR", "_c2_ep10_batch4_4+4ctx", "_c2_ep10_batch4_4+4ctx_cross_datasets"),
    ],
)
def test_cross_dataset_configs_are_shallower(base, folder, base_to_new, transfer):
    """A third of the depth, as published for MaPLe and PromptSRC (3 of 9); on the embedded model 1 of 3."""
    depths = []
    for stem in (base_to_new, transfer):
        cfg = get_cfg_default()
        train.extend_cfg(cfg)
        merge_file(cfg, str(ROOT / "configs" / "trainers" / folder / f"{base}{stem}.yaml"))
        node = cfg.TRAINER[folder.upper()]
        depths.append({key: value for key, value in node.items() if key.startswith("PROMPT_DEPTH")})
    assert depths[0] and {key: value // 3 for key, value in depths[0].items()} == depths[1]


def test_folders_are_the_lineages(places, monkeypatch):
    b2n, maple = "vit_b16_c2_ep5_batch4_2ctx", "vit_b16_c2_ep5_batch4_2ctx_cross_datasets_16shots"
    assert folder_of(places, "train_base", "maple", "dtd", "2") == f"base2new/train_base/dtd/shots_16/MaPLe/{b2n}/seed2"
    assert folder_of(places, "test_new", "maple", "dtd", "2") == f"base2new/test_new/dtd/shots_16/MaPLe/{b2n}/seed2"
    assert folder_of(places, "test_all", "maple", "dtd", "2") == f"base2new/test_all/dtd/shots_16/MaPLe/{b2n}/seed2"
    assert folder_of(places, "source", "maple", "imagenet", "1") == f"imagenet/MaPLe/{maple}/seed1"
    assert folder_of(places, "source", "maple", "1") == f"imagenet/MaPLe/{maple}/seed1"
    assert folder_of(places, "target", "maple", "dtd", "1") == f"evaluation/MaPLe/{maple}/dtd/seed1"
    assert folder_of(places, "all", "maple", "dtd", "4", "3") == f"dtd/MaPLe/{b2n}_4shots/seed3"
    mine = folder_of(places, "all", "coop", "dtd", "4", "3", "rn50", "TRAINER.COOP.N_CTX", "4")
    assert mine == "dtd/CoOp/rn50_4shots/nctx4_cscFalse_ctpend/seed3"
    monkeypatch.setenv("SHOTS", "2")
    assert "/shots_2/" in folder_of(places, "train_base", "maple", "dtd", "2")


def test_a_target_is_tested_with_its_source(places, monkeypatch):
    for target in (*sorted(VARIANTS), "dtd", "glyphs"):
        run = run_of("target", "maple", target, "1")
        assert run.needs == run_of("source", "maple", "shapes" if target in EMBEDDED else "imagenet", "1").folder
        assert run.setting == ("cross_dataset" if target in ("dtd", "glyphs") else "domain_generalization")
    monkeypatch.setenv("SOURCE", "caltech101")
    run = run_of("target", "maple", "dtd", "1")
    assert run.needs == run_of("source", "maple", "caltech101", "1").folder


@pytest.mark.parametrize(
    ("kind", "words", "says"),
    [
        ("train_base", [], "needs DATASET SEED"),
        ("train_base", ["dtd"], "needs DATASET SEED"),
        ("all", ["dtd", "16"], "needs DATASET SHOTS SEED"),
        ("train_base", ["dtd", "first"], "'first'"),
        ("train_base", ["dtdd", "1"], "dtdd"),
        ("train_base", ["dtd", "1", "vit_b17"], "configs/trainers/VPT/vit_b17.yaml"),
        ("train_base", ["dtd", "1", "OPTIM.LR", "1"], "KEY VALUE that come after CFG"),
        ("train_base", ["dtd", "1", "vit_b16_c2_ep5_batch4_4", "OPTIM.LR"], "after CFG"),
    ],
)
def test_a_bad_call_is_one_line(places, kind, words, says):
    with pytest.raises(UserError) as error:
        program.main(["one", kind, "vpt", *words])
    assert says in str(error.value) and "\n" not in str(error.value)


def test_what_has_finished_is_not_run_again(places, monkeypatch, capsys):
    """training is replaced by what each step of the story makes of it."""
    trained, tested = run_of("train_base", "vpt", "dtd", "1"), run_of("test_new", "vpt", "dtd", "1")
    started = []

    def ends(run, error=None):
        def main(args):
            started.append(args.output_dir)
            if error:
                raise error
            finish(run)

        monkeypatch.setattr("experiments.launch.single.train", main)

    with pytest.raises(UserError, match="no finished training.*bash scripts/vpt/base2new_train.sh dtd 1$"):
        program.main(["one", "test_new", "vpt", "dtd", "1"])
    monkeypatch.setenv("SHOTS", "4")
    with pytest.raises(UserError, match=r"SHOTS=4 bash scripts/vpt/base2new_train.sh dtd 1 vit_\S+ OPTIM.MAX_EPOCH 2"):
        program.main(["one", "test_new", "vpt", "dtd", "1", "vit_b16_c2_ep5_batch4_4", "OPTIM.MAX_EPOCH", "2"])
    monkeypatch.delenv("SHOTS")
    ends(trained, UserError("no memory"))
    with pytest.raises(UserError, match="no memory"):
        program.main(["one", "train_base", "vpt", "dtd", "1"])
    assert not trained.folder.exists()  # nothing had begun
    trained.folder.mkdir(parents=True)
    (trained.folder / "log.txt").write_text("Finish training\n* accuracy: 90.0%\n")  # as a crash may leave it
    ends(trained)
    program.main(["one", "train_base", "vpt", "dtd", "1"])
    assert "has an unfinished run: continuing" in capsys.readouterr().out
    program.main(["one", "train_base", "vpt", "dtd", "1"])
    assert re.search(r"Results are available in .*\(\* accuracy: 50.0%\)", capsys.readouterr().out)
    ends(tested)
    program.main(["one", "test_new", "vpt", "dtd", "1"])
    assert started == [str(trained.folder), str(trained.folder), str(tested.folder)]
    with pytest.raises(UserError, match="OPTIM.LR"):
        program.main(["one", "train_base", "vpt", "dtd", "1", "vit_b16_c2_ep5_batch4_4", "OPTIM.LR", "0.5"])


def test_a_run_that_is_at_work_is_left_to_it(places, monkeypatch):
    run = run_of("train_base", "vpt", "dtd", "1")
    taken = lock(run.folder)
    with pytest.raises(UserError, match="another process is at work"):
        program.main(["one", "train_base", "vpt", "dtd", "1"])
    taken.release()
    monkeypatch.setattr("experiments.launch.single.train", lambda args: finish(run))
    assert program.main(["one", "train_base", "vpt", "dtd", "1"]) == 0


def test_scripts_and_launcher_see_each_others_runs(places, monkeypatch, capsys):
    """What a script is asked for is the run that the launcher plans."""
    base2new = [(part, "dtd", "1") for part in ("train_base", "test_new", "test_all")]
    for words in (*base2new, ("source", "imagenet", "1")):
        finish(run_of(words[0], "vpt", *words[1:]))
    path = places / "x.yaml"
    path.write_text(
        "trainers: [vpt]\nseeds: [1]\nsettings:\n  base2new: {datasets: [dtd]}\n  cross_dataset: {datasets: [dtd]}\n"
    )
    assert program.main(["run", str(path), "--dry-run"]) == 0
    assert capsys.readouterr().out.count("python train.py") == 1  # the test on the target is left


def bash(*words: str, **environment: str) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", *words],
        cwd=ROOT / "scripts",  # relative paths are the repository's, wherever a script is called
        env=os.environ | {"VIRTUAL_ENV": sys.prefix, "PATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_script_ends_with_one_line(tmp_path):
    done = bash("maple/xd_test.sh", "dtd", "1", OUTPUT=str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "target maple dtd: loading PyTorch\n")
    assert done.stderr.startswith(f"error: {tmp_path}/imagenet/MaPLe/") and done.stderr.count("\n") == 1
    assert "bash scripts/maple/xd_train.sh imagenet 1" in done.stderr


def test_coops_own_script_wants_its_six_arguments():
    done = bash("coop/main.sh", "caltech101", "vit_b16_ep50", "end", "16")
    assert done.returncode == 2 and "DATASET CFG CTP NCTX SHOTS CSC" in done.stderr
