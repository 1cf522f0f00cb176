"""Every shipped YAML merges, opens with the command that runs it, and holds the published values."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

import train
from dassl.config import get_cfg_default, merge_file
from dassl.data.datasets import DATASET_REGISTRY

ROOT = Path(train.__file__).parent
METHODS = sorted((ROOT / "configs" / "trainers").glob("*/*.yaml"))
DATASETS = sorted((ROOT / "configs" / "datasets").glob("*.yaml"))
PUBLISHED = ROOT.parent / "shared" / "published_configs.json"
PUBLISHED_METHODS = ROOT.parent / "shared" / "golden_methods"
COMMAND = re.compile(
    r"# bash scripts/(?P<method>\w+)/(?P<script>base2new_train|base2new_test|xd_train|few_shot)\.sh "
    r"(?P<dataset>\w+)( 16)? 1( (?P<cfg>\S+))?"
)


def merged(path: Path):
    cfg = get_cfg_default()
    train.extend_cfg(cfg)
    merge_file(cfg, str(path))
    return cfg


def test_there_are_configs():
    assert len(METHODS) >= 30 and len(DATASETS) >= 20


@pytest.mark.parametrize("path", METHODS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_method_config(path):
    command = COMMAND.match(path.read_text().splitlines()[0])
    assert command and command["cfg"] == path.stem
    assert (ROOT / "scripts" / command["method"] / f"{command['script']}.sh").is_file()
    assert (ROOT / "configs" / "datasets" / f"{command['dataset']}.yaml").is_file()
    cfg = merged(path)
    assert cfg.MODEL.BACKBONE.NAME and cfg.INPUT.TRANSFORMS
    optimiser = {"TCP": ("adam", 1e-3), "CLIPLoRA": ("adamw", 1e-8)}.get(path.parent.name, ("sgd", 1e-8))
    assert optimiser == (cfg.OPTIM.NAME, cfg.OPTIM.ADAM_EPS)


CLASSES = {
    "imagenet": 1000,
    "caltech101": 100,
    "oxford_pets": 37,
    "stanford_cars": 196,
    "oxford_flowers": 102,
    "food101": 101,
    "fgvc_aircraft": 100,
    "sun397": 397,
    "dtd": 47,
    "eurosat": 10,
    "ucf101": 101,
}


@pytest.mark.parametrize("dataset, classes", CLASSES.items())
def test_clip_lora_makes_the_steps_of_the_paper(dataset, classes):
    """500 x shots steps of 32 images, where 16 shots make whole epochs of them."""
    cfg = merged(ROOT / "configs" / "trainers" / "CLIPLoRA" / f"vit_b16_r2_{dataset}.yaml")
    steps = cfg.OPTIM.MAX_EPOCH * (16 * classes // cfg.DATALOADER.TRAIN_X.BATCH_SIZE)
    assert steps == pytest.approx(500 * 16, rel=0.011) and cfg.DATALOADER.TRAIN_X.BATCH_SIZE == 32
    own = cfg.TRAINER.CLIPLORA
    assert (own.RANK, own.LORA_ALPHA, own.DROPOUT) == (2, 1.0, 0.25)
    assert (cfg.OPTIM.LR, cfg.OPTIM.WEIGHT_DECAY, cfg.OPTIM.LR_SCHEDULER) == (2e-4, 0.01, "cosine")


@pytest.mark.parametrize("path", DATASETS, ids=lambda path: path.stem)
def test_dataset_config(path):
    first = path.read_text().splitlines()[0]
    assert COMMAND.match(first) or first.startswith("# python"), first
    assert merged(path).DATASET.NAME in DATASET_REGISTRY


@pytest.mark.skipif(not PUBLISHED.is_file(), reason="the list of published values is not in this checkout")
def test_published_values_are_kept():
    published = json.loads(PUBLISHED.read_text())
    compared = 0
    for name, config in published["configs"].items():
        if not (ROOT / name).is_file():
            continue
        values = config.get("values") or config["variants"]["muzairkhattak/multimodal-prompt-learning"]
        reference = get_cfg_default()
        train.extend_cfg(reference)
        for key, value in leaves(values):
            reference.merge_from_list([key, value])
        ours = merged(ROOT / name)
        for key, _ in leaves(values):
            assert node(ours, key) == node(reference, key), (name, key)
            compared += 1
    assert compared > 300


def published_files(method: str):
    """Config files that a method's authors published: name, values."""
    tables = json.loads((PUBLISHED_METHODS / f"hparams_{method}.json").read_text())["settings"]
    settings = [setting for setting in tables.values() if isinstance(setting, dict)]
    for setting in [*settings, *(setting["imagenet"] for setting in settings if "imagenet" in setting)]:
        if "values" in setting:
            named = setting.get("config_file")
            yield from [(named, setting["values"])] if named else setting["values"].items()


FILES = {"KgCoOp": 2, "ProGrad": 3, "PromptSRC": 3, "TCP": 1, "MultiModalAdapter": 2, "CoPrompt": 1}
OTHER_NODES = ("TRAINER.COOP.", "TRAINER.COCOOP.", "LOSS.", "TRAINER.CoPrompt.", "TRAINER.W", "TRAINER.DISTILL")
"""Where methods without a node of their own, or with one of another name, had their keys."""


@pytest.mark.skipif(not PUBLISHED_METHODS.is_dir(), reason="the published values are not in this checkout")
@pytest.mark.parametrize(("method", "files"), FILES.items())
def test_published_values_of_a_method_are_kept(method, files):
    """Under the lineage's file names; the keys of `OTHER_NODES` apart."""
    published = dict(published_files({"MultiModalAdapter": "mma"}.get(method, method.lower())))
    assert len(published) == files
    for name, values in published.items():
        ours, reference = merged(ROOT / "configs" / "trainers" / method / name), get_cfg_default()
        train.extend_cfg(reference)
        kept = [(key, value) for key, value in leaves(values) if not key.startswith(OTHER_NODES)]
        assert len(kept) > 15
        for key, value in kept:
            reference.merge_from_list([key, value])
            assert node(ours, key) == node(reference, key), (name, key)


@pytest.mark.skipif(not PUBLISHED_METHODS.is_dir(), reason="the lists of published values are not in this checkout")
def test_coprompt_has_the_published_values_of_each_data_set():
    published = json.loads((PUBLISHED_METHODS / "hparams_coprompt.json").read_text())
    by_name = {merged(path).DATASET.NAME: path.stem for path in DATASETS}
    for dataset, values in published["forced_per_dataset_after_the_command_line"].items():
        ours = merged(ROOT / "configs" / "trainers" / "CoPrompt" / f"coprompt_{by_name[dataset]}.yaml")
        own = ours.TRAINER.COPROMPT
        wanted = [values[f"TRAINER.{key}"] for key in ("CoPrompt.PROMPT_DEPTH", "CoPrompt.N_CTX", "W")]
        assert wanted == [own.PROMPT_DEPTH, own.N_CTX, own.W]
        assert values.get("OPTIM.MAX_EPOCH", 8) == ours.OPTIM.MAX_EPOCH
        file = published["description_files"]["mapping"][dataset]
        assert f"gpt_file/{file}_prompt.json" == own.DESCRIPTIONS


def leaves(tree: dict, prefix: str = ""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def node(cfg, key: str):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg
