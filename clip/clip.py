"""The lineage's entry points: `_MODELS`, `_download`, `available_models`, `load`, `build_model`, `tokenize`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from clip.backbones import checkpoint as weights
from clip.backbones import open_clip as open_clip_models
from clip.compat import with_prompts
from clip.model import CLIP, convert_weights
from clip.published_start import draw_clip
from clip.simple_tokenizer import END, START, SimpleTokenizer
from dassl.utils.devices import chosen_device
from dassl.utils.downloads import fetch_url
from dassl.utils.errors import UserError
from dassl.utils.files import file_sha256
from dassl.utils.torchtools import save_atomically

if TYPE_CHECKING:
    from PIL.Image import Image
    from torchvision.transforms import Compose

__all__ = ["available_models", "build_model", "checkpoint_file_of", "load", "tokenize"]

_OPENAI = "https://openaipublic.azureedge.net/clip/models"


class _Models(dict):
    """Name -> address. The address of an existing checkpoint file is its path."""

    def __missing__(self, name: str) -> str:
        if os.path.isfile(name):
            return name
        raise UserError(
            f"backbone {name!r} is neither a checkpoint file that exists nor one of {', '.join(self)}, "
            f"nor like {open_clip_models.PREFIX}ViT-B-32/laion2b_s34b_b79k"
        )


_MODELS = _Models(
    {
        "RN50": f"{_OPENAI}/afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762/RN50.pt",
        "RN101": f"{_OPENAI}/8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599/RN101.pt",
        "RN50x4": f"{_OPENAI}/7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd/RN50x4.pt",
        "RN50x16": f"{_OPENAI}/52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa/RN50x16.pt",
        "RN50x64": f"{_OPENAI}/be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c/RN50x64.pt",
        "ViT-B/32": f"{_OPENAI}/40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af/ViT-B-32.pt",
        "ViT-B/16": f"{_OPENAI}/5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
        "ViT-L/14": f"{_OPENAI}/b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836/ViT-L-14.pt",
        "ViT-L/14@336px": f"{_OPENAI}/3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02/"
        "ViT-L-14-336px.pt",
        "ViT-Shapes": str(Path(__file__).resolve().parent / "backbones" / "vit_shapes.safetensors"),
    }
)


def available_models() -> list[str]:
    """Names that `load` knows, the embedded one among them."""
    return list(_MODELS)


def _download(url: str, root: str | os.PathLike[str] | None = None) -> str:
    """Path of the file of `url`, in a format that `torch.jit.load` or `torch.load` reads, as trainer files do.

    A local safetensors file (such as the embedded model's) is copied into `root` as a state dict.
    Nothing in this project calls `torch.jit.load`, which runs code out of the file; trainer files that do so rely on
    OpenAI's files, whose SHA-256 is checked, or on a file of the user's.

    Raises:
        UserError: as `_fetch`; or the copy cannot be made.
    """
    path = _fetch(url, root)
    if not path.endswith(".safetensors"):
        return path
    copy = _folder(root) / f"{Path(path).stem}-{file_sha256(path)[:16]}.pt"
    if not copy.is_file():
        save_atomically(weights.read_state_dict(path), copy)
    return str(copy)


def _folder(root: str | os.PathLike[str] | None) -> Path:
    """Where downloads go."""
    return Path(root) if root else Path.home() / ".cache" / "clip"


def _fetch(url: str, root: str | os.PathLike[str] | None = None) -> str:
    """Path of the file of `url`, fetched into `root` (default ~/.cache/clip) and checked by SHA-256.

    The address contains the expected digest, as OpenAI's do. A path to a local file is returned unchanged.

    Raises:
        UserError: no connection (the next call continues), or the digest differs (the file is not kept).
    """
    if "://" not in url:
        return url
    *_, expected, file_name = url.split("/")
    target = _folder(root) / file_name
    try:
        fetch_url(url, target, expected, "SHA-256")
    except UserError as error:
        reason = str(error).removeprefix(f"cannot download {url}: ")
        raise UserError(f"cannot download {url} to {target}: {reason}; put the file there yourself") from error
    return str(target)


def checkpoint_file_of(name: str, root: str | os.PathLike[str] | None = None) -> str:
    """Checkpoint file of a backbone: a known name or one of open_clip's (downloaded when needed), or a path."""
    if open_clip_models.is_open_clip(name):
        return open_clip_models.checkpoint_file(name, root)
    return _fetch(_MODELS[name], root)


def local_file(name: str) -> str | None:
    """Path of the file that a backbone's name stands for; None for a name whose file is downloaded.

    Raises:
        UserError: a part of a name like open_clip's is missing.
    """
    path = open_clip_models.OpenClipName.parse(name).weights if open_clip_models.is_open_clip(name) else name
    return path if name not in _MODELS and os.path.isfile(path) else None


def file_without_download(name: str) -> str | None:
    """Path of a backbone's file; None for a name whose file is downloaded, which is larger than 100 MB.

    Raises:
        UserError: there is no such backbone.
    """
    path = local_file(name) if open_clip_models.is_open_clip(name) else _MODELS[name]
    return None if path is None or "://" in path else path


class LoadedBackbone(NamedTuple):
    """A frozen CLIP in float32, and how its images are prepared (None: as OpenAI's)."""

    model: CLIP
    pixels: open_clip_models.Pixels | None


def load_backbone(name: str, root: str | os.PathLike[str] | None = None) -> LoadedBackbone:
    """The model of any name that `checkpoint_file_of` takes.

    Raises:
        UserError: an unknown name, no connection, a file that is damaged or does not fit.
    """
    path = checkpoint_file_of(name, root)
    if open_clip_models.is_open_clip(name):
        return LoadedBackbone(*open_clip_models.build(name, path))
    return LoadedBackbone(weights.clip_from_state_dict(weights.read_state_dict(path), source=path), None)


def build_model(state_dict: Mapping[str, Tensor], design_details: Mapping[str, object] | None = None) -> CLIP:
    """A new, trainable CLIP from a state dict; float16 if CUDA is available, else float32.

    As published, each call draws from PyTorch's global CPU generator (see `clip.published_start`).

    Args:
        design_details: what trainer files of the MaPLe and PromptSRC repositories pass; see `clip.compat`.

    Raises:
        UserError: the tensors are not a CLIP, or the details do not fit them.
    """
    model = weights.clip_from_state_dict({name: tensor.clone() for name, tensor in state_dict.items()})
    return as_upstream(with_prompts(model, design_details or {}))


def as_upstream(model: CLIP) -> CLIP:
    """`model` as upstream's loaders return it: trainable, and its towers in float16 if CUDA is available."""
    if torch.cuda.is_available():
        convert_weights(model)
    return model.requires_grad_(True)


def load(
    name: str, device: str | torch.device | None = None, jit: bool = False, download_root: str | None = None
) -> tuple[CLIP, Compose]:
    """A frozen CLIP and the transform of its test images.

    As published, each call draws from PyTorch's global CPU generator (see `clip.published_start`).

    Args:
        name: one of `available_models()`, a checkpoint file, or one of open_clip's (see `clip.backbones.open_clip`).
        device: None: CUDA if it is available, else the CPU.
        jit: must stay False; the scripted form cannot be prompted.

    Returns:
        The model, on `device`, and the transform.

    Raises:
        UserError: an unknown name, no connection, a file that is damaged or does not fit, or `jit`.
    """
    if jit:
        raise UserError("jit=True is not supported: the scripted model cannot take prompts")
    device = torch.device(device or chosen_device(True))
    model, pixels = load_backbone(name, download_root)
    draw_clip(model)
    if device.type == "cuda":
        convert_weights(model)
    return model.to(device), _transform(model.visual.input_resolution, pixels or _OPENAI_PIXELS)


_OPENAI_PIXELS = open_clip_models.Pixels(
    (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711), "bicubic"
)


def _transform(resolution: int, pixels: open_clip_models.Pixels) -> Compose:
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    return Compose(
        [
            Resize(resolution, interpolation=InterpolationMode(pixels.interpolation)),
            CenterCrop(resolution),
            _to_rgb,
            ToTensor(),
            Normalize(pixels.mean, pixels.std),
        ]
    )


def _to_rgb(image: Image) -> Image:
    return image.convert("RGB")


@cache
def shared_tokenizer() -> SimpleTokenizer:
    return SimpleTokenizer()


def tokenize(texts: str | Sequence[str], context_length: int = 77, truncate: bool = False) -> Tensor:
    """Token ids [N, context_length] with start and end marks, padded with 0.

    Raises:
        RuntimeError: a text is too long and `truncate` is False.
    """
    texts = [texts] if isinstance(texts, str) else list(texts)
    tokenizer = shared_tokenizer()
    start, end = tokenizer.encoder[START], tokenizer.encoder[END]
    result = torch.zeros(len(texts), context_length, dtype=torch.long)
    for row, text in zip(result, texts, strict=True):
        ids = [start, *tokenizer.encode(text), end]
        if len(ids) > context_length:
            if not truncate:
                raise RuntimeError(f"Input {text} is too long for context length {context_length}")
            ids = [*ids[: context_length - 1], end]
        row[: len(ids)] = torch.tensor(ids)
    return result
