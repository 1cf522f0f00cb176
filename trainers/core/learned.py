"""Learned tensors in checkpoint files, ours and published ones: find, read, load."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from dassl.engine.found_models import found_instead
from dassl.utils import UserError, load_checkpoint
from dassl.utils.files import StrPath
from dassl.utils.torchtools import BEST_NAME, POINTER_NAME, checkpoint_name, last_checkpoint_file

LEARNED_NAMES: set[str] = set()
"""Patterns of what published checkpoints call learned tensors, from all methods, also from those that a plug-in has
replaced; everything else in a checkpoint is the frozen CLIP."""


def load_learned(module: nn.Module, state: Mapping[str, Tensor], source: str, unused: Collection[str] = ()) -> None:
    """Copy a checkpoint's learned tensors into `module`; frozen CLIP tensors in it are ignored.

    Args:
        module: takes the tensors.
        state: the checkpoint's tensors by name.
        source: where they come from, for error messages.
        unused: names of tensors in published checkpoints that nothing computes with.

    Raises:
        UserError: a tensor is missing or mis-shaped, or the checkpoint has a prompt that `module` does not have.
    """
    own = module.state_dict()
    for name, tensor in own.items():
        if name not in state:
            raise UserError(f"{source}: tensor {name} is missing")
        if state[name].shape != tensor.shape:
            shape, expected = tuple(state[name].shape), tuple(tensor.shape)
            raise UserError(f"{source}: tensor {name} has shape {shape}, but this configuration needs {expected}")
    for name in state:
        if name not in own and name not in unused and any(re.search(pattern, name) for pattern in LEARNED_NAMES):
            raise UserError(f"{source}: contains prompt tensor {name}, which this configuration does not have")
    module.load_state_dict({name: state[name] for name in own})


def find_checkpoint(folder: StrPath, epoch: int | None) -> Path:
    """File of an epoch; of the best model when no epoch is given, or of the last epoch when none was kept as best.

    Raises:
        UserError: there is no such file.
    """
    folder = Path(folder)
    path = folder / (BEST_NAME if epoch is None else checkpoint_name(epoch))
    if epoch is None and not path.is_file() and (folder / POINTER_NAME).is_file():
        path = folder / last_checkpoint_file(str(folder))
    if not path.is_file():
        where = found_instead(folder.parent)
        raise UserError(f"no checkpoint at {path}: check --model-dir and --load-epoch; {where}")
    return path


def read_checkpoint(path: StrPath) -> dict[str, Any]:
    """The content of a trainer's checkpoint, ours or published, with a `state_dict` of tensors.

    Raises:
        UserError: it is something else.
    """
    checkpoint = load_checkpoint(path)
    state = checkpoint.get("state_dict")
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is not a checkpoint of a trainer: it has no state_dict")
    return checkpoint


class Learned(NamedTuple):
    """A method's learned tensors as its checkpoints contain them."""

    module: nn.Module
    """its state dict has the tensor names of the checkpoints"""
    name: str
    """of the folder of the checkpoints"""
    unused: Collection[str]
    """names of tensors in published checkpoints that nothing computes with"""
    for_own_classes: Callable[[Mapping[str, Tensor], str, str | None], Mapping[str, Tensor]]
    """`Method.state_for_own_classes`"""
