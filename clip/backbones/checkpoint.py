"""From a checkpoint file to a state dict with OpenAI's names, and from a state dict to a CLIP.

Three formats are read, all of them as data: OpenAI's TorchScript archives (whose code is never run), plain state dicts
(`torch.save`) and safetensors. The architecture is read from the tensors' shapes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from clip.model import CLIP, HEAD_WIDTH
from dassl.utils.checkpoint_files import load_checkpoint
from dassl.utils.errors import UnreadableFileError, UserError, one_line
from dassl.utils.torchscript_files import is_torchscript, read_torchscript

VOCABULARY_SIZE = 49408
_DTYPES = {
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool,
}  # fmt: skip
_ARCHIVE_EXTRAS = ("input_resolution", "context_length", "vocab_size")


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read a CLIP checkpoint of any of the three formats.

    Raises:
        UserError: the file is missing, damaged, or not a CLIP state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"backbone file not found: {path}")
    try:
        if path.suffix == ".safetensors":
            state = load_file(path)
        elif is_torchscript(path):
            state = read_torchscript(path)
        else:
            state = load_checkpoint(path)
    except UnreadableFileError as error:
        raise UserError(f"backbone file cannot be used: {error}") from error
    except Exception as error:  # a damaged or hostile file can make each library fail in its own ways
        raise UserError(
            f"backbone file {path} is damaged or has something else than plain tensors: {one_line(error)}"
        ) from error
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"backbone file has no state dict: {path}")
    _check_are_plain(state, path)
    return _tensors_of_the_model(state)


def _check_are_plain(state: Mapping[str, Tensor], path: Path) -> None:
    """Check that the tensors are dense, of usual types, and no larger than what the file stores.

    A few bytes can describe a tensor of terabytes (all strides 0); converting it to float32 would fill the memory.

    Raises:
        UserError: a tensor is sparse, of an unusual type or too large.
    """
    stored: dict[int, int] = {}
    for name, tensor in state.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.dtype not in _DTYPES:
            kind = f"{tensor.dtype}, {tensor.layout}, {tensor.device}"
            raise UserError(f"backbone file {path}: tensor {name} is not an ordinary tensor ({kind})")
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
    claimed = sum(tensor.nbytes for tensor in state.values())
    held = min(sum(stored.values()), path.stat().st_size)
    if claimed > held:
        raise UserError(
            f"backbone file {path}: its tensors have {claimed:,} bytes, the file holds only {held:,} bytes of values"
        )


def _tensors_of_the_model(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without DataParallel's prefix and the three numbers that OpenAI's archives contain besides the model."""
    return {name.removeprefix("module."): value for name, value in state.items() if name not in _ARCHIVE_EXTRAS}


def _expand_token_table(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A table stored by its occurring rows only (`token_embedding.rows`) becomes a full one, zeros elsewhere."""
    rows = state.pop("token_embedding.rows", None)
    if rows is not None:
        count, width = _shape(state, "token_embedding.weight", 2)
        if rows.shape != (count,) or rows.min() < 0 or rows.max() >= VOCABULARY_SIZE:
            raise ValueError("token_embedding.rows does not say where the rows of token_embedding.weight belong")
        occurring = state["token_embedding.weight"]
        table = occurring.new_zeros(VOCABULARY_SIZE, width)
        state["token_embedding.weight"] = table.index_copy(0, rows.long(), occurring)
    return state


class Heads(NamedTuple):
    """Numbers of attention heads of the two towers."""

    vision: int
    text: int


def clip_from_state_dict(
    state_dict: Mapping[str, Tensor], quick_gelu: bool = True, source: str = "state dict", heads: Heads | None = None
) -> CLIP:
    """A frozen float32 CLIP in evaluation mode whose architecture is read from `state_dict`.

    Args:
        heads: what no tensor's shape tells; None: 64 channels a head, as in all of OpenAI's models.

    Raises:
        UserError: a tensor is missing, unknown or of the wrong shape; the message names it.
    """
    state = _tensors_of_the_model(state_dict)
    try:
        state = _expand_token_table(state)
        state = {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
        settings = _architecture(state, heads)
    except ValueError as error:
        raise UserError(f"{source} is not a CLIP with OpenAI's tensor names: {error}") from error
    with torch.device("meta"):
        model = CLIP(**settings, quick_gelu=quick_gelu)
    _check_names_and_shapes(model, state, source)
    model.load_state_dict(state, assign=True)
    return model.requires_grad_(False).eval()


def _architecture(state: Mapping[str, Tensor], heads: Heads | None = None) -> dict[str, Any]:
    """Constructor arguments of `CLIP` for these tensors.

    Raises:
        ValueError: there is no such model.
    """
    (width,) = _shape(state, "ln_final.weight", 1)
    common = dict(
        embed_dim=_shape(state, "text_projection", 2)[1],
        context_length=_shape(state, "positional_embedding", 2)[0],
        vocab_size=_shape(state, "token_embedding.weight", 2)[0],
        transformer_width=width,
        transformer_heads=_heads("text", width, heads and heads.text),
        transformer_layers=_count(state, r"transformer\.resblocks\.(\d+)\."),
    )
    if "visual.proj" in state:
        patches = _shape(state, "visual.positional_embedding", 2)[0] - 1
        vision_width, _, _, patch_size = _shape(state, "visual.conv1.weight", 4)
        return dict(
            common,
            vision_heads=_heads("image", vision_width, heads and heads.vision),
            vision_width=vision_width,
            vision_layers=_count(state, r"visual\.transformer\.resblocks\.(\d+)\."),
            vision_patch_size=patch_size,
            vision_mlp_width=_shape(state, "visual.transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
            image_resolution=patch_size * round(patches**0.5),
        )
    positions, pool_width = _shape(state, "visual.attnpool.positional_embedding", 2)
    return dict(
        common,
        vision_heads=_heads("image", pool_width, heads and heads.vision),
        vision_width=_shape(state, "visual.layer1.0.conv1.weight", 4)[0],
        vision_layers=tuple(_count(state, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4)),
        vision_patch_size=None,
        image_resolution=32 * round((positions - 1) ** 0.5),
    )


def _heads(tower: str, width: int, given: int | None) -> int:
    count = given or width // HEAD_WIDTH
    if given is None and width % HEAD_WIDTH:
        raise ValueError(f"the {tower} tower's width {width} is not a multiple of {HEAD_WIDTH}")
    if width % count:
        raise ValueError(f"the {tower} tower's width {width} does not divide into {count} heads")
    return count


def _shape(state: Mapping[str, Tensor], name: str, dimensions: int) -> torch.Size:
    """Shape of a tensor that must have that many dimensions, none of them empty."""
    if name not in state:
        raise ValueError(f"tensor {name} is missing")
    shape = state[name].shape
    if len(shape) != dimensions or 0 in shape:
        raise ValueError(f"tensor {name} has shape {tuple(shape)}")
    return shape


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers `pattern` finds at the beginning of the names; they have to be 0, 1, 2 and so on."""
    numbers = {int(match[1]) for name in state if (match := re.match(pattern, name))}
    if numbers != set(range(len(numbers))) or not numbers:
        raise ValueError(f"no tensors are named like {pattern.replace(chr(92), '')} with numbers from 0 on")
    return len(numbers)


def _check_names_and_shapes(model: CLIP, state: Mapping[str, Tensor], source: str) -> None:
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name not in state:
            raise UserError(f"{source}: tensor {name} is missing")
        if state[name].shape != tensor.shape:
            raise UserError(
                f"{source}: tensor {name} has shape {tuple(state[name].shape)}, expected {tuple(tensor.shape)}"
            )
    unknown = sorted(set(state) - set(expected))
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
        raise UserError(f"{source}: unknown tensor {unknown[0]}{more}")
