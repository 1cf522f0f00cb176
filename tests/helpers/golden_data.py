"""Recordings of the published trainers on a tiny CLIP: settings and tensors, from the compact copy or the full set.

Both give the same keys: `init/<tensor>`, `step<k>/param/<tensor>`, `eval_logits_before` and so on, as the full set's
README describes them. The compact copy lies in tests/golden (see make_compact.py there), the full set, where there is
one, in the folder shared/golden beside the repository.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

COMPACT = Path(__file__).resolve().parents[1] / "golden"
FULL = Path(__file__).resolve().parents[3] / "shared" / "golden"

PIXEL_MEAN, PIXEL_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Recording:
    """One recorded run."""

    name: str
    settings: dict
    tensors: dict[str, Tensor]
    stride: int | None = None
    """Large tensors of a step are kept as every `stride`-th of their values."""

    def comparable(self, ours: Tensor, key: str) -> Tensor:
        """Our tensor in the form in which `key` is recorded."""
        recorded = self.tensors[key]
        if self.stride and ours.shape != recorded.shape:
            ours = ours.flatten()[:: self.stride]
        assert ours.shape == recorded.shape, f"{key}: {tuple(ours.shape)} against {tuple(recorded.shape)}"
        return ours


def normalised_pixels(pixels: Tensor) -> Tensor:
    """Bytes [..., 3, H, W] -> float32 images, normalised with CLIP's mean and standard deviation."""
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (PIXEL_MEAN, PIXEL_STD))
    return ((pixels.double() / 255 - mean) / std).float()


@cache
def images() -> dict[str, Tensor]:
    """`train_images` [6, 4, 3, 64, 64], `train_labels` [6, 4], `heldout_images` [8, 3, 64, 64], `heldout_labels` [8]"""
    stored = load_file(COMPACT / "images.safetensors")
    return {name: normalised_pixels(value) if value.dtype == torch.uint8 else value for name, value in stored.items()}


@cache
def _index() -> dict:
    return json.loads((COMPACT / "fixtures.json").read_text())


def compact_names() -> list[str]:
    """Names of the runs in the compact copy."""
    return list(_index()["fixtures"])


def full_names() -> list[str]:
    """Names of the runs in the full set; none where there is no such folder."""
    return sorted(path.stem for path in (FULL / "fixtures").glob("*.json"))


@cache
def _compact_file(name: str) -> dict[str, Tensor]:
    tensors = load_file(COMPACT / name)
    return tensors | {copy: tensors[original] for copy, original in _index()["aliases"][name].items()}


def compact_recording(name: str) -> Recording:
    """A run of the compact copy, float32."""
    settings, tensors = _index()["fixtures"][name], {}
    for key, value in _compact_file(settings["file"]).items():
        fixture, _, key = key.partition("/")
        if fixture != name:
            continue
        quantity = key.removeprefix("steps/")
        if quantity == key:
            tensors[key] = value
        else:
            steps = settings["steps"][quantity.partition("/")[0]]
            tensors |= {f"step{step}/{quantity}": row for step, row in zip(steps, value, strict=True)}
    return Recording(name, settings, tensors, stride=_index()["stride"])


def full_recording(name: str, dtype: torch.dtype) -> Recording:
    """A run of the full set; its float64 record has the initial values of the float32 one."""
    settings = json.loads((FULL / "fixtures" / f"{name}.json").read_text())
    tensors = load_file(FULL / "fixtures" / f"{name}.safetensors")
    if dtype == torch.float64:
        start = {key: value for key, value in tensors.items() if "init/" in key or "/draw/" in key}
        tensors = start | load_file(FULL / "fixtures" / f"{name}.f64.safetensors")
    return Recording(name, settings, tensors)


def has_float64(name: str) -> bool:
    """Whether the full set has a float64 record of a run."""
    return (FULL / "fixtures" / f"{name}.f64.safetensors").is_file()


@cache
def start_draws() -> dict:
    """By trainer: options, seed, and what `torch.rand(4)` gives between building and the first batch."""
    return json.loads((COMPACT / "start_draws.json").read_text())


def write_backbones(folder: Path) -> dict[str, Path]:
    """The tiny CLIP with a ViT and with a ResNet tower as checkpoint files, by the settings' `backbone_file`."""
    vit = load_file(COMPACT / "tiny_clip_vit.safetensors")
    resnet = {name: value for name, value in vit.items() if not name.startswith("visual.")}
    resnet |= load_file(COMPACT / "tiny_clip_rn_visual.safetensors")
    table_rows = resnet.pop("token_embedding.rows").long()
    table = torch.zeros(49408, 64, dtype=torch.float16)
    resnet["token_embedding.weight"] = table.index_copy(0, table_rows, resnet["token_embedding.weight"])
    resnet_path = folder / "tiny_clip_rn.pt"
    torch.save(resnet, resnet_path)
    return {"vit": COMPACT / "tiny_clip_vit.safetensors", "rn": resnet_path}
