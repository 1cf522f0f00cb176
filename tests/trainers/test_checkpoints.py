"""Checkpoints of the published code load here, and ours there.

Expected names and shapes: tests/golden/checkpoint_layout.json, recorded from the files that the published trainers
write on the tiny CLIP.
"""

from __future__ import annotations

import json
import os
import pickle
import re
from pathlib import Path

import pytest
import torch
from golden_data import COMPACT, images, method_layouts
from golden_replay import evaluate
from tensor_modules import TensorHolder
from tiny_runs import CLASSNAMES, NODES, learned, load_tiny_clip, make_cfg, set_position
from torch import nn
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from clip.branched_text import BranchedText
from clip.model import CLIP, ResidualAttentionBlock
from dassl.engine import TRAINER_REGISTRY, TrainerBase
from dassl.utils import UserError, load_checkpoint, save_checkpoint
from trainers.core.trainer import load_learned
from trainers.ivlp import IVLPPrompts
from trainers.prometar import MODULATOR

LAYOUTS = {entry["trainer"]: entry for entry in json.loads((COMPACT / "checkpoint_layout.json").read_text())}
# settings under which ours learn tensors of the recorded shapes
SETTINGS = {
    "CoOp": {"N_CTX": 16},
    "CoCoOp": {"CTX_INIT": "a photo of a"},
    "VPT": {"N_CTX_VISION": 8, "PROMPT_DEPTH_VISION": 3},
    "IVLP": {"N_CTX_VISION": 4, "N_CTX_TEXT": 4, "PROMPT_DEPTH_VISION": 3, "PROMPT_DEPTH_TEXT": 3},
    "MaPLe": {"N_CTX": 2, "PROMPT_DEPTH": 3},
    "ProMetaR": {"PROMPT_DEPTH_VISION": 3, "PROMPT_DEPTH_TEXT": 3},
}
RECORDED_FIXED = ("token_prefix", "token_suffix")


def published_state(name: str, clip_state: dict) -> tuple[dict, set[str]]:
    """A state dict of the published layout with random prompts, and the names of what is frozen in it."""
    generator = torch.Generator().manual_seed(11)
    layout, state = LAYOUTS[name], {}
    if layout["frozen_entry_count"]:
        for key, tensor in clip_state.items():
            if key.startswith("visual."):
                state[key.replace("visual.", "image_encoder.", 1)] = tensor
                if name == "ProMetaR":
                    state[key.replace("visual.", "prompt_learner.ZS_image_encoder.", 1)] = tensor
            elif key == "logit_scale":
                state[key] = tensor
            elif key != "token_embedding.weight":
                state[f"text_encoder.{key}"] = tensor
    frozen = set(state)
    for key, (shape, dtype) in layout["trainable_or_prompt_entries"].items():
        value = 0.1 * torch.randn(shape, generator=generator)
        state[key] = value.to(getattr(torch, dtype.removeprefix("torch.")))
    return state, frozen


class Trap:
    """Unpickling this makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def scheduler_state(**more) -> dict:
    """As the published warm-up schedulers save themselves: with the scheduler that takes over as an object."""
    optimizer = SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.002)
    successor = CosineAnnealingLR(optimizer, 10.0)
    return {"last_epoch": 2, "successor": successor, "warmup_epoch": 1, "cons_lr": 1e-5, "base_lrs": [0.002], **more}


def write_published(folder: Path, name: str, state: dict, **more) -> Path:
    """`<folder>/<registered name>/model.pth.tar-2` as Dassl writes it."""
    layout = LAYOUTS[name]
    path = folder / layout["registered_name"] / layout["file"]
    path.parent.mkdir(parents=True)
    content = {"state_dict": state, "epoch": 2, "optimizer": None, "scheduler": scheduler_state(**more)}
    torch.save(content | {"val_result": None}, path)
    (path.parent / "checkpoint").write_text(f"{path.name}\n")
    return path


@pytest.fixture(scope="module")
def clip_state(backbones):
    return load_tiny_clip(backbones["vit"]).state_dict()


def test_the_layouts_are_whole(clip_state):
    """The frozen part as put together here has as many tensors as were recorded."""
    assert set(LAYOUTS) == set(SETTINGS)
    for name, layout in LAYOUTS.items():
        state, frozen = published_state(name, clip_state)
        assert len(frozen) == layout["frozen_entry_count"]
        assert set(layout["frozen_entries_first"]) <= frozen
        assert len(state) == layout["state_dict_entries"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_published_checkpoints_load(name, tiny_trainer, tmp_path, clip_state):
    state, frozen = published_state(name, clip_state)
    trap = tmp_path / "trap"
    path = write_published(tmp_path, name, state, surprise=Trap(trap))
    trainer = tiny_trainer(name, SETTINGS[name])
    before = evaluate(trainer, images()["heldout_images"])
    trainer.load_model(str(tmp_path), epoch=2)
    assert not trap.exists()
    module = trainer._models[LAYOUTS[name]["registered_name"]]
    fixed = {key for key in state if key.endswith(RECORDED_FIXED)}
    assert set(module.state_dict()) == set(state) - frozen - fixed
    for key, tensor in module.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, state[key].float()), key
    assert (evaluate(trainer, images()["heldout_images"]) - before).abs().max() > 1e-3
    pickle.loads(pickle.dumps(Trap(trap)))  # the trap works
    assert trap.exists() and path.is_file()


@pytest.mark.parametrize("name", LAYOUTS)
def test_ours_load_into_a_published_module(name, tiny_trainer, tmp_path, clip_state):
    """As the published `load_model` does: drop the fixed rows, `load_state_dict(strict=False)`."""
    trainer = tiny_trainer(name, SETTINGS[name])
    trainer.save_model(1, str(tmp_path))
    layout = LAYOUTS[name]
    content = torch.load(tmp_path / layout["registered_name"] / layout["file"], weights_only=True)
    assert list(content) == [*layout["top_level_keys"], "training_state", "run"]
    assert content["epoch"] == layout["epoch_value"]
    assert (tmp_path / layout["registered_name"] / "checkpoint").read_text() == f"{layout['file']}\n"

    state, frozen = published_state(name, clip_state)
    module = TensorHolder({key: tensor.float() for key, tensor in state.items()})
    missing, unexpected = module.load_state_dict(content["state_dict"], strict=False)
    assert not unexpected
    assert set(missing) == frozen | {key for key in state if key.endswith(RECORDED_FIXED)}
    expected = trainer._models[layout["registered_name"]].state_dict()
    loaded = module.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items()) and expected


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_tensors_name(name, tiny_trainer, tmp_path, clip_state):
    trainer = tiny_trainer(name, SETTINGS[name])
    own = list(trainer._models[LAYOUTS[name]["registered_name"]].state_dict())
    extra = {
        "CoOp": "meta_net.linear1.weight",
        "CoCoOp": "meta_net.linear3.weight",
        "MaPLe": "prompt_learner.compound_prompts_text.7",
    }.get(name, "image_encoder.transformer.resblocks.7.VPT_shallow")
    before = learned(trainer)
    cases = []
    for key in own:
        state, _ = published_state(name, clip_state)
        cases.append(({k: v for k, v in state.items() if k != key}, f"{key} is missing"))
        cases.append((state | {key: torch.zeros(3, *state[key].shape)}, f"{key} has shape"))
    cases.append((published_state(name, clip_state)[0] | {extra: torch.zeros(4, 64)}, extra))
    for number, (state, words) in enumerate(cases):
        path = write_published(tmp_path / str(number), name, state)
        with pytest.raises(UserError) as caught:
            trainer.load_model(str(tmp_path / str(number)), epoch=2)
        message = str(caught.value)
        assert words in message and str(path) in message and "\n" not in message
    after = learned(trainer)
    assert all(torch.equal(after[key], value) for key, value in before.items())  # nothing was half loaded


def test_a_missing_or_damaged_checkpoint_is_named(tiny_trainer, tmp_path):
    trainer = tiny_trainer("CoOp")
    with pytest.raises(UserError, match=r"prompt_learner/model\.pth\.tar-7.*--load-epoch"):
        trainer.load_model(str(tmp_path), epoch=7)
    with pytest.raises(UserError, match=r"model-best\.pth\.tar"):
        trainer.load_model(str(tmp_path))
    trainer.save_model(6, str(tmp_path))
    path = tmp_path / "prompt_learner" / "model.pth.tar-7"
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(UserError, match=r"model\.pth\.tar-7"):
        trainer.load_model(str(tmp_path), epoch=7)
    for content in ({"ctx": torch.zeros(16, 64)}, {"state_dict": 5, "epoch": 7}, {"state_dict": {"ctx": 5}}):
        torch.save(content, path)
        with pytest.raises(UserError, match=r"model\.pth\.tar-7 is not a checkpoint .* no state_dict"):
            trainer.load_model(str(tmp_path), epoch=7)


def test_a_folder_without_modulator_loads(tiny_trainer, tmp_path, clip_state, capsys):
    """As published checkpoints are, and ours when training has finished."""
    state, _ = published_state("ProMetaR", clip_state)
    write_published(tmp_path, "ProMetaR", state)
    trainer = tiny_trainer("ProMetaR", SETTINGS["ProMetaR"])
    before = {name: value.clone() for name, value in trainer.modulator.state_dict().items()}
    trainer.load_model(str(tmp_path), epoch=2)
    assert "No GradientModulator" in capsys.readouterr().out
    assert all(torch.equal(before[name], value) for name, value in trainer.modulator.state_dict().items())


def test_the_modulators_checkpoint(tiny_trainer, tmp_path):
    """Its names and shapes as in the published code's module, which never saved it."""
    trainer = tiny_trainer("ProMetaR", SETTINGS["ProMetaR"])
    trainer.save_model(0, str(tmp_path))
    state = load_checkpoint(tmp_path / MODULATOR / "model.pth.tar-1")["state_dict"]
    sizes = {"vision": 4 * 128, "text": 4 * 64}
    expected = {}
    for side, size in sizes.items():
        for i in range(3):
            expected[f"linear_{side}_gamma.{i}.0.weight"] = (size // 8, 2 * size)
            expected[f"linear_{side}_gamma.{i}.1.weight"] = (size // 8, size // 8)
    assert {name: tuple(value.shape) for name, value in state.items()} == expected
    again = tiny_trainer("ProMetaR", SETTINGS["ProMetaR"])
    again.load_model(str(tmp_path), epoch=1)
    assert all(torch.equal(state[name], value) for name, value in again.modulator.state_dict().items())
    for folder in ("VLPromptLearner", MODULATOR):  # as another version might have written them, without a record
        content = load_checkpoint(tmp_path / folder / "model.pth.tar-1")
        content["state_dict"].pop("linear_text_gamma.2.1.weight", None)
        torch.save({key: content[key] for key in ("state_dict", "epoch")}, tmp_path / folder / "model.pth.tar-1")
    with pytest.raises(UserError, match=r"linear_text_gamma\.2\.1\.weight is missing"):
        again.load_model(str(tmp_path), epoch=1)


def test_a_checkpoint_holds_only_what_was_learned(tmp_path):
    """ViT-B/16's widths, 4 + 4 tokens, depth 9: 46,080 values, and as many of momentum; not the 150 million of CLIP."""
    with torch.device("meta"):
        vit_b16 = CLIP(512, 224, 12, 768, 16, 77, 49408, 512, 8, 12)
    settings = make_cfg("IVLP", "", "", "").TRAINER.IVLP
    settings.N_CTX_TEXT = settings.N_CTX_VISION = 4
    settings.PROMPT_DEPTH_TEXT = settings.PROMPT_DEPTH_VISION = 9
    settings.CTX_INIT = ""
    prompts = IVLPPrompts(vit_b16, CLASSNAMES, settings, "TRAINER.IVLP")
    assert sum(tensor.numel() for tensor in prompts.tensors().values()) == 46_080
    optimizer = SGD(prompts.parameters(), lr=0.1, momentum=0.9)
    for parameter in prompts.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    keeper = TrainerBase()
    keeper.register_model("VLPromptLearner", prompts, optimizer)
    keeper.save_model(0, str(tmp_path))
    size = (tmp_path / "VLPromptLearner" / "model.pth.tar-1").stat().st_size
    assert 2 * 4 * 46_080 < size < 2 * 4 * 46_080 + 30_000


SIZES = {
    "KgCoOp": {"N_CTX": 4, "CTX_INIT": ""},
    "ProGrad": {"N_CTX": 16, "CTX_INIT": ""},
    "PromptSRC": {"PROMPT_DEPTH_VISION": 9, "PROMPT_DEPTH_TEXT": 9},
    "TCP": {"CLASS_LAYER": 8},
    "MultiModalAdapter": {"ADAPTER_START": 5, "ADAPTER_END": 12},
    "CoPrompt": {"PROMPT_DEPTH": 9},
}
"""Settings under which the methods recorded later learn tensors of the recorded shapes."""


@pytest.fixture(scope="module")
def vit_b16():
    """A CLIP of ViT-B/16's sizes, without values in its blocks; nothing can be encoded."""
    clip = CLIP(512, 224, 1, 768, 16, 77, 49408, 512, 8, 1)
    for transformer in (clip.transformer, clip.visual.transformer):
        with torch.device("meta"):
            blocks = [ResidualAttentionBlock(transformer.width, 8, nn.Identity) for _ in range(12)]
        transformer.resblocks = nn.Sequential(*blocks)
    clip.encode_text = lambda tokens: torch.ones(len(tokens), 512)
    return clip


@pytest.mark.parametrize("name", method_layouts())
def test_published_vit_b16_checkpoints_load(name, vit_b16, tmp_path, monkeypatch):
    """Of the methods recorded later, whose files also contain what nothing computes with."""
    monkeypatch.setattr(BranchedText, "_unchanged_rows", lambda self, packed: None)
    layout, kind = method_layouts()[name], TRAINER_REGISTRY.get(name)
    trainer = kind.__new__(kind)
    trainer.cfg = make_cfg(name, "", "", "", SIZES[name])
    trainer.prompts = trainer.build_prompts(vit_b16, CLASSNAMES)
    module, published = trainer.registered_module(), layout["learned"]
    assert trainer.registered_name == layout["registered_name"]
    assert {key: list(value.shape) for key, value in module.state_dict().items()} == {
        key: shape for key, (shape, _) in published.items()
    }
    state = {
        key: torch.randn(shape).to(getattr(torch, dtype.removeprefix("torch.")))
        for key, (shape, dtype) in (published | layout["other_small_entries"]).items()
    }

    def load(state):
        load_learned(module, state, "published", trainer.unused_in_checkpoints)

    load(state)
    assert all(torch.equal(value, state[key].float()) for key, value in module.state_dict().items())
    for missing in published:
        with pytest.raises(UserError, match=f"published: tensor {re.escape(missing)} is missing"):
            load({key: value for key, value in state.items() if key != missing})
    more = next(iter(published)).replace(".5.", ".13.").replace("ctx", "compound_prompts_text.30")
    with pytest.raises(UserError, match=f"contains prompt tensor {re.escape(more)}"):
        load(state | {more: torch.zeros(1)})
    save_checkpoint({"state_dict": module.state_dict(), "epoch": 1}, str(tmp_path))
    values = sum(value.numel() for value in module.state_dict().values())
    assert 4 * values < (tmp_path / "model.pth.tar-1").stat().st_size < 4 * values + 40_000  # without the frozen CLIP


@pytest.mark.parametrize("method", NODES)
def test_no_method_passes_over_what_another_one_learned(tiny_trainer, method):
    """Files without a record are told by the names of their tensors, which each method's file states."""
    for name, tensor in tiny_trainer(method).registered_module().state_dict().items():
        with pytest.raises(UserError, match=f"contains prompt tensor {re.escape(name)}"):
            load_learned(torch.nn.Module(), {name: tensor}, "published")


def test_a_tiny_runs_checkpoint_is_small(tiny_trainer, tmp_path):
    trainer = tiny_trainer("CoOp")
    set_position(trainer, 0)
    trainer.save_model(0, str(tmp_path))
    assert (tmp_path / "prompt_learner" / "model.pth.tar-1").stat().st_size < 16 * 64 * 4 + 24_000


def test_training_can_start_from_a_checkpoint(tiny_trainer, tmp_path):
    """MODEL.INIT_WEIGHTS, as in the lineage."""
    first = tiny_trainer("CoOp", {"N_CTX": 4})
    first.prompts.prompt_learner.ctx.data += 1
    first.save_model(0, str(tmp_path))
    path = str(tmp_path / "prompt_learner" / "model.pth.tar-1")
    second = tiny_trainer("CoOp", {"N_CTX": 4, "MODEL.INIT_WEIGHTS": path})
    assert torch.equal(learned(second)["ctx"], learned(first)["ctx"])
    with pytest.raises(UserError, match=r"model\.pth\.tar-1.*shape"):
        tiny_trainer("CoOp", {"N_CTX": 5, "MODEL.INIT_WEIGHTS": path})
    plain = str(tmp_path / "plain.pth")
    torch.save(learned(first), plain)
    with pytest.raises(UserError, match=r"plain\.pth is not a checkpoint of a trainer"):
        tiny_trainer("CoOp", {"N_CTX": 4, "MODEL.INIT_WEIGHTS": plain})
