"""What the pages say is so: every name that they link, every table, every command.

Expected values: the code (config defaults, learned tensors), the shipped configs and `experiments/paper_figures.csv`.
Commands run as printed, on a few generated images with the embedded model.
"""

from __future__ import annotations

import ast
import json
import math
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

import parse_test_res
import train
from clip.branched_text import BranchedText
from clip.model import CLIP, ResidualAttentionBlock
from dassl.config import get_cfg_default, merge_file
from dassl.data.datasets import DATASET_REGISTRY
from dassl.engine import TRAINER_REGISTRY
from dassl.utils import MismatchError, UserError, save_checkpoint
from datasets.layout.errors import BadDataError
from experiments.__main__ import main as experiments_main
from experiments.launch.single import read_request
from experiments.plan.declaration import read_experiment
from experiments.report.papers import AVERAGE, RECIPES, published_figures
from shapes_world.suites import SUITES
from tools import describe_classes
from tools.reference.files import file_groups
from trainers.core.facts import ALL_SETTINGS
from trainers.core.imagenet_templates import IMAGENET_TEMPLATES_SELECT
from trainers.core.modulator import GradientModulator, shape_as_read
from trainers.core.trainer import PromptTrainer

ROOT = Path(train.__file__).parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
METHODS = {
    "zeroshot": "ZeroshotCLIP",
    "coop": "CoOp",
    "cocoop": "CoCoOp",
    "vpt": "VPT",
    "ivlp": "IVLP",
    "maple": "MaPLe",
    "kgcoop": "KgCoOp",
    "prograd": "ProGrad",
    "promptsrc": "PromptSRC",
    "tcp": "TCP",
    "mma": "MultiModalAdapter",
    "coprompt": "CoPrompt",
    "linear_probe": "LinearProbe",
    "clip_lora": "CLIPLoRA",
    "prometar": "ProMetaR",
}
CONFIG = r"(?:vit_b16|coprompt)[\w+]*"
"""Names of config files for the large backbone."""
LEARNING = [page for page in METHODS if page != "zeroshot"]


def section(page: str, title: str) -> str:
    """The text below a heading of docs/<page>.md."""
    (text,) = re.findall(
        rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", read(DOCS / f"{page}.md"), re.DOTALL | re.MULTILINE
    )
    return text


@cache
def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def rows(text: str) -> list[list[str]]:
    """Cells of all table rows but the head's and the rule's."""
    found, before = [], ""
    for line in text.splitlines():
        is_row = line.startswith("| ")
        if is_row and before.startswith("|") and not line.startswith("| ---"):
            found.append([cell.strip() for cell in line.strip("|").split(" | ")])
        before = line
    return found


def code(cell: str) -> str:
    return cell.strip("` ")


def commands(text: str) -> list[str]:
    """Lines of the bash blocks, continued lines joined."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ")
    return [line for line in blocks.splitlines() if line]


# --- links -----------------------------------------------------------------------------------------------------------


@cache
def names_in(path: Path) -> set[str]:
    """Module-level names of a Python file, and methods as Class.method."""
    names = set()
    for node in ast.parse(read(path)).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)}
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def anchors(path: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", read(path), re.MULTILINE)
    }


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_links_lead_somewhere(path):
    for shown, target in re.findall(r"\[([^\]]+)\]\(([^)\s]+)\)", read(path)):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        destination = (path.parent / file).resolve() if file else path
        assert destination.is_file(), (path.name, target)
        assert not anchor or anchor in anchors(destination), (path.name, target)
        if destination.suffix == ".py" and "/" not in shown:
            assert code(shown) in names_in(destination), f"{path.name}: {shown} is not in {file}"


@pytest.mark.parametrize("page", METHODS)
def test_a_method_page_leads_from_equations_to_functions(page):
    equations = rows(section(f"methods/{page}", "Equation to line"))
    assert len(equations) >= 4
    assert all(re.search(r"\[`\w[\w.]*`\]\(\.\./\.\./[\w/]+\.py\)", cells[-1]) for cells in equations)


# --- config ----------------------------------------------------------------------------------------------------------


def defaults_added_by(trainer: str):
    """The tree before and after the trainer's `add_config`."""
    before, after = get_cfg_default(), get_cfg_default()
    TRAINER_REGISTRY.get(trainer).add_config(after)
    return before, after


@pytest.mark.parametrize("page", METHODS)
def test_config_tables_are_the_defaults(page):
    trainer = METHODS[page]
    before, after = defaults_added_by(trainer)
    text = section(f"methods/{page}", "Config")
    tables = re.split(r"^`(?=[A-Z_.]+`)", text, flags=re.MULTILINE)[1:]
    written = {}
    for table in tables:
        node = table.partition("`")[0]
        written[node] = {code(cells[0]): ast.literal_eval(code(cells[1])) for cells in rows(table)}
    node = TRAINER_REGISTRY.get(trainer).config_node
    assert written.pop(f"TRAINER.{node}") == dict(after.TRAINER[node])
    if trainer == "ProMetaR":
        own = {key: value for key, value in after.OPTIM_VNET.items() if key not in before.OPTIM}
        assert written.pop("OPTIM_VNET") == own
        assert {key: after.OPTIM_VNET[key] for key in before.OPTIM} == dict(before.OPTIM)
    assert written == {}
    assert set(after.TRAINER) - set(before.TRAINER) == {node}
    assert set(after) - set(before) == ({"OPTIM_VNET"} if trainer == "ProMetaR" else set())


def test_both_zero_shot_trainers_have_the_same_keys():
    cfg = get_cfg_default()
    train.extend_cfg(cfg)
    assert cfg.TRAINER.ZEROSHOTCLIP == cfg.TRAINER.ZEROSHOTCLIP2


def shipped(trainer: str, config: str):
    """The configuration of a shipped file."""
    folder = "CoOp" if trainer.startswith("Zeroshot") else trainer
    cfg = get_cfg_default()
    train.extend_cfg(cfg)
    merge_file(cfg, str(ROOT / "configs" / "trainers" / folder / f"{config}.yaml"))
    return cfg


@pytest.mark.parametrize("page", METHODS)
def test_named_configs_hold_what_the_page_says(page):
    text = read(DOCS / "methods" / f"{page}.md")
    for config in set(re.findall(rf"`({CONFIG})`", text)) - {"vit_b16_epochs_by_shots"}:
        shipped(METHODS[page], config)
    compared = 0
    for config, settings in re.findall(rf"`({CONFIG})`\s\(((?:`[A-Z_0-9.]+ [^`]+`,?\s*)+)\)", text):
        cfg = shipped(METHODS[page], config)
        for key, value in re.findall(r"`([A-Z_0-9.]+) ([^`]+)`", settings):
            *nodes, leaf = key.split(".")
            node = cfg
            for name in nodes:
                node = node[name]
            assert node[leaf] == ast.literal_eval(value), (config, key)
            compared += 1
    assert compared >= 3 or page == "zeroshot"


# --- what is learned -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vit_b16():
    """OpenAI's sizes; what the learned tensors do not depend on is left out."""
    clip = CLIP(512, 224, 1, 768, 16, 77, 49408, 512, 8, 1)
    for transformer in (clip.transformer, clip.visual.transformer):
        with torch.device("meta"):  # sizes without values
            blocks = [ResidualAttentionBlock(transformer.width, 8, torch.nn.Identity) for _ in range(12)]
        transformer.resblocks = torch.nn.Sequential(*blocks)
    clip.encode_text = lambda tokens: torch.empty(len(tokens), 512)  # VPT's fixed features
    return clip


def built(vit_b16, trainer: str, config: str) -> PromptTrainer:
    """A trainer that knows its prompts and nothing else."""
    kind = TRAINER_REGISTRY.get(trainer)
    made = kind.__new__(kind)
    made.cfg = shipped(trainer, config)
    with pytest.MonkeyPatch.context() as patch:  # the fixture's blocks have no values
        patch.setattr(BranchedText, "_unchanged_rows", lambda self, packed: None)
        made.prompts = made.build_prompts(vit_b16, ["cat", "dog"])
    return made


def tensors_in(text: str) -> dict[str, list[int]]:
    """Names and shapes of a table; <1-3> in a name stands for three of them."""
    found = {}
    for name, shape in (cells[:2] for cells in rows(text)):
        span = re.search(r"<(\d+)-(\d+)>", name)
        numbers = range(int(span[1]), int(span[2]) + 1) if span else [None]
        for number in numbers:
            found[code(name if span is None else name.replace(span[0], str(number)))] = json.loads(shape)
    return found


def number_before(text: str, word: str) -> int:
    (number,) = re.findall(rf"([\d,]+) {word}", text)
    return int(number.replace(",", ""))


def shapes_of(module: torch.nn.Module) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


@pytest.mark.parametrize("page", LEARNING)
def test_learned_tensors_are_those_of_the_page(page, vit_b16):
    text = section(f"methods/{page}", "What is learned")
    config, folder = re.search(rf"`({CONFIG})`", text)[1], re.search(r"in\s`(\w+)/`", text)[1]
    trainer = built(vit_b16, METHODS[page], config)
    assert folder == trainer.registered_name
    prompts, _, network = text.partition("and the network")
    module = trainer.registered_module()
    assert tensors_in(prompts) == shapes_of(module)
    values = sum(tensor.numel() for tensor in module.state_dict().values())
    assert number_before(prompts, "values") == values
    assert [values_in_the_index(page)] == [values]
    if network:
        with torch.device("meta"):
            modulator = GradientModulator(trainer.prompts.tensors(), trainer.settings.DIM_RATE)
        assert tensors_in(network) == shapes_of(modulator)
        assert number_before(network, "values") == sum(tensor.numel() for tensor in modulator.parameters())


def test_modulators_are_as_large_as_the_page_says(vit_b16):
    text = section("methods/prometar", "Other prompts and adapters")
    table = [cells for cells in rows(text) if len(cells) == 5]
    assert len(table) == 3
    for config, *numbers in table:
        trainer = built(vit_b16, "ProMetaR", code(config))
        theta, rate = trainer.prompts.tensors(), trainer.settings.DIM_RATE
        sizes = [tensor.numel() for tensor in theta.values()]
        with torch.device("meta"):
            modulator = GradientModulator(theta, rate)
        by_rows = sum(len(shape_as_read(tensor, rate)) > 1 for tensor in theta.values())
        counted = [sum(sizes), sum(tensor.numel() for tensor in modulator.parameters()), by_rows]
        counted += [sum(2 * size * (size // rate) + (size // rate) ** 2 for size in sizes)]
        assert [int(re.sub(r"\D", "", number)) for number in numbers] == counted, config


def values_in_the_index(page: str) -> int:
    (row,) = [cells for cells in rows(read(DOCS / "trainers.md")) if f"(methods/{page}.md)" in cells[0]]
    return int(row[2].replace(",", ""))


def test_the_index_has_every_trainer():
    table = rows(read(DOCS / "trainers.md"))
    pages = [re.search(r"\((methods/\w+\.md)\)", cells[0])[1] for cells in table]
    assert pages == [f"methods/{page}.md" for page in METHODS]
    assert sorted(path.stem for path in (DOCS / "methods").glob("*.md")) == sorted(METHODS)
    shown = {name for cells in table for name in re.findall(r"[A-Z]\w+", cells[0].partition("]")[0])}
    kinds = [TRAINER_REGISTRY.get(name) for name in TRAINER_REGISTRY.registered_names()]
    assert shown == {kind.__name__ for kind in kinds if kind.__module__.startswith("trainers.")}  # not those of tests
    for page, cells in zip(METHODS, table, strict=True):
        kind = TRAINER_REGISTRY.get(METHODS[page])
        assert f"`TRAINER.{kind.config_node}`" in cells[-1]
        if page != "zeroshot":
            assert f"`{kind.registered_name}`" in cells[3]


# --- published figures -----------------------------------------------------------------------------------------------

SETTINGS = {
    "base-to-new, average of 11": ("base2new", AVERAGE),
    "cross-dataset, average of 10": ("cross_dataset", AVERAGE),
    "domain generalisation, average of 4": ("domain_generalization", "OOD average (4 variants)"),
    "few-shot, average of 11": ("few_shot", "Average (11 datasets)"),
}


def written_figures(page: str):
    """(setting, row, data set, metric), value, status, config of every figure of the page."""
    for setting, row, config, figures, status in rows(section(f"methods/{page}", "Expected numbers")):
        name, dataset = SETTINGS[setting]
        for metric, shots, value in re.findall(r"(?:(base|new|H|accuracy)|(\d+) shots?) (\d+\.\d+)", figures):
            yield (name, row, dataset, metric or f"accuracy@{shots}shot"), float(value), status, code(config)


@pytest.mark.parametrize("page", METHODS)
def test_published_figures_are_those_of_the_list(page):
    listed, recipes = published_figures(), {config_file[:3]: config_file[3] for config_file in RECIPES}
    for key, value, status, config in written_figures(page):
        assert (listed[key].value, listed[key].status) == (value, status), key
        assert key[0] in recipes[key[1], METHODS[page], config], (key, config)


def test_every_published_average_of_our_methods_is_on_a_page():
    averages = {dataset for _, dataset in SETTINGS.values()}
    known = {method for method, *_ in RECIPES}
    listed = {key for key in published_figures() if key[1] in known and key[2] in averages}
    assert {key for page in METHODS for key, *_ in written_figures(page)} == listed


def test_the_bands_are_those_of_the_report():
    text = " ".join(section("trainers", "Expected numbers").split())
    stated = re.search(
        r"base within (\S+) point of the published figure, new within (\S+), on DTD and EuroSAT within (\S+), "
        r"H of the average within (\d\.\d)",
        text,
    )
    figure = {(key[2], key[3]): value for key, value in published_figures().items() if key[:2] == ("base2new", "CoOp")}
    bands = [figure[cell].band for cell in (("DTD", "base"), ("ImageNet", "new"), ("DTD", "new"), (AVERAGE, "H"))]
    assert [float(number) for number in stated.groups()] == bands
    assert {key[0] for key, value in published_figures().items() if value.band is not None} == {"base2new"}


# --- commands --------------------------------------------------------------------------------------------------------

EMBEDDED = ROOT / "clip" / "backbones" / "vit_shapes.safetensors"
CLASSES = 8
IMAGES = {"train": 4, "val": 1, "test": 5}
PHOTO_CLASSES, PHOTOS = [name.replace(" ", "_") for name in SUITES["Shapes"].class_names[:5]], 8


def write_shapes(root: Path) -> None:
    """Some images of eight classes of Shapes, in its layout."""
    suite = SUITES["Shapes"]
    split = {part: [] for part in IMAGES}
    for part, count in IMAGES.items():
        for label, name in enumerate(suite.class_names[:CLASSES]):
            for number in range(count):
                relative = f"{name.replace(' ', '_')}/{part}_{number:04d}.png"
                path = root / suite.folder / "images" / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                suite.draw(part, label, number).save(path)
                split[part].append([relative, label, name])
    (root / suite.folder / suite.split_file).write_text(json.dumps(split))


def write_photos(root: Path) -> None:
    """`my_photos` with five classes as docs/quick_start.md lays them out, and `new_photos`; generated images."""
    suite = SUITES["Shapes"]
    for label, name in enumerate(PHOTO_CLASSES):
        for number in range(PHOTOS):
            path = root / "my_photos" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            suite.draw("train", label, number).save(path)
    shutil.copytree(root / "my_photos", root / "new_photos")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp("docs") / "data"
    write_shapes(root)
    return root


@pytest.fixture(scope="module")
def tree(tmp_path_factory, data):
    """A copy of the repository, with data; a place to add something to."""
    folder = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("__pycache__", "*.log")
    for name in (
        "clip",
        "configs",
        "dassl",
        "datasets",
        "deploy",
        "docs",
        "experiments",
        "runner",
        "scripts",
        "shapes_world",
        "trainers",
    ):
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("train.py", "predict.py", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(data, folder / "data")
    write_photos(folder)
    return folder


DRIVER = """
import contextlib, io, json, pathlib, runpy, sys
results = []
for words in json.loads(sys.argv[1]):
    printed, errors, code = io.StringIO(), io.StringIO(), 0
    target = words[-1] if words[-2] == ">" else None
    words = words[:-2] if target else words
    sys.argv = words[words[0] == "-m":]
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        try:
            (runpy.run_module if words[0] == "-m" else runpy.run_path)(sys.argv[0], run_name="__main__")
        except SystemExit as stop:
            code = stop.code
    if target:
        pathlib.Path(target).write_text(printed.getvalue())
    results.append([code or 0, printed.getvalue() + errors.getvalue()])
print(json.dumps(results))
"""
"""Several Python commands in one process, since each would load PyTorch for some seconds."""


@pytest.fixture(scope="module")
def printed(tree):
    """Exit status and output of each Python command of three pages, and of a wrong one.

    Of scripts/run.sh, what it ends with. In place of ViT-B/16 the embedded model, for one epoch.
    """
    text = "\n".join(read(DOCS / f"{page}.md") for page in ("adding", "experiments", "quick_start"))
    lines = [line.replace("bash scripts/run.sh", "python -m experiments one") for line in commands(text)]
    lines = list(dict.fromkeys(lines))
    python = [line for line in lines if line.startswith("python ")]
    for line in lines:
        if line not in python:
            subprocess.run(["bash", "-c", line], cwd=tree, check=True)
    trained = next(line for line in python if "GuidedCoOp" in line)
    python.append(trained.replace("output/guided", "output/bad") + " TRAINER.GUIDED.WEIGHT -1.0")
    arguments = json.dumps([shlex.split(with_small_model(line))[1:] for line in python])
    environment = {key: value for key, value in os.environ.items() if key not in ("DATA", "OUTPUT", "SHOTS")}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, arguments], cwd=tree, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(zip(python, json.loads(done.stdout), strict=True))


def with_small_model(line: str) -> str:
    """A training with ViT-B/16, or for long, as one with the embedded model for one epoch."""
    line = line.replace("CoOp/vit_b16_ep50.yaml", "CoOp/vit_shapes_ep50_ctxv1.yaml")
    line = line.replace("CoOp/vit_b16.yaml", "CoOp/vit_shapes.yaml")
    return f"{line} OPTIM.MAX_EPOCH 1" if "output/try" in line and "train.py" in line else line


def outputs(printed: dict, word: str) -> list[str]:
    """What the commands with that word printed; all went well."""
    found = {line: result for line, result in printed.items() if word in line and "output/bad" not in line}
    assert {line: text for line, (status, text) in found.items() if status} == {}
    return [text for _, text in found.values()]


def accuracy(log: str) -> float:
    return float(re.findall(r"^\* accuracy: ([\d.]+)%", log, re.MULTILINE)[-1])


CHANCE = 100 / (CLASSES // 2)


def test_the_worked_example_of_a_method(printed, tree):
    trained, tested = outputs(printed, "--trainer GuidedCoOp")
    width = len(load_file(EMBEDDED)["text_projection"])
    assert f"Parameters to be updated: prompt_learner.ctx ({4 * width:,} values)" in trained
    assert re.search(r" loss_base \d\.\d+ acc \d+ lr ", trained) and "Finish training" in trained
    assert "Loading weights to prompt_learner" in tested and "SUBSAMPLE NEW CLASSES" in tested
    assert accuracy(trained) > 2 * CHANCE and accuracy(tested) > 2 * CHANCE
    (predicted,) = outputs(printed, "predict.py --model-dir output/guided")
    assert SUITES["Shapes"].class_names[0] in predicted
    (scripted,) = outputs(printed, "experiments one")
    assert "Finish training" in scripted
    assert len(list(tree.glob("output/base2new/train_base/shapes/shots_16/GuidedCoOp/*/seed1/result.json"))) == 1
    (status,) = (status for line, (status, _) in printed.items() if "output/bad" in line)
    assert status == "error: TRAINER.GUIDED.WEIGHT is -1.0, but should be at least 0"


def test_the_first_line_of_a_training_is_on_the_first_screen(printed, tree):
    """Of 40 rows with 100 columns, for the method with the most settings, in a folder with a name of usual length."""
    (log,) = outputs(printed, "--trainer ProMetaR ")
    before = log.replace(str(tree), "/home/user/prometar").partition("\nepoch [1/")[0].splitlines()
    assert sum(max(1, math.ceil(len(line) / 100)) for line in before) < 40


def test_every_file_of_a_run_is_in_the_reference(printed, tree):
    known = [re.sub(r"\\{\w+\\}", r"\\w+", re.escape(file.name)) for file in file_groups()["The folder of a run"]]
    (registered,) = (TRAINER_REGISTRY.get(name).registered_name for name in ("CoOp",))
    written = [path.relative_to(tree / "output" / "signs") for path in (tree / "output" / "signs").rglob("*")]
    assert len(written) > 8
    for path in written:
        name = path.parts[0] if path.parts[0] == "tensorboard" else path.name
        assert path.parts == (registered,) or any(re.fullmatch(pattern, name) for pattern in known), path


def test_the_worked_example_of_a_data_set(printed):
    (checked,) = outputs(printed, "datasets.check --root")
    assert checked.startswith("ok       Signs                8 classes, train 32, val 8, test 40; 80 images decoded\n")
    assert checked.count(" 4/1/5") == 8
    (trained,) = outputs(printed, "signs.yaml")
    assert "SUBSAMPLE BASE CLASSES" in trained and accuracy(trained) > 2 * CHANCE


def test_the_worked_example_of_an_experiment(printed, tree):
    declared = section("experiments", "A table of your own").partition("```yaml\n")[2].partition("```")[0]
    shipped = read(DOCS / "examples" / "my_table.yaml")
    assert declared == shipped.partition("\n\n")[2]
    (plan,) = outputs(printed, "my_table.yaml")
    assert plan.count("train.py") == 90 and plan.count("--trainer GuidedCoOp") == 27
    (report,) = outputs(printed, "experiments report")
    assert re.search(r"^ *Shapes +GuidedCoOp .*\d+\.\d+", report, re.MULTILINE)
    assert (tree / "output" / "report" / "report.html").is_file()


def test_further_declarations_of_the_page_are_valid(tmp_path):
    *_, ablation = re.findall(r"```yaml\n(.*?)```", read(DOCS / "experiments.md"), re.DOTALL)
    (tmp_path / "x.yaml").write_text(ablation)
    experiment = read_experiment(tmp_path / "x.yaml")
    assert [method.variant for method in experiment.methods] == ["first-order", "rate-4"]


def test_errors_of_a_declaration_are_those_of_the_page(tmp_path):
    good = {"trainers": ["coop"], "settings": {"base2new": {"datasets": ["shapes"]}}, "seeds": [1]}
    table = rows(section("experiments", "What a declaration may say"))
    table = [cells for cells in table if re.match(r"`\w+: ", cells[0])]
    assert len(table) == 5
    for written, error in table:
        content = good | yaml.safe_load(code(written))
        if "trainer" in content:
            del content["trainers"]
        (tmp_path / "x.yaml").write_text(yaml.safe_dump(content))
        with pytest.raises(UserError) as raised:
            experiments_main(["run", str(tmp_path / "x.yaml"), "--dry-run"])
        assert str(raised.value).endswith(code(error))


def test_settings_and_scripts_are_those_of_the_page():
    text = section("experiments", "One run")
    scripts = {code(cells[0]).removesuffix(".sh") for cells in rows(text)}
    assert scripts == SCRIPTS
    named = set(re.findall(r"`(\w+)`", text.partition("| in `scripts")[0]))
    assert named == {path.name for path in (ROOT / "scripts").iterdir() if path.is_dir()}
    first_cells = " ".join(cells[0] for cells in rows(section("experiments", "What a declaration may say")))
    assert all(f"`{name}`" in first_cells for name in ALL_SETTINGS)


def test_the_quick_start_from_photos_to_wrong_photos(printed, tree):
    (checked,) = outputs(printed, "datasets.check --path my_photos/")
    assert checked.startswith(f"ok       my_photos            {len(PHOTO_CLASSES)} classes")
    (zero_shot,) = outputs(printed, "output/zeroshot")
    (trained,) = outputs(printed, "--trainer CoOp --seed 1 --output-dir output/mine")
    assert "=> per-class result" in zero_shot and "=> per-class result" in trained and accuracy(trained) > 20
    (wrong,) = outputs(printed, "wrong_photos.py")
    by_class, _, photos = wrong.split("\n\n")
    assert all(f"%  {name}" in by_class for name in PHOTO_CLASSES)
    result = json.loads((tree / "output" / "mine" / "result.json").read_text())
    assert all(f"{result['per_class'][name]:5.1f} %  {name}" in by_class for name in PHOTO_CLASSES)
    found = re.findall(r"^ +[\d.]+ %  (\S+): (\S+), not (\S+)$", photos, re.MULTILINE)
    tested = len(np.load(tree / "output" / "mine" / "predictions.npz")["labels"])
    assert len(found) == len(photos.splitlines()) - 1 == round(tested * result["results"]["error_rate"] / 100)
    assert all(Path(image).parent.name == true != predicted for image, predicted, true in found)
    assert (tree / "output" / "mine" / "figures" / "confusion.png").is_file()
    assert len(outputs(printed, "predict.py --model-dir output/mine --images new_photos/")) == 1


def test_times_of_the_quick_start_follow_from_its_steps():
    """Five classes of 16 photos: batches of CoOp's and ProMetaR's configs in their epochs."""
    table = {code(cells[1]): cells for cells in rows(section("quick_start", "2. Choose a method"))}
    for trainer, cells in table.items():
        if trainer.startswith("Zeroshot"):
            continue
        cfg = shipped(trainer, code(cells[2]))
        batch = cfg.DATALOADER.TRAIN_X.BATCH_SIZE
        assert cells[3] == f"{5 * 16 // batch * cfg.OPTIM.MAX_EPOCH} of {batch} photos"


def test_the_reader_names_what_is_wrong(printed, tree, tmp_path, monkeypatch):
    monkeypatch.setattr(DATASET_REGISTRY, "_obj_map", dict(DATASET_REGISTRY._obj_map))  # other tests count readers
    signs = runpy.run_path(str(DOCS / "examples" / "signs.py"))["Signs"]
    shutil.copytree(tree / "data" / "signs", tmp_path / "signs")
    labels = tmp_path / "signs" / "labels.txt"
    labels.write_text(labels.read_text().replace("0003.png 0 train", "0003.png 9 train"))
    with pytest.raises(BadDataError, match="labels.txt: line '0003.png 9 train' is not an image, a label and a part"):
        signs.at(str(tmp_path / "signs")).read()


# --- migration -------------------------------------------------------------------------------------------------------

SCRIPTS = {"base2new_train", "base2new_test", "xd_train", "xd_test", "few_shot"}


def test_scripts_take_the_arguments_of_the_page(tmp_path):
    """Every script hands what it was given to run.sh; here one that shows it."""
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    (tmp_path / "scripts" / "run.sh").write_text('printf "%s\\n" "$*"\n')
    table = [cells for cells in rows(section("migration", "Commands")) if len(cells) == 2]
    assert len(table) >= 8
    for theirs, ours in table:
        command = code(theirs) if ours.startswith("the same") else code(ours)
        done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
        handed_over = [line.split() for line in done.stdout.splitlines()]
        assert len(handed_over) == (3 if "main.sh" in command else 2 if "base2new_test" in command else 1)
        for kind, method, *words in handed_over:
            if kind == "all" and len(words) == 2:
                words.append("1")
            planned = read_request(kind, method, words).run()
            assert (
                ROOT / "configs" / "trainers" / planned.method.folder / f"{planned.config_file.stem}.yaml"
            ).is_file()
    assert read_request("source", "cocoop", ["1"]) == read_request("source", "cocoop", ["imagenet", "1"])
    for method in (path for path in (ROOT / "scripts").iterdir() if path.is_dir()):
        assert {path.stem for path in method.glob("*.sh")} >= SCRIPTS


def test_output_folders_are_those_of_the_page(monkeypatch):
    for name in ("DATA", "OUTPUT", "SHOTS", "SOURCE"):
        monkeypatch.delenv(name, raising=False)
    requests = [
        ("train_base", "prometar", "eurosat", "2"),
        ("test_new", "prometar", "eurosat", "2"),
        ("test_all", "prometar", "eurosat", "2"),
        ("source", "prometar", "imagenet", "2"),
        ("target", "prometar", "eurosat", "2"),
        ("all", "prometar", "eurosat", "8", "2"),
        ("all", "coop", "eurosat", "8", "2", "vit_b16"),
    ]
    table = [code(cells[1]) for cells in rows(section("migration", "Folders and logs"))]
    assert len(table) == len(requests)
    for written, (kind, method, *words) in zip(table, requests, strict=True):
        run = read_request(kind, method, words).run()
        values = {"dataset": "eurosat", "trainer": "ProMetaR", "cfg": run.config_file.stem, "k": "2", "K": "8"}
        values |= {"N": "16", "bool": "False", "position": "end"}
        expected = re.sub(r"<(\w+)>", lambda match, values=values: values[match[1]], written)
        assert run.folder.as_posix().endswith(f"/{expected}"), (written, run.folder)


@pytest.fixture
def old_run(tmp_path):
    """A folder as ProMetaR's repository leaves it: a log, and prompts among the frozen tensors of the model."""
    folder = tmp_path / "old_output" / "base2new" / "train_base" / "eurosat" / "shots_16" / "ProMetaR"
    folder = folder / "vit_b16_c2_ep10_batch4_4+4ctx" / "seed1"
    embedded = load_file(EMBEDDED)
    text, image = len(embedded["text_projection"]), len(embedded["visual.proj"])
    state = {"prompt_learner.ctx": torch.randn(4, text), "image_encoder.VPT": torch.randn(4, image)}
    for layer in (1, 2):
        state[f"text_encoder.transformer.resblocks.{layer}.VPT_shallow"] = torch.randn(4, text)
        state[f"image_encoder.transformer.resblocks.{layer}.VPT_shallow"] = torch.randn(4, image)
    state["prompt_learner.token_prefix"] = torch.zeros(4, 1, text)
    state["image_encoder.proj"] = embedded["visual.proj"]
    content = {"state_dict": state, "epoch": 10, "optimizer": None, "scheduler": None, "val_result": None}
    save_checkpoint(content, str(folder / "VLPromptLearner"))
    (folder / "log.txt").write_text("Finished training\nEvaluate on the *test* set\n* accuracy: 85.3%\n")
    return folder


@pytest.fixture
def train_here(data, tmp_path, monkeypatch):
    """Runs train.py with the page's arguments on the small data and the embedded model; returns the log."""

    def run(arguments: str, *more: str) -> str:
        monkeypatch.setattr(sys, "stdout", sys.stdout)  # train.py puts a log between
        monkeypatch.setattr(sys, "stderr", sys.stderr)
        monkeypatch.chdir(ROOT)
        output = tmp_path / "output"
        words = re.sub(r"(?<= )old_output", str(tmp_path / "old_output"), arguments.replace('"', ""))
        words = words.replace("--root data", f"--root {data}").replace("output/old_model", str(output))
        words = re.sub(r"(config-file configs/trainers/ProMetaR/)vit_b16", r"\1vit_shapes", words)
        words = words.replace("datasets/eurosat.yaml", "datasets/shapes.yaml")
        train.main(train.parse_args([*words.split(), *more]))
        return (output / "log.txt").read_text()

    return run


def test_old_checkpoints_are_used_as_the_page_says(old_run, train_here):
    (command,) = commands(section("migration", "Old checkpoints"))
    arguments = command.removeprefix("python train.py ")
    log = train_here(arguments)
    assert f'Loading weights to VLPromptLearner from "{old_run}/VLPromptLearner/model.pth.tar-10"' in log
    assert re.search(r"^\* accuracy: [\d.]+%", log, re.MULTILINE)
    training = re.sub(r"--eval-only|--model-dir \S+|--load-epoch \d+", "", arguments)
    training = training.replace("output/old_model", "output/old_model_new")
    with pytest.raises(MismatchError, match=r"VLPromptLearner/model.pth.tar-10 cannot be resumed.* MODEL.INIT_WEIGHTS"):
        train_here(f"--resume {old_run} {training}")
    weights = old_run / "VLPromptLearner" / "model.pth.tar-10"
    assert "Parameters to be updated" in train_here(f"--no-train {training}", "MODEL.INIT_WEIGHTS", str(weights))


def test_old_logs_are_read(old_run, tmp_path, monkeypatch, capsys):
    (command,) = commands(section("migration", "Folders and logs"))
    monkeypatch.chdir(tmp_path)
    parse_test_res.main(command.split()[2:])
    assert "* accuracy: 85.30% (1 run)\n" in capsys.readouterr().out


def test_a_repository_of_prompts_needs_neither_dassl_nor_learn2learn():
    required = read(ROOT / "requirements.txt").lower()
    assert "dassl" not in required and "learn2learn" not in required
    assert 'include = ["dassl*"]' in read(ROOT / "pyproject.toml")


def test_class_descriptions_are_written_as_the_page_says(data, tmp_path, capsys):
    _, command = commands(section("methods/coprompt", "Descriptions"))
    _, _, module, file, *rest = shlex.split(command)
    assert module == "tools.describe_classes"
    describe_classes.main([str(tmp_path / file), *(str(data) if word == "data" else word for word in rest)])
    content = json.loads((tmp_path / file).read_text())
    names = SUITES["Shapes"].class_names[:CLASSES]
    assert list(content) == names and all(len(set(sentences)) == 80 for sentences in content.values())
    assert all(name in sentence for name in names for sentence in content[name])
    assert "not the published file" in capsys.readouterr().out


def test_shipped_descriptions_are_those_of_the_templates():
    shipped = json.loads((ROOT / "configs" / "descriptions" / "shapes.json").read_text())
    assert shipped == describe_classes.describe(SUITES["Shapes"].class_names, IMAGENET_TEMPLATES_SELECT)
