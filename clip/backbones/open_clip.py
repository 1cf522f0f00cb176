"""Backbones out of open_clip's registry: `open_clip:MODEL/TAG`, or `open_clip:MODEL//path/to/file` for a file.

open_clip says how a model is built and where its weights are; reading them and the towers are ours. A model fits when
it is OpenAI's architecture in other sizes; everything else is refused before anything is downloaded.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any, NamedTuple

from torch import Tensor

from clip.backbones import checkpoint as weights
from clip.backbones.checkpoint import Heads
from clip.model import CLIP, VisionTransformer
from dassl.utils.errors import UserError, one_line

PREFIX = "open_clip:"
_SIZES = {
    "vision_cfg": {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size"},
    "text_cfg": {"layers", "width", "heads", "context_length"},
}
"""Keys of a tower's configuration that may have any value. Every other key must have open_clip's default."""
_WITHOUT_EFFECT = {"patch_dropout", "hf_model_pretrained", "timm_model_pretrained"}
_CUSTOM_TEXT_PREFIX = "text."


class Pixels(NamedTuple):
    """How a model's images are prepared."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str


@dataclass(frozen=True)
class OpenClipName:
    """A backbone's name in its parts."""

    model: str
    weights: str
    """Tag of the registry, or path of a file."""

    @classmethod
    def parse(cls, name: str) -> OpenClipName:
        """Split a name.

        Raises:
            UserError: it does not have the form open_clip:MODEL/TAG.
        """
        model, _, tag_or_path = name.removeprefix(PREFIX).partition("/")
        if not model or not tag_or_path:
            raise UserError(
                f"backbone {name!r}: write {PREFIX}MODEL/TAG, for instance {PREFIX}ViT-B-32/laion2b_s34b_b79k, "
                f"or {PREFIX}MODEL//path/to/file"
            )
        return cls(model, tag_or_path)

    def __str__(self) -> str:
        return f"{PREFIX}{self.model}/{self.weights}"

    def architecture(self) -> dict[str, Any]:
        """open_clip's configuration of the model.

        Raises:
            UserError: no such model, or one that is not built as OpenAI's are; the first difference is named.
        """
        registered = self.model in _open_clip().list_models()
        configuration = _open_clip().get_model_config(self.model) if registered else None
        if configuration is None:
            raise UserError(f"backbone {self}: open_clip has no model {self.model!r}; open_clip.list_models() has all")
        difference = _difference_from_openai(configuration)
        if difference:
            raise UserError(
                f"backbone {self} does not fit: {difference}; plain ViT and ResNet models of CLIP's kind can be used"
            )
        return configuration

    def tag_settings(self) -> Mapping[str, Any]:
        """What the registry knows about the tag; empty for a file.

        Raises:
            UserError: neither a tag of the model nor a file.
        """
        settings = _open_clip().get_pretrained_cfg(self.model, self.weights)
        if not settings and not os.path.isfile(self.weights):
            tags = ", ".join(_open_clip().list_pretrained_tags_by_model(self.model)) or "none"
            raise UserError(
                f"backbone {self}: {self.weights} is neither a file that exists nor a tag of {self.model} ({tags})"
            )
        return settings


def is_open_clip(name: str) -> bool:
    """Whether a backbone's name is one of these."""
    return name.startswith(PREFIX)


def checkpoint_file(name: str, root: str | os.PathLike[str] | None = None) -> str:
    """Path of a model's weights, downloaded by open_clip when needed.

    Raises:
        UserError: no such model, tag or file; a model that does not fit; no connection.
    """
    parsed = OpenClipName.parse(name)
    parsed.architecture()  # refused before the download
    settings = parsed.tag_settings()
    if not settings:
        return parsed.weights
    try:
        return str(_open_clip().download_pretrained(dict(settings), cache_dir=None if root is None else str(root)))
    except Exception as error:  # urllib's, requests' or the hub's, depending on where the file comes from
        raise UserError(
            f"backbone {name}: open_clip cannot download the weights ({one_line(error)}); "
            f"download the file yourself and write {PREFIX}{parsed.model}//path/to/file"
        ) from error


def build(name: str, path: str) -> tuple[CLIP, Pixels]:
    """The model with the weights in `path` (see `checkpoint_file`), frozen, float32; and how its images are prepared.

    Raises:
        UserError: the file is damaged or of another model.
    """
    parsed = OpenClipName.parse(name)
    architecture, tag = parsed.architecture(), parsed.tag_settings()
    state = _openai_names(weights.read_state_dict(path))
    quick_gelu = bool(tag.get("quick_gelu") if tag else architecture.get("quick_gelu"))  # how the weights were trained
    model = weights.clip_from_state_dict(state, quick_gelu, path, _heads(architecture))
    _check_is_the_model(model, architecture, f"{path} is not {parsed.model}")
    constants = _open_clip().constants
    mean, std = tag.get("mean") or constants.OPENAI_DATASET_MEAN, tag.get("std") or constants.OPENAI_DATASET_STD
    return model, Pixels(tuple(mean), tuple(std), tag.get("interpolation") or "bicubic")


def _open_clip() -> ModuleType:
    import open_clip  # takes three seconds

    return open_clip


def _difference_from_openai(configuration: Mapping[str, Any]) -> str:
    """The first setting that makes a model another architecture than CLIP's; "" if there is none."""
    from open_clip.model import CLIPTextCfg, CLIPVisionCfg

    known = {"embed_dim", "quick_gelu", "custom_text", *_SIZES}
    for key, value in configuration.items():
        if key not in known and value is not None:
            return f"its configuration has {key}"
    for part, defaults in (("vision_cfg", CLIPVisionCfg()), ("text_cfg", CLIPTextCfg())):
        for key, value in configuration[part].items():
            if key in _SIZES[part] | _WITHOUT_EFFECT or value == getattr(defaults, key, None):
                continue
            return f"its {part}.{key} is {value!r}"
    return ""


def _openai_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A text tower kept as its own module loses its prefix; a temperature of shape [1] becomes a scalar."""
    named = {name.removeprefix(_CUSTOM_TEXT_PREFIX): tensor for name, tensor in state.items()}
    if "logit_scale" in named and named["logit_scale"].numel() == 1:
        named["logit_scale"] = named["logit_scale"].reshape(())
    named.pop("attn_mask", None)  # a constant that older versions saved
    return named


def _heads(architecture: Mapping[str, Any]) -> Heads:
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    width = vision.get("width", 768) * (1 if isinstance(vision.get("layers", 12), int) else 32)  # ResNet: of its pool
    return Heads(vision=width // vision.get("head_width", 64), text=text.get("heads", 8))


def _check_is_the_model(model: CLIP, architecture: Mapping[str, Any], wrong: str) -> None:
    """Compare the sizes of the tensors with those of the requested model.

    Raises:
        UserError: a size differs.
    """
    vision, text = architecture["vision_cfg"], architecture["text_cfg"]
    sizes = {
        "image size": (model.visual.input_resolution, vision.get("image_size", 224)),
        "embedding": (model.text_projection.shape[1], architecture["embed_dim"]),
        "text width": (model.transformer.width, text.get("width", 512)),
        "text layers": (model.transformer.layers, text.get("layers", 12)),
        "context length": (model.context_length, text.get("context_length", 77)),
    }
    layers = vision.get("layers", 12)
    if isinstance(layers, int):
        if not isinstance(model.visual, VisionTransformer):
            raise UserError(f"{wrong}: its image tower is a ResNet")
        transformer = model.visual.transformer
        sizes["image width"] = transformer.width, vision.get("width", 768)
        sizes["image layers"] = transformer.layers, layers
        expected_width = int(vision.get("width", 768) * vision.get("mlp_ratio", 4.0))
        sizes["width of the image MLPs"] = transformer.blocks[0].mlp.c_fc.out_features, expected_width
    elif isinstance(model.visual, VisionTransformer):
        raise UserError(f"{wrong}: its image tower is a ViT")
    for what, (found, expected) in sizes.items():
        expected = expected[0] if isinstance(expected, list | tuple) and len(set(expected)) == 1 else expected
        if found != expected:
            raise UserError(f"{wrong}: {what} {found} in place of {expected}")
