"""--plugin: trainers of other repositories, in files of other people's shape (tests/helpers/plugins).

Expected values: the stand-ins' own names and constants; for PromptSRC, the recording of the published run.
"""

from __future__ import annotations

import builtins
import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from forked import run_forked
from golden_data import compact_recording, images
from golden_replay import STEPS, Deviations, evaluate, load_initial_values
from tiny_runs import build_trainer, make_cfg, set_position

import train
from dassl.config import get_cfg_default
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import UserError, read_json
from runner import plugins
from runner.plugin_config import flag_defaults, parsed, pruned
from trainers.core.learned import load_learned
from trainers.core.ranges import check_all_ranges

ROOT = Path(train.__file__).parent
STAND_INS = Path(__file__).parents[1] / "helpers" / "plugins"
OURS: dict[str, type] = {}
"""The trainers that are registered before a test."""
HEAD = "from dassl.engine import TRAINER_REGISTRY\n"
TRAINER = "@TRAINER_REGISTRY.register()\nclass Mine: pass\n"
BEFORE = {}
"""What all registries have before a test."""


def unload_plugins():
    """Go back to the state before the test."""
    for package in {id(plugin.package): plugin.package for plugin in plugins._loaded}.values():
        package.uninstall()
    plugins._loaded.clear()
    for registry, items in BEFORE.items():
        registry.restore(dict(items))
        registry.on_conflict = None


@pytest.fixture(autouse=True)
def own_process():
    """Each test as in a new process."""
    assert plugins._loaded == []
    OURS.clear()
    OURS.update(TRAINER_REGISTRY.items())
    BEFORE.update({registry: registry.items() for registry in plugins.REGISTRIES})
    streams, before = (sys.stdout, sys.stderr), set(sys.modules)
    yield
    unload_plugins()
    sys.stdout, sys.stderr = streams
    assert {name for name in set(sys.modules) - before if name.startswith("plugin_")} == set()
    assert dict(TRAINER_REGISTRY.items()) == OURS and TRAINER_REGISTRY.on_conflict is None


@pytest.fixture
def run(files, tmp_path, monkeypatch):
    """Runs train.main on the tiny data and model."""
    monkeypatch.chdir(ROOT)
    folder, backbone = files

    def run(*words, output="out"):
        flags = f"--root {folder / 'data'} --backbone {backbone} --dataset-config-file configs/datasets/eurosat.yaml"
        options = "DATASET.NUM_SHOTS 2 INPUT.SIZE (64,64) INPUT.TRANSFORMS ('normalize',) DATALOADER.NUM_WORKERS 0"
        options += " DATALOADER.TRAIN_X.BATCH_SIZE 4 OPTIM.MAX_EPOCH 2 OPTIM.LR 0.01 TRAIN.PRINT_FREQ 1"
        words = [*map(str, words)]
        train.main(
            train.parse_args([*f"--seed 1 --output-dir {tmp_path / output} {flags}".split(), *words, *options.split()])
        )
        return tmp_path / output

    return run


def copied(name, tmp_path):
    """A stand-in that a test may change."""
    return Path(shutil.copytree(STAND_INS / name, tmp_path / name))


def configured(*words):
    return train.setup_cfg(train.parse_args([*map(str, words)] or ["--seed", "1"]))


def module_of(name):
    """The module of a registered trainer."""
    return sys.modules[TRAINER_REGISTRY.get(name).__module__]


# --- 1. a foreign trainer beside ours ---------------------------------------------------------------------------------


def test_a_trainer_of_a_name_that_both_have_is_the_plugins_and_a_line_says_so(capsys):
    configured("--plugin", STAND_INS / "coop_checkout")
    assert TRAINER_REGISTRY.get("CoOp") is not OURS["CoOp"]
    assert module_of("CoOp").__file__ == str(STAND_INS / "coop_checkout" / "trainers" / "coop.py")
    plugins.announce()
    lines = [line for line in capsys.readouterr().out.splitlines() if "the trainer CoOp is" in line]
    assert len(lines) == 1 and lines[0].endswith(f"{module_of('CoOp').__file__}, not this project's")
    assert TRAINER_REGISTRY.get("CoCoOp") is OURS["CoCoOp"]


def test_neighbours_are_the_plugins_own_and_no_class_is_ours():
    configured("--plugin", STAND_INS / "coop_checkout")
    variant, coop = TRAINER_REGISTRY.get("CoOpKD"), TRAINER_REGISTRY.get("CoOp")
    assert issubclass(variant, coop) and not issubclass(variant, OURS["CoOp"])


def test_the_list_of_templates_is_the_plugins():
    configured("--plugin", STAND_INS / "promptsrc_checkout")
    assert len(module_of("PromptSRC").IMAGENET_TEMPLATES) == 60


def test_names_registered_by_files_of_other_names():
    """VPT in vpt.py, and IVLP in independentVL.py, beside our vpt.py and ivlp.py."""
    cfg = configured("--plugin", STAND_INS / "maple_checkout")
    assert {name for name in OURS if TRAINER_REGISTRY.get(name) is not OURS[name]} == {"VPT", "IVLP"}
    assert cfg.TRAINER.VPT.N_CTX_VISION == 2 and "PROMPT_DEPTH_TEXT" in cfg.TRAINER.IVLP  # no train.py: our keys


def test_what_a_replaced_method_stated_still_counts():
    cfg = configured("--plugin", STAND_INS / "maple_checkout")
    name = "image_encoder.transformer.resblocks.8.VPT_shallow"
    with pytest.raises(UserError, match=f"contains prompt tensor {name}"):
        load_learned(torch.nn.Module(), {name: torch.zeros(2, 4)}, "a published file")
    cfg.defrost()
    cfg.TRAINER.VPT.N_CTX_VISION = -1
    with pytest.raises(UserError, match="TRAINER.VPT.N_CTX_VISION is -1"):
        check_all_ranges(cfg)


def test_ranges_of_a_replaced_method_still_hold(monkeypatch):
    cfg = configured()
    cfg.defrost()
    monkeypatch.setitem(TRAINER_REGISTRY._obj_map, "ProMetaR", type("ProMetaR", (), {"config_node": "PROMETAR"}))
    cfg.TRAINER.PROMETAR.DIM_RATE = 0
    with pytest.raises(UserError, match="TRAINER.PROMETAR.DIM_RATE is 0"):
        check_all_ranges(cfg)


def test_a_clip_that_the_plugin_brings_is_for_its_own_files(capsys):
    import clip
    from clip import clip as ours

    configured("--plugin", STAND_INS / "maple_checkout")
    assert TRAINER_REGISTRY.get("VPT").clip.WHOSE == TRAINER_REGISTRY.get("IVLP").whose == "maple_checkout"
    assert not hasattr(ours, "WHOSE") and sys.modules["clip"] is clip
    plugins.announce()
    taken = [line for line in capsys.readouterr().out.splitlines() if "this project's is used" in line]
    assert len(taken) == 1 and "imports clip.simple_tokenizer, which is not beside it" in taken[0]


def test_readers_that_the_plugin_brings_are_for_its_own_files(capsys):
    reader = DATASET_REGISTRY.get("OxfordPets")
    configured("--plugin", STAND_INS / "coop_checkout")
    assert TRAINER_REGISTRY.get("CoOp").reader.whose == "coop_checkout"
    assert DATASET_REGISTRY.get("OxfordPets") is reader
    plugins.announce()
    assert "the dataset OxfordPets is this project's, not that of" in capsys.readouterr().out


def test_a_reader_that_the_user_names_is_taken(tmp_path):
    folder = copied("coop_checkout", tmp_path) / "datasets"
    configured("--plugin", folder / "oxford_pets.py")
    assert DATASET_REGISTRY.get("OxfordPets").whose == "coop_checkout"


def test_files_of_other_packages_import_as_before():
    before = builtins.__import__
    configured("--plugin", STAND_INS / "coop_checkout", "--plugin", STAND_INS / "maple_checkout")
    assert builtins.__import__ is before
    import clip.clip
    import trainers.coop

    assert trainers.coop.CoOp is OURS["CoOp"] and hasattr(clip.clip, "tokenize")
    assert not [name for name in sys.modules if name.startswith(("trainers", "clip")) and "checkout" in name]


@pytest.mark.parametrize(
    "path", ["coop_checkout", "coop_checkout/trainers", "coop_checkout/trainers/coop_kd.py", "coop_checkout/train.py"]
)
def test_what_can_be_named(path):
    cfg = configured("--plugin", STAND_INS / path)
    names = {"CoOp", "CoOpKD"} if "train.py" not in path else set()
    assert {name for name, found in TRAINER_REGISTRY.items() if found not in OURS.values()} == names
    assert cfg.TRAINER.COOPKD.TEMPERATURE == 2.0


@pytest.mark.parametrize(
    "line", ["import trainers.sub.mine", "from trainers.sub import mine", "from trainers.sub.mine import Mine"]
)
def test_only_what_their_train_py_imports_is_loaded(tmp_path, line):
    folder = tmp_path / "repository"
    (folder / "trainers" / "sub").mkdir(parents=True)
    (folder / "train.py").write_text(f"{line}\nimport trainers.whole\n")
    (folder / "trainers" / "sub" / "mine.py").write_text(HEAD + TRAINER)
    (folder / "trainers" / "whole").mkdir()
    (folder / "trainers" / "whole" / "__init__.py").write_text(HEAD + TRAINER.replace("Mine", "Whole"))
    (folder / "trainers" / "old_copy.py").write_text(HEAD + TRAINER)
    configured("--plugin", folder)
    assert {name for name in TRAINER_REGISTRY.registered_names() if name not in OURS} == {"Mine", "Whole"}


def test_keys_do_not_depend_on_the_order_of_plugins(tmp_path):
    """A file with a CoOp of its own but no keys, and the keys from elsewhere."""
    (tmp_path / "coop.py").write_text(HEAD + TRAINER.replace("Mine", "CoOp"))
    keys, file = STAND_INS / "kgcoop_files" / "train.py", tmp_path / "coop.py"
    assert configured("--plugin", keys, "--plugin", file).TRAINER.COOP.CTX_INIT is True
    unload_plugins()
    assert configured("--plugin", file, "--plugin", keys).TRAINER.COOP.CTX_INIT is True


def test_a_lone_file_takes_the_rest_from_this_project(tmp_path, capsys):
    """As a file that was put into trainers/ did: its neighbours are ours, which a line says."""
    (tmp_path / "alone.py").write_text(
        "from dassl.engine import TRAINER_REGISTRY\nfrom .coop import load_clip_to_cpu\n"
        "from trainers.zsclip import CUSTOM_TEMPLATES\n"
        "@TRAINER_REGISTRY.register()\nclass Alone: load, templates = load_clip_to_cpu, CUSTOM_TEMPLATES\n"
    )
    configured("--plugin", tmp_path / "alone.py")
    assert TRAINER_REGISTRY.get("Alone").load.__module__ == "trainers.coop"
    plugins.announce()
    out = capsys.readouterr().out
    assert "alone.py imports trainers.coop, which is not beside it: this project's is used" in out
    assert "alone.py imports trainers.zsclip, which is not beside it: this project's is used" in out


def test_compiled_files_are_neither_read_nor_written(tmp_path):
    """What runs is what the recorded digests are of."""
    folder = copied("kgcoop_files", tmp_path)
    configured("--plugin", folder)
    assert not list(folder.rglob("__pycache__"))


# --- PromptSRC on our dassl and clip replays the published run --------------------------------------------------------

LIMITS = {"eval_before": 5e-5, "loss": 1e-4, "param": 1e-5, "eval_after": 5e-4}  # as in test_golden.py


def replayed(plugin, files, folder):
    """The recorded batches through the trainer PromptSRC of a plug-in."""
    plugins.load_plugins([str(plugin)])
    recording = compact_recording("promptsrc_default")
    options = dict(zip(recording.settings["options"][::2], recording.settings["options"][1::2], strict=True))
    known = get_cfg_default()
    train.extend_cfg(known)
    options = {key: value for key, value in options.items() if key.rpartition(".")[2] in known.TRAINER.PROMPTSRC}
    cfg = make_cfg("PromptSRC", files[1], files[0] / "data", folder / "out", {})
    for key, value in options.items():
        cfg.TRAINER.PROMPTSRC[key.rpartition(".")[2]] = value
    for key, value in recording.settings["optim"].items():
        cfg.OPTIM[key] = value
    trainer = build_trainer(cfg)
    deviations = Deviations(recording)
    load_initial_values(trainer, recording, folder / "start")
    heldout = images()["heldout_images"]
    deviations.add("eval_before", "eval_logits_before", evaluate(trainer, heldout))
    for step in range(STEPS):
        set_position(trainer, step)
        trainer.set_model_mode("train")
        batch = {"img": images()["train_images"][step], "label": images()["train_labels"][step]}
        deviations.add("loss", f"step{step}/loss", torch.tensor(trainer.forward_backward(batch)["loss"]))
        for key in [key for key in recording.tensors if key.startswith(f"step{step}/param/")]:
            deviations.add("param", key, trainer.model.get_parameter(key.partition("/param/")[2]))
    deviations.add("eval_after", "eval_logits_after", evaluate(trainer, heldout))
    return deviations


def test_promptsrc_gives_the_published_numbers(files, tmp_path):
    deviations = replayed(STAND_INS / "promptsrc_checkout", files, tmp_path)
    assert {name: value for name, value in deviations.largest.items() if not value <= LIMITS[name]} == {}
    assert deviations.largest.keys() == LIMITS.keys()
    assert sum("/param/" in key for key in deviations.compared) >= 7


def test_the_replay_sees_the_wrong_list_of_templates(files, tmp_path):
    """With our 80 in place of its 60, the losses are those that were silently wrong."""
    from trainers.core.imagenet_templates import IMAGENET_TEMPLATES

    folder = copied("promptsrc_checkout", tmp_path)
    (folder / "trainers" / "imagenet_templates.py").write_text(f"IMAGENET_TEMPLATES = {IMAGENET_TEMPLATES!r}\n")
    deviations = replayed(folder, files, tmp_path)
    assert deviations.largest["loss"] > LIMITS["loss"] and deviations.largest["param"] > LIMITS["param"]


# --- 2. its keys ------------------------------------------------------------------------------------------------------


def test_extend_cfg_is_merged_and_nothing_else_of_train_py_is_run():
    """The file imports packages that nobody has, and ends in an error if it is run."""
    cfg = configured("--plugin", STAND_INS / "coop_checkout")
    assert (cfg.TRAINER.COOP.N_CTX, cfg.TRAINER.COOPKD.TEMPERATURE) == (16, 2.0)
    assert cfg.TRAINER.PROMETAR.N_CTX_TEXT == 4 and cfg.DATASET.SUBSAMPLE_CLASSES == "all"


def test_a_key_of_another_type_is_the_plugins(capsys):
    cfg = configured("--plugin", STAND_INS / "kgcoop_files", "TRAINER.COOP.CTX_INIT", "False")
    assert cfg.TRAINER.COOP.CTX_INIT is False
    assert cfg.TRAINER.COOP.CSC is False  # ours, which it does not define, stays
    plugins.announce()
    assert "config key TRAINER.COOP.CTX_INIT is a bool (True) there, not a str" in capsys.readouterr().out
    with pytest.raises(UserError, match="TRAINER.COOP.CTX_INIT should be True or False"):
        configured("--plugin", STAND_INS / "kgcoop_files", "TRAINER.COOP.CTX_INIT", "words")


def test_what_reset_cfg_adds(tmp_path):
    """The default of its own flag is read, not run; pairs come after it, and so do our flags."""
    plugin = ["--plugin", STAND_INS / "kgcoop_files"]
    cfg = configured(*plugin, "--backbone", "RN50")
    assert (cfg.TRAINER.COOP.W, cfg.OPTIM.MAX_EPOCH, cfg.MODEL.BACKBONE.NAME) == (8.0, 7, "RN50")
    cfg = configured(*plugin, "TRAINER.COOP.W", "2", "OPTIM.MAX_EPOCH", "3")
    assert (cfg.TRAINER.COOP.W, cfg.OPTIM.MAX_EPOCH) == (2.0, 3)
    assert cfg.SEED == -1 and configured(*plugin, "--seed", "0").SEED == 0  # their parser, as we have it, has no --seed
    (tmp_path / "method.yaml").write_text("TRAINER:\n  COOP:\n    W: 1.0\n    N_CTX: 4\n")
    cfg = configured(*plugin, "--config-file", tmp_path / "method.yaml")
    assert cfg.TRAINER.COOP.N_CTX == 4 and cfg.TRAINER.COOP.W == 8.0  # as there: its reset_cfg comes after the files


def test_a_flag_whose_default_is_computed_is_said(tmp_path):
    folder = copied("kgcoop_files", tmp_path)
    text = (folder / "train.py").read_text()
    (folder / "train.py").write_text(text.replace("default=8.0", "default=float(8)"))
    with pytest.raises(UserError, match=r"train.py, line \d+: cfg.TRAINER.COOP.W = args.w: .* no attribute 'w'"):
        configured("--plugin", folder)


def test_a_file_of_config_functions_that_the_user_names(tmp_path):
    """Trainer files in one place, train.py in another."""
    (tmp_path / "method").mkdir()
    shutil.copy(STAND_INS / "kgcoop_files" / "kgcoop.py", tmp_path / "method")
    shutil.copy(STAND_INS / "kgcoop_files" / "texts.py", tmp_path / "method")
    cfg = configured("--plugin", tmp_path / "method" / "kgcoop.py", "--plugin", STAND_INS / "kgcoop_files" / "train.py")
    assert TRAINER_REGISTRY.get("KgCoOp").template.startswith("a centered") and cfg.TRAINER.COOP.W == 8.0


def test_only_what_the_functions_use_is_kept():
    import ast

    tree = ast.parse(
        "from __future__ import annotations\nimport a, b\nfrom c import d as e, f\nX = 1\nY = X + 1\n"
        "def helper(): return Y + b.z\ndef unused(): return a\n"
        "try:\n    import fast\nexcept ImportError:\n    fast = None\n"
        "def extend_cfg(cfg): cfg.A = helper(); cfg.B = e; cfg.C = fast\nif __name__ == '__main__':\n    X = 2\n"
    )
    kept = [ast.unparse(part).splitlines()[0] for part in pruned(tree, {"extend_cfg"}).body]
    assert kept == [
        "from __future__ import annotations", "import b", "from c import d as e", "X = 1", "Y = X + 1",
        "def helper():", "try:", "def extend_cfg(cfg):",
    ]  # fmt: skip
    flags = "p.add_argument('--a-b', default=1)\np.add_argument('-c', '--cc', action='store_true')\n"
    flags += "p.add_argument('--d', dest='e', default=None)\np.add_argument('--g', default=f())\np.add_argument('h')"
    assert flag_defaults(ast.parse(flags)) == {"a_b": 1, "cc": False, "e": None, "h": None}
    assert parsed(STAND_INS / "coop_checkout" / "train.py").body


# --- 3. names of Dassl ------------------------------------------------------------------------------------------------


def test_a_file_that_asks_for_dassls_names_trains(run, capsys):
    folder = run("--plugin", STAND_INS / "dept_file" / "dept.py", "--trainer", "ExtrasOfDePT")
    log = (folder / "log.txt").read_text()
    assert log.count("epoch [") == 6 and "* accuracy: " in log
    assert list((folder / "tensorboard" / "own").glob("events*"))


# --- whole runs, and their records ------------------------------------------------------------------------------------


def test_a_run_trains_records_its_plugin_and_is_evaluated(run, tmp_path, capsys):
    folder = copied("coop_checkout", tmp_path)
    output = run("--plugin", folder, "--trainer", "CoOp")
    log, result = (output / "log.txt").read_text(), read_json(output / "result.json")
    assert "the trainer CoOp is that of" in log and "Finish training" in log
    (entry,) = result["plugins"]
    assert entry["path"] == str(folder)
    used = {"train.py", "trainers/__init__.py", "trainers/coop.py", "trainers/coop_kd.py"}
    assert entry["files"].keys() == used | {"datasets/__init__.py", "datasets/oxford_pets.py"}
    for name, digest in entry["files"].items():
        assert digest == hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert result["full_config"]["PLUGINS"] == [f"coop_checkout {entry['sha256']}"]
    evaluation = ["--plugin", folder, "--trainer", "CoOp", "--eval-only", "--model-dir", output, "--load-epoch", "2"]
    tested = read_json(run(*evaluation, output="tested") / "result.json")
    assert tested["results"]["accuracy"] == result["results"]["accuracy"]
    assert "Warning" not in capsys.readouterr().out


@pytest.mark.parametrize("recorded", [5, None, {"a": 1}, [["coop 12"]], "coop 12"])
def test_a_recorded_value_that_is_no_list_of_names_is_one_line(recorded):
    with pytest.raises(UserError, match="^folder is damaged: its PLUGINS is .*, not a list of names$"):
        plugins.check_recorded(recorded, "folder")


def test_changed_files_are_said(run, tmp_path, capsys):
    folder = copied("coop_checkout", tmp_path)
    output = run("--plugin", folder, "--trainer", "CoOp")
    unload_plugins()
    (folder / "trainers" / "coop_kd.py").write_text((folder / "trainers" / "coop_kd.py").read_text() + "\n# edited\n")
    evaluation = ["--trainer", "CoOp", "--eval-only", "--model-dir", output, "--load-epoch", "2"]
    run("--plugin", folder, *evaluation, output="tested")
    assert "PLUGINS is ['coop_checkout " in capsys.readouterr().out


def test_prediction_with_a_plugin(run, tmp_path, files, capsys):
    import predict

    folder = copied("coop_checkout", tmp_path)
    output = run("--plugin", folder, "--trainer", "CoOp")
    unload_plugins()
    image = next((files[0] / "data").rglob("*.jpg"))
    words = ["--checkpoint", str(output), "--images", str(image), "--json", "--load-epoch", "2"]
    with pytest.raises(UserError, match="is of a run with the plug-in coop_checkout: add --plugin with its path"):
        predict.main(predict.parse_args(words))
    capsys.readouterr()
    predict.main(predict.parse_args([*words, "--plugin", str(folder)]))
    (line,) = capsys.readouterr().out.splitlines()
    assert len(json.loads(line)["predictions"]) == 5


def test_a_config_file_of_another_plugins_run_is_refused(run, tmp_path):
    output = run("--plugin", STAND_INS / "dept_file" / "dept.py", "--trainer", "ExtrasOfDePT")
    unload_plugins()
    with pytest.raises(UserError, match="is of a run with the plug-in dept_file/dept.py: add --plugin with its path"):
        configured("--config-file", output / "config.yaml")


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, message",
    [
        (f"{HEAD}import wandb_of_nobody\n{TRAINER}",
         r"mine.py, line 2: import wandb_of_nobody: No module named 'wandb_of_nobody': install that package"),
        (f"{HEAD}from .neighbour import x\n{TRAINER}",
         r"mine.py, line 2: from .neighbour import x: No module named 'neighbour'"),
        (f"{HEAD}from trainers.coop import NoSuchName\n{TRAINER}",
         r"mine.py, line 2: from trainers.coop import NoSuchName: ImportError: cannot import name 'NoSuchName'"),
        (f"{HEAD}{TRAINER}raise SystemExit(3)\n", r"mine.py, line 4: raise SystemExit\(3\): it ends the program"),
        (f"{HEAD}{TRAINER}1 / 0\n", r"mine.py, line 4: 1 / 0: ZeroDivisionError"),
        (f"{HEAD}{TRAINER}{TRAINER}", r"the trainer Mine is in two files of plug-ins, .*mine.py and .*mine.py"),
        ("def f(:\n", r"mine.py, line 1 is not Python: invalid syntax"),
        ("x = 1\n", r"mine.py registers no trainer and has no extend_cfg"),
        (f"{HEAD}{TRAINER}def extend_cfg(cfg):\n    cfg.NO.SUCH = 1\n", r"mine.py, line 5: cfg.NO.SUCH = 1: "),
    ],
)  # fmt: skip
def test_a_file_that_fails_is_one_line_and_nothing_is_loaded(tmp_path, text, message):
    (tmp_path / "mine.py").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        configured("--plugin", tmp_path / "mine.py")
    assert "\n" not in str(caught.value)
    if "extend_cfg(cfg):" not in text:  # which is run later
        assert plugins._loaded == [] and dict(TRAINER_REGISTRY.items()) == OURS


def test_paths_that_are_no_plugins(tmp_path):
    for path, message in {
        tmp_path / "nothing": "no such plug-in: .*nothing",
        ROOT / "README.md": "README.md is not a Python file",
        ROOT / "trainers" / "coop.py": "lies among this project's own files",
        ROOT: "lies among this project's own files",
        tmp_path: "has no Python file that registers a trainer",
    }.items():
        with pytest.raises(UserError, match=message):
            configured("--plugin", path)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for name in ("one", "two"):
        (tmp_path / name / "mine.py").write_text(HEAD + TRAINER)
    with pytest.raises(
        UserError, match="the trainer Mine is in two files of plug-ins, .*one/mine.py and .*two/mine.py"
    ):
        configured("--plugin", tmp_path / "one", "--plugin", tmp_path / "two")


def test_the_program_ends_in_one_line(tmp_path):
    (tmp_path / "mine.py").write_text(f"{HEAD}import wandb_of_nobody\n{TRAINER}")
    ended = run_forked(["train.py", "--seed", "1", "--plugin", tmp_path / "mine.py", "--trainer", "Mine"])
    assert (ended.returncode, ended.stdout) == (1, "Mine: loading PyTorch\n")
    assert ended.stderr.startswith(f"error: plug-in {tmp_path / 'mine.py'}") and ended.stderr.count("\n") == 1


def test_a_plugin_is_loaded_once(files):
    for _ in range(2):
        configured("--plugin", STAND_INS / "kgcoop_files", "--plugin", STAND_INS / "kgcoop_files" / "kgcoop.py")
    assert [plugin.path.name for plugin in plugins._loaded] == ["kgcoop_files", "kgcoop.py"]
