"""A tiny data set, a tiny CLIP and trainers for them."""

from __future__ import annotations

import pytest
import torch
from golden_data import write_backbones
from tiny_runs import build_in_float64, build_trainer, make_cfg, write_data


@pytest.fixture(scope="session")
def home_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module", autouse=True)
def own_home(home_folder):
    """Cached downloads and text features of these tests are not the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home_folder))
        yield


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("data")
    write_data(root)
    return root


@pytest.fixture(scope="session")
def backbones(tmp_path_factory):
    """Checkpoint files of the golden data's tiny CLIPs: `vit` and `rn`, `more_tokens` and `text10`."""
    return write_backbones(tmp_path_factory.mktemp("backbones"))


@pytest.fixture
def tiny_cfg(data_root, backbones, tmp_path):
    """Makes the configuration of a run: `tiny_cfg(trainer, {KEY: value}, tower="vit")`."""

    def make(trainer, options=(), tower="vit"):
        return make_cfg(trainer, backbones[tower], data_root, tmp_path / "out", options)

    return make


@pytest.fixture
def tiny_trainer(tiny_cfg):
    """Builds a trainer: `tiny_trainer(trainer, {KEY: value}, tower="vit")`."""

    def build(*arguments, **keywords):
        torch.manual_seed(0)
        return build_trainer(tiny_cfg(*arguments, **keywords))

    return build


@pytest.fixture
def wide(tiny_cfg, monkeypatch):
    """A trainer in float64 with learned tensors away from their start, and the state of its frozen CLIP."""

    def build(name, options, tower="more_tokens"):
        torch.manual_seed(5)
        trainer = build_in_float64(tiny_cfg(name, options, tower), monkeypatch)
        with torch.no_grad():
            for tensor in trainer.prompts.tensors().values():
                tensor.add_(0.1 * torch.randn(tensor.shape, dtype=torch.float64))
        return trainer, dict(trainer.prompts.clip.state_dict())

    return build
