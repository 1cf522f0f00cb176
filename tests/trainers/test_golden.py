"""Every trainer computes what the published code computes.

Expected numbers: recorded from the public repositories of CoOp (ff61507c), multimodal-prompt-learning (69bce21a),
PromptSRC (bb95c77b), ProMetaR (c907bdb5), KgCoOp (c43ccc32), Prompt-align (1b762036: ProGrad), TCP (bd97bec6), MMA
(c3d0bc26) and CoPrompt (a2a6c12e) on a tiny CLIP. The compact copy in tests/golden is always replayed; the full set,
and all of its float64 records, where the folders shared/golden and shared/golden_methods lie beside the repository.

Limits: about ten times the float32 noise of the published code itself (float32 against float64), as measured with the
recordings; 1e-9 in float64.
"""

from __future__ import annotations

import hashlib

import pytest
import torch
from golden_data import (
    compact_method_names,
    compact_names,
    compact_recording,
    full_names,
    full_recording,
    further_text_blocks,
    has_float64,
    tower_of,
)
from golden_replay import replay
from tiny_runs import NODES, WITHOUT_RECORDING, build_in_float64, build_trainer

from dassl.data.datasets import DATASET_REGISTRY
from datasets.eurosat import EuroSAT

FLOAT32_LIMITS = {
    "start": 1e-6,
    "eval_before": 5e-5,
    "text_features": 5e-5,
    "loss": 1e-4,
    "forward": 1e-4,
    "cosine": 3e-5,
    "param": 1e-5,
    "param_mid": 1e-5,
    "fast": 2e-5,
    "vnet": 1e-6,
    "grad_base": 2e-3,  # gradients: relative, in norm per tensor
    "grad_meta": 2e-3,
    "vnet_grad": 2e-3,
    "gradient_parts": 2e-3,
    "eval_after": 5e-4,
}
DEFAULT_RATES = {"loss": 2e-8, "vnet": 2e-7}  # ADAPT_LR = LR_RATIO = 0.0005 make both small
FLOAT64_LIMIT = 1e-9
CPU = torch.device("cpu")


@pytest.fixture
def golden_run(tiny_cfg, tmp_path, monkeypatch):
    """Replays a recording; gives its deviations."""

    def run(recording, dtype=torch.float32, device=CPU):
        settings = recording.settings
        cfg = tiny_cfg(settings["trainer"], settings.get("options") or (), tower_of(settings))
        for node in ("optim", "optim_vnet"):
            for key, value in (settings.get(node) or {}).items():
                cfg.merge_from_list([f"{node.upper()}.{key}", value])
        cfg.USE_CUDA = device.type == "cuda"
        cfg.DATASET.NAME = dataset = settings.get("dataset_name", cfg.DATASET.NAME)
        if dataset != "EuroSAT":  # the name chooses templates; the files are EuroSAT's
            monkeypatch.setitem(DATASET_REGISTRY._obj_map, dataset, type(dataset, (EuroSAT,), {}))
            cfg.DATASET.NUM_SHOTS = -1  # a draw of images is recorded with the data set's name
        torch.manual_seed(settings.get("seed_init", 0))
        trainer = build_in_float64(cfg, monkeypatch) if dtype == torch.float64 else build_trainer(cfg)
        return replay(trainer, recording, tmp_path, monkeypatch)

    return run


def check(recording, deviations, limit_of):
    """Every deviation within its limit, and nothing recorded that was not looked at."""
    too_large = {name: value for name, value in deviations.largest.items() if not value <= limit_of(name)}
    assert not too_large, f"{recording.name}: {too_large}"
    start = ("init/", "vnet_init/", "tokenized_prompts", "teacher_text_features")
    # draws' source; seen through the losses or used nowhere; seen through query/ce
    unused = ("randperm", "zs_logits", "query/logits")
    ignored = {key for key in recording.tensors if key.startswith(start) or key.endswith(unused)}
    assert set(recording.tensors) - ignored == deviations.compared


def float32_limits(recording):
    default = "prometar_default" in recording.name
    resnet = 10 if "rn" in recording.settings["backbone_file"] else 1
    adam = 10 if (recording.settings.get("optim_vnet") or {}).get("NAME") == "adam" else 1
    limits = FLOAT32_LIMITS | (DEFAULT_RATES if default else {})
    limits |= {"eval_before": limits["eval_before"] * resnet, "vnet": limits["vnet"] * adam}
    if recording.settings["trainer"] == "MultiModalAdapter":  # whose logits change little
        limits["eval_after"] = 5e-5
    return limits.__getitem__


def test_every_trainer_is_recorded():
    recorded = {compact_recording(name).settings["trainer"] for name in compact_names()}
    assert recorded | WITHOUT_RECORDING == {"ZeroshotCLIP", "ZeroshotCLIP2", *NODES}
    assert not recorded & WITHOUT_RECORDING
    assert len(compact_names()) == 43


def test_text_blocks_are_drawn_as_they_were_made():
    """Expected: SHA-256 of the recorded blocks. PyTorch draws other last bits on a CPU without AVX2."""
    digest = hashlib.sha256()
    for name, tensor in sorted(further_text_blocks().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    assert digest.hexdigest() == "29932eefd1359f74b919abb8eb152dff15a553a81c0279f11d89dc090b0c2be0"


@pytest.mark.parametrize("name", compact_names())
def test_compact_recording(name, golden_run, device):
    recording = compact_recording(name)
    check(recording, golden_run(recording, device=device), float32_limits(recording))


@pytest.mark.parametrize("name", compact_method_names())
def test_compact_float64_recording(name, golden_run):
    recording = compact_recording(name, torch.float64)
    check(recording, golden_run(recording, torch.float64), lambda quantity: FLOAT64_LIMIT)


@pytest.mark.parametrize("name", full_names())
def test_full_recording(name, golden_run):
    recording = full_recording(name, torch.float32)
    check(recording, golden_run(recording), float32_limits(recording))


@pytest.mark.parametrize("name", [name for name in full_names() if has_float64(name)])
def test_float64_recording(name, golden_run):
    recording = full_recording(name, torch.float64)
    check(recording, golden_run(recording, torch.float64), lambda quantity: FLOAT64_LIMIT)
