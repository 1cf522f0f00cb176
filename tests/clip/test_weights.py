"""Checkpoint files: every format gives the same tensors; a file that cannot be used is named in one line."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from tensor_modules import trace
from torch import Tensor

from clip import clip
from clip.backbones.checkpoint import clip_from_state_dict, read_state_dict
from clip.model import CLIP, ModifiedResNet, VisionTransformer
from dassl.utils import UserError

VIT = dict(image_resolution=48, vision_layers=2, vision_width=64, vision_patch_size=16)
RESNET = dict(image_resolution=96, vision_layers=(2, 1, 3, 1), vision_width=8, vision_patch_size=None)
TEXT = dict(context_length=77, vocab_size=60, transformer_width=128, transformer_heads=2, transformer_layers=3)


def tiny_state(tower: dict) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return CLIP(embed_dim=32, **tower, **TEXT).state_dict()


@pytest.fixture(scope="module")
def state():
    return tiny_state(VIT)


def torchscript(state: dict[str, Tensor]) -> torch.jit.ScriptModule:
    """As OpenAI's archives: float16 tensors and three numbers beside them."""
    numbers = dict(input_resolution=48, context_length=77, vocab_size=60)
    half = {name: value.half() if value.is_floating_point() else value for name, value in state.items()}
    return trace(half | {name: torch.tensor(value) for name, value in numbers.items()})


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_plain_state_dicts(state, tmp_path):
    contents = {
        "plain.pt": state,
        "wrapped.pth": {"epoch": 3, "state_dict": state},
        "data_parallel.pt": {f"module.{name}": value for name, value in state.items()},
    }
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
        assert same(read_state_dict(tmp_path / name), state), name
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(read_state_dict(tmp_path / "old.pt"), state)


def test_safetensors(state, tmp_path):
    save_file(state, tmp_path / "clip.safetensors")
    assert same(read_state_dict(tmp_path / "clip.safetensors"), state)


def test_torchscript_archive(state, tmp_path):
    torchscript(state).save(str(tmp_path / "archive.pt"))
    read = read_state_dict(tmp_path / "archive.pt")
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], value.half()) for name, value in state.items())
    model, transform = clip.load(str(tmp_path / "archive.pt"), device="cpu")
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert transform.transforms[0].size == 48


def test_lineage_style_loading_of_a_torchscript_archive(state, tmp_path):
    """Trainers of the lineage hand the archive's own state dict, numbers and all, to `build_model`."""
    torchscript(state).save(str(tmp_path / "archive.pt"))
    archive = torch.jit.load(str(tmp_path / "archive.pt"), map_location="cpu").eval()
    assert "input_resolution" in archive.state_dict()
    assert clip.build_model(archive.state_dict()).visual.input_resolution == 48


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_table_restricted_to_some_rows_is_expanded(state, tmp_path, suffix):
    rows = torch.tensor([0, 7, 320, 49406, 49407])
    table = state["token_embedding.weight"][: len(rows)].clone()
    restricted = state | {"token_embedding.weight": table, "token_embedding.rows": rows.int()}
    path = tmp_path / f"restricted.{suffix}"
    save_file(restricted, path) if suffix == "safetensors" else torch.save(restricted, path)
    model = clip_from_state_dict(read_state_dict(path))
    full = model.token_embedding.weight
    assert full.shape == (49408, 128) and model.vocab_size == 49408
    assert torch.equal(full[rows], table)
    assert full.count_nonzero() == table.count_nonzero()
    lineage = clip.build_model(restricted)  # as trainers that read the file themselves do
    assert torch.equal(lineage.token_embedding.weight.float(), full)


@pytest.mark.parametrize("rows", [[0, 1], [0, 1, 49408], [0, 1, -1], [[0, 1, 2]]])
def test_a_restricted_table_whose_rows_do_not_fit_is_refused(state, rows):
    table = state["token_embedding.weight"][:3]
    restricted = state | {"token_embedding.weight": table, "token_embedding.rows": torch.tensor(rows)}
    refused(lambda: clip_from_state_dict(restricted, source="table.pt"), "table.pt", "token_embedding.rows")


def test_vit_architecture_is_read_from_the_shapes(state):
    model = clip_from_state_dict(state)
    assert isinstance(model.visual, VisionTransformer)
    assert (model.visual.input_resolution, len(model.visual.transformer.resblocks)) == (48, 2)
    assert model.visual.conv1.kernel_size == (16, 16)
    assert (model.transformer.width, model.transformer.resblocks[0].heads, model.context_length) == (128, 2, 77)
    assert model.visual(torch.zeros(1, 3, 48, 48)).shape == (1, 32)
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())


def test_resnet_architecture_is_read_from_the_shapes():
    model = clip_from_state_dict(tiny_state(RESNET))
    assert isinstance(model.visual, ModifiedResNet)
    stages = [model.visual.layer1, model.visual.layer2, model.visual.layer3, model.visual.layer4]
    assert [len(stage) for stage in stages] == [2, 1, 3, 1]
    assert (model.visual.input_resolution, model.visual.attnpool.num_heads) == (96, 4)
    assert model.visual(torch.zeros(1, 3, 96, 96)).shape == (1, 32)


@pytest.mark.parametrize(
    "name, resolution, layers, width, patch",
    [("ViT-B/32", 224, 12, 768, 32), ("ViT-B/16", 224, 12, 768, 16), ("ViT-L/14@336px", 336, 24, 1024, 14)],
)
def test_openai_sizes(name, resolution, layers, width, patch):
    """Shapes of the published models (Radford et al. 2021, table 20), without their values."""
    text = 512 if "B" in name else 768
    with torch.device("meta"):
        published = CLIP(text, resolution, layers, width, patch, 77, 49408, text, text // 64, 12).state_dict()
    from clip.backbones.checkpoint import _architecture

    expected = dict(image_resolution=resolution, vision_layers=layers, vision_width=width, vision_patch_size=patch)
    assert _architecture(published).items() >= expected.items()
    assert name in clip.available_models()


def test_half_precision_files_become_float32(state, tmp_path):
    half = {name: value.half() for name, value in state.items()}
    torch.save(half, tmp_path / "half.pt")
    model = clip.load(str(tmp_path / "half.pt"), device="cpu")[0]
    assert model.dtype == torch.float32
    assert torch.equal(model.text_projection, half["text_projection"].float())


def refused(call, *parts: str) -> None:
    """The call ends in a one-line UserError that holds all `parts`."""
    with pytest.raises(UserError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500, message
    for part in parts:
        assert part in message, message


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: s.pop("ln_final.weight"), "ln_final.weight"),
        (lambda s: s.pop("visual.conv1.weight"), "visual.conv1.weight"),
        (lambda s: s.pop("visual.proj"), "visual"),
        (lambda s: s.pop("transformer.resblocks.1.ln_1.weight"), "transformer.resblocks.1.ln_1.weight is missing"),
        (lambda s: s.update(classifier=torch.zeros(3)), "unknown tensor classifier"),
        (lambda s: s.update({"ln_final.bias": torch.zeros(5)}), "ln_final.bias has shape (5,), expected (128,)"),
        (lambda s: s.update({"text_projection": torch.zeros(5)}), "text_projection"),
        (lambda s: s.update({"visual.proj": torch.zeros(5, 7)}), "visual.proj has shape (5, 7), expected (64, 32)"),
        (lambda s: s.update({"visual.positional_embedding": torch.zeros(0, 64)}), "visual.positional_embedding"),
        (lambda s: s.update({"visual.conv1.weight": torch.zeros(0)}), "visual.conv1.weight"),
        (lambda s: s.update({"ln_final.weight": torch.zeros(32)}), "width 32"),
        (lambda s: s.clear(), "not a CLIP with OpenAI's tensor names"),
    ],
)
def test_a_state_dict_that_does_not_fit_is_refused(state, change, words, tmp_path):
    changed = dict(state)
    change(changed)
    torch.save(changed, tmp_path / "wrong.pt")
    refused(lambda: clip.load(str(tmp_path / "wrong.pt"), device="cpu"), "wrong.pt", words)


def as_bytes(kind: str, state: dict[str, Tensor]) -> bytes:
    buffer = io.BytesIO()
    if kind == "torchscript":
        torch.jit.save(torchscript(state), buffer)
    elif kind == "safetensors":
        return save(state)
    else:
        torch.save(state, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("kind, suffix", [("torchscript", "pt"), ("safetensors", "safetensors"), ("pickle", "pt")])
def test_truncated_files_are_refused(state, kind, suffix, tmp_path):
    content = as_bytes(kind, state)
    path = tmp_path / f"truncated.{suffix}"
    for share in (0, 0.001, 0.5, 0.999):
        path.write_bytes(content[: int(share * len(content))])
        refused(lambda: read_state_dict(path), str(path))


def test_foreign_files_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "archive.pt", "w") as archive:
        archive.writestr("some/constants.pkl", b"not a pickle")
    (tmp_path / "text.pt").write_text("<html>404 not found</html>\n" * 20)
    (tmp_path / "text.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    torch.save([1, 2, 3], tmp_path / "list.pt")
    torch.save({"state_dict": {"a": 1}}, tmp_path / "numbers.pt")
    torch.save(torch.zeros(3), tmp_path / "tensor.pt")
    for name in ("archive.pt", "text.pt", "text.safetensors", "list.pt", "numbers.pt", "tensor.pt"):
        refused(lambda path=tmp_path / name: read_state_dict(path), name)
    refused(lambda: read_state_dict(tmp_path / "nowhere.pt"), "nowhere.pt", "not found")
    refused(lambda: read_state_dict(tmp_path), str(tmp_path))


@pytest.mark.parametrize("kind, suffix", [("safetensors", "safetensors"), ("pickle", "pt")])
def test_mutated_files_end_in_tensors_or_a_clear_error(kind, suffix, tmp_path):
    content = as_bytes(kind, {"a": torch.zeros(4), "b.c": torch.ones(2, 3)})
    rng, path, count = np.random.default_rng(0), tmp_path / f"mutated.{suffix}", 0
    for _ in range(200):
        mutated = bytearray(content)
        for place in rng.integers(0, len(content), size=rng.integers(1, 6)):
            mutated[place] = rng.integers(0, 256)
        path.write_bytes(mutated)
        try:
            read = read_state_dict(path)
        except UserError as error:
            assert str(path) in str(error) and "\n" not in str(error)
            count += 1
        else:
            assert all(isinstance(value, Tensor) for value in read.values())
    assert count > 20


class Mischief:
    """An object whose unpickling creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("new_format", [True, False])
def test_nothing_hidden_in_a_file_is_run(state, tmp_path, new_format):
    trap = tmp_path / "trap"
    content = {**state, "extra": Mischief(trap)}
    torch.save(content, tmp_path / "hostile.pt", _use_new_zipfile_serialization=new_format)
    refused(lambda: read_state_dict(tmp_path / "hostile.pt"), "hostile.pt")
    assert not trap.exists()
    torch.load(tmp_path / "hostile.pt", weights_only=False)  # the trap works
    assert trap.exists()


def test_unknown_names_list_the_known_ones():
    refused(lambda: clip.load("ViT-B/17", device="cpu"), "'ViT-B/17'", "ViT-B/16", "RN50")
    refused(lambda: clip._MODELS["/no/such/file.pt"], "/no/such/file.pt")
    refused(lambda: clip.load("ViT-B/16", device="cpu", jit=True), "jit")
