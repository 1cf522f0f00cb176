"""Recordings of the published trainers on a tiny CLIP: settings and tensors, from the compact copy or the full set.

Both give the same keys: `init/<tensor>`, `step<k>/param/<tensor>`, `eval_logits_before` and so on, as the full set's
README describes them. The compact copy lies in tests/golden (made by make_compact.py and make_compact_methods.py), the
full set, where there is one, in the folders shared/golden and shared/golden_methods beside the repository.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from golden_methods import OURS, our_settings
from safetensors.torch import load_file, save_file
from torch import Tensor

COMPACT = Path(__file__).resolve().parents[1] / "golden"
METHODS = COMPACT / "methods"
FULL = Path(__file__).resolve().parents[3] / "shared" / "golden"
FULL_METHODS = FULL.with_name("golden_methods")

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


def training_batch(number: int) -> dict[str, Tensor]:
    """One of the six batches of four; `img2` are its images mirrored left to right, for those who want two views."""
    image, label = (images()[name][number] for name in ("train_images", "train_labels"))
    return {"img": image, "img2": image.flip(-1), "label": label}


@cache
def _index() -> dict:
    return json.loads((COMPACT / "fixtures.json").read_text())


@cache
def _method_indexes() -> dict[str, dict]:
    """Of the methods recorded later: the index of each, by the name of its file of tensors."""
    return {
        path.with_suffix(".safetensors").name: json.loads(path.read_text()) for path in sorted(METHODS.glob("*.json"))
    }


def compact_names() -> list[str]:
    """Names of the runs in the compact copy."""
    return [*_index()["fixtures"], *compact_method_names()]


def compact_method_names() -> list[str]:
    """Those of them that also have losses, logits and last tensors in float64."""
    return [name for index in _method_indexes().values() for name in index["fixtures"]]


def method_layouts() -> dict[str, dict]:
    """By trainer recorded later: folder, file, and shapes of the tensors of a published ViT-B/16 checkpoint."""
    indexes = _method_indexes().values()
    return {next(iter(index["fixtures"].values()))["trainer"]: index["layout"] for index in indexes}


def full_names() -> list[str]:
    """Names of the runs in the full set; none where there is no such folder."""
    return sorted(path.stem for path in _full_paths())


@cache
def _full_paths() -> list[Path]:
    methods = [
        path for path in (FULL_METHODS / "fixtures").glob("*.json") if json.loads(path.read_text())["trainer"] in OURS
    ]
    return [*(FULL / "fixtures").glob("*.json"), *methods]


def _full_path(name: str) -> Path:
    (path,) = [path for path in _full_paths() if path.stem == name]
    return path


@cache
def _compact_file(path: Path) -> dict[str, Tensor]:
    """All tensors of a compact file, those that are stored once under each of their names."""
    index = _method_indexes()[path.name] if path.parent == METHODS else None
    aliases = _index()["aliases"][path.name] if index is None else index["aliases"]
    tensors = load_file(path)
    return tensors | {copy: tensors[original] for copy, original in aliases.items()}


def compact_recording(name: str, dtype: torch.dtype = torch.float32) -> Recording:
    """A run of the compact copy; in float64 with the initial values of the float32 record."""
    if name in _index()["fixtures"]:
        settings, stride = _index()["fixtures"][name], _index()["stride"]
        path = COMPACT / settings["file"]
    else:
        ((file, index),) = [(file, index) for file, index in _method_indexes().items() if name in index["fixtures"]]
        settings, stride, path = index["fixtures"][name], index["stride"], METHODS / file
    of_run = {key[len(name) + 1 :]: value for key, value in _compact_file(path).items() if key.startswith(f"{name}/")}
    wide = {key.removeprefix("float64/"): value for key, value in of_run.items() if key.startswith("float64/")}
    if dtype == torch.float64:
        start = {key: value for key, value in of_run.items() if key.startswith(("init/", "start/"))}
        return Recording(name, settings, start | _by_step(wide, settings["float64_steps"]), stride)
    own = {key: value for key, value in of_run.items() if not key.startswith("float64/")}
    return Recording(name, settings, _by_step(own, settings["steps"]), stride)


def _by_step(stored: dict[str, Tensor], steps: dict[str, list[int]]) -> dict[str, Tensor]:
    """Tensors with those of several steps, stacked as `steps/<quantity>`, under a key for each step."""
    tensors = {}
    for key, value in stored.items():
        quantity = key.removeprefix("steps/")
        if quantity == key:
            tensors[key] = value
        else:
            rows = zip(steps[quantity.partition("/")[0]], value, strict=True)
            tensors |= {f"step{step}/{quantity}": row for step, row in rows}
    return tensors


def full_recording(name: str, dtype: torch.dtype) -> Recording:
    """A run of the full set; its float64 record has the initial values of the float32 one."""
    path = _full_path(name)
    settings = json.loads(path.read_text())
    if path.parent.parent == FULL_METHODS:
        settings = our_settings(settings)
    tensors = load_file(path.with_suffix(".safetensors"))
    if dtype == torch.float64:
        start = {key: value for key, value in tensors.items() if "init/" in key or "/draw/" in key}
        tensors = start | load_file(path.with_suffix(".f64.safetensors"))
    return Recording(name, settings, tensors)


def has_float64(name: str) -> bool:
    """Whether the full set has a float64 record of a run."""
    return _full_path(name).with_suffix(".f64.safetensors").is_file()


@cache
def start_draws() -> dict:
    """By name: trainer, backbone_file, options, seed, and what `torch.rand(4)` gives between building and batches."""
    starts = json.loads((COMPACT / "start_draws.json").read_text())
    for name, start in starts.items():  # "CoOp on a ResNet"
        trainer, _, resnet = name.partition(" on a ")
        start |= {"trainer": trainer, "backbone_file": "tiny_clip_rn" if resnet else "tiny_clip_vit"}
    for index in _method_indexes().values():
        starts |= index["starts"]
    return starts


TEXT_BLOCK = {
    "attn.in_proj_weight": (0.186, (192, 64)),
    "attn.in_proj_bias": (0.1, (192,)),
    "attn.out_proj.weight": (0.126, (64, 64)),
    "attn.out_proj.bias": (0.045, (64,)),
    "ln_1.weight": (0.1, (64,)),
    "ln_1.bias": (0.05, (64,)),
    "ln_2.weight": (0.1, (64,)),
    "ln_2.bias": (0.05, (64,)),
    "mlp.c_fc.weight": (0.125, (256, 64)),
    "mlp.c_fc.bias": (0.05, (256,)),
    "mlp.c_proj.weight": (0.0625, (64, 256)),
    "mlp.c_proj.bias": (0.05, (64,)),
}
"""Standard deviation and shape of a text block's tensors, in the order in which they were drawn."""


def further_text_blocks() -> dict[str, Tensor]:
    """Text blocks 3 to 9 of the tiny CLIP with ten text layers, float16; drawn again, as they were made."""
    generator, tensors = torch.Generator().manual_seed(77), {}
    for layer in range(3, 10):
        for name, (std, shape) in TEXT_BLOCK.items():
            value = torch.randn(shape, generator=generator) * std
            value = 1 + value if name in ("ln_1.weight", "ln_2.weight") else value
            tensors[f"transformer.resblocks.{layer}.{name}"] = value.half()
    return tensors


def tower_of(settings: dict) -> str:
    """The backbone of a recorded run, by its name in `write_backbones`."""
    if "text10" in settings["backbone_file"]:
        return "text10"
    if settings["trainer"] in OURS:
        return "more_tokens"
    return "rn" if "rn" in settings["backbone_file"] else "vit"


def write_backbones(folder: Path) -> dict[str, Path]:
    """Checkpoint files of the tiny CLIPs.

    Returns:
        `vit`: with a ViT as its image tower; `rn`: with a ResNet; `more_tokens`: the ViT with the token rows of the
        texts of all methods; `text10`: the same with ten text layers.
    """
    vit = load_file(COMPACT / "tiny_clip_vit.safetensors")
    more = load_file(METHODS / "token_rows.safetensors")
    order = torch.cat([vit["token_embedding.rows"], more["token_embedding.rows"]]).argsort()
    joined = {name: torch.cat([vit[name], value])[order].contiguous() for name, value in more.items()}
    written = {"more_tokens": vit | joined, "text10": vit | joined | further_text_blocks()}
    paths = {name: folder / f"tiny_clip_{name}.safetensors" for name in written}
    for name, state in written.items():
        save_file(state, paths[name])
    resnet = {name: value for name, value in vit.items() if not name.startswith("visual.")}
    resnet |= load_file(COMPACT / "tiny_clip_rn_visual.safetensors")
    table_rows = resnet.pop("token_embedding.rows").long()
    table = torch.zeros(49408, 64, dtype=torch.float16)
    resnet["token_embedding.weight"] = table.index_copy(0, table_rows, resnet["token_embedding.weight"])
    resnet_path = folder / "tiny_clip_rn.pt"
    torch.save(resnet, resnet_path)
    return paths | {"vit": COMPACT / "tiny_clip_vit.safetensors", "rn": resnet_path}
