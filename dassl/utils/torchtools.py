"""Checkpoints and parameters of models."""

from __future__ import annotations

import io
import os
import os.path as osp
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from .checkpoint_files import load_checkpoint
from .errors import MismatchError, MissingFileError, UnreadableFileError, one_line
from .files import StrPath, write_bytes_atomically, write_text_atomically
from .names import listed
from .numerals import whole_number
from .state_shapes import check_optimizer_state, check_scheduler_state
from .tools import tolist_if_not

CHECKPOINT_NAME = "model.pth.tar-{epoch}"
"""In a folder with the name of what is learned: learned tensors, optimiser and generators after that many epochs."""
POINTER_NAME = "checkpoint"
"""Beside the checkpoints: the name of the last one."""
BEST_NAME = "model-best.pth.tar"
"""Beside the checkpoints: the one with the best accuracy on validation images, with `TEST.FINAL_MODEL best_val`."""

NAMES_SHOWN = 8
"""Number of tensors that a line names."""


def checkpoint_name(epoch: int | str) -> str:
    """File name of the checkpoint after `epoch` epochs."""
    return CHECKPOINT_NAME.format(epoch=epoch)


def save_checkpoint(
    state: dict[str, Any],
    save_dir: str,
    is_best: bool = False,
    remove_module_from_keys: bool = True,
    model_name: str = "",
) -> None:
    """Write `state` to `<save_dir>/model.pth.tar-<epoch>` and its name to `<save_dir>/checkpoint`.

    Both files are replaced atomically, the name last, so after a failure the last good checkpoint is still valid.

    Args:
        state: at least `state_dict` and `epoch` (epochs completed); usually `optimizer`, `scheduler` and
            `val_result` as well.
        is_best: write `model-best.pth.tar` as well.
        remove_module_from_keys: drop the prefix `module.` that DataParallel adds.
        model_name: another file name.

    Raises:
        UnwritableFileError: the disk is full or the folder cannot be written.
    """
    if remove_module_from_keys:
        state = {**state, "state_dict": _without_module_prefix(state["state_dict"])}
    name = model_name or checkpoint_name(state["epoch"])
    fpath = osp.join(save_dir, name)
    data = save_atomically(state, fpath)
    write_text_atomically(osp.join(save_dir, POINTER_NAME), f"{name}\n")
    print(f"Checkpoint saved to {fpath}")
    if is_best:
        best = osp.join(save_dir, BEST_NAME)
        write_bytes_atomically(best, data)
        print(f'Best checkpoint saved to "{best}"')


def save_atomically(content: Any, fpath: StrPath) -> memoryview:
    """`torch.save` that writes the file atomically; returns its bytes.

    Raises:
        UnwritableFileError: the disk is full or the folder cannot be written.
    """
    # serialised in memory first: PyTorch's own file writer reports a full disk as a C++ assertion
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_bytes_atomically(fpath, buffer.getbuffer())
    return buffer.getbuffer()


def last_checkpoint_file(fdir: str) -> str:
    """The file name in `<fdir>/checkpoint`.

    Raises:
        MissingFileError: there is no such file.
        UnreadableFileError: it cannot be read or does not contain a file name.
    """
    pointer = osp.join(fdir, POINTER_NAME)
    try:
        with open(pointer, encoding="utf-8") as file:
            name = file.readline().strip()
    except FileNotFoundError as error:
        raise MissingFileError(f"no checkpoint to resume from: {pointer} does not exist") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableFileError(f"cannot read {pointer}") from error
    if not name or osp.basename(name) != name:
        raise UnreadableFileError(f"{pointer} should contain the file name of the last checkpoint, not {name[:80]!r}")
    return name


def last_common_checkpoint(folders: list[str]) -> str | None:
    """File name of the last checkpoint that all folders have, with the same epoch; None without one.

    A run that was killed while it saved several models leaves older checkpoints of some of them.
    """
    if not folders or not all(osp.exists(osp.join(folder, POINTER_NAME)) for folder in folders):
        return None
    last = {last_checkpoint_file(folder) for folder in folders}
    if len(folders) == 1:
        return last.pop()
    numbered = set.intersection(*({name for name in os.listdir(folder) if _number(name) >= 0} for folder in folders))
    candidates = [*(last if len(last) == 1 else ()), *sorted(numbered, key=_number, reverse=True)]
    for name in candidates:
        paths = [osp.join(folder, name) for folder in folders]
        if all(map(osp.isfile, paths)) and len({load_checkpoint(path).get("epoch") for path in paths}) == 1:
            return name
    return None


def _number(file_name: str) -> int:
    """The epoch in the name of a checkpoint, -1 for other files."""
    prefix = checkpoint_name("")
    number = whole_number(file_name.removeprefix(prefix)) if file_name.startswith(prefix) else None
    return -1 if number is None else number


def resume_from_checkpoint(
    fdir: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
) -> int:
    """Load the last checkpoint in `fdir` into model, optimiser and scheduler; returns the number of completed epochs.

    Raises:
        MissingFileError: there is no checkpoint.
        UnreadableFileError: the checkpoint is damaged.
        MismatchError: it belongs to another model, optimiser or scheduler.
    """
    fpath = osp.join(fdir, last_checkpoint_file(fdir))
    checkpoint = read_training_checkpoint(fpath)
    load_training_checkpoint(checkpoint, fpath, model, optimizer, scheduler)
    return checkpoint["epoch"]


def read_training_checkpoint(fpath: str) -> dict[str, Any]:
    """The content of a checkpoint with `state_dict` and `epoch`.

    Raises:
        MissingFileError: there is no such file.
        UnreadableFileError: it is damaged or not a checkpoint of this kind.
    """
    print(f'Loading checkpoint from "{fpath}"')
    checkpoint = load_checkpoint(fpath)
    for key, kind in (("state_dict", dict), ("epoch", int)):
        if not isinstance(checkpoint.get(key), kind):
            raise UnreadableFileError(f'{fpath} is not a checkpoint of this kind: it has no "{key}"')
    if checkpoint["epoch"] < 0:
        raise UnreadableFileError(f"{fpath} is not a checkpoint of this kind: its epoch is {checkpoint['epoch']}")
    return checkpoint


def load_training_checkpoint(
    checkpoint: dict[str, Any], fpath: str, model: nn.Module, optimizer: Any = None, scheduler: Any = None
) -> None:
    """Load the result of `read_training_checkpoint`.

    Raises:
        MismatchError: it belongs to another model, optimiser or scheduler; `fpath` is named.
    """
    targets = (
        ("state_dict", model, None),
        ("optimizer", optimizer, check_optimizer_state),
        ("scheduler", scheduler, check_scheduler_state),
    )
    for key, target, check in targets:
        if target is not None and checkpoint.get(key) is not None:
            load_state(target, checkpoint[key], f"the {key} in {fpath}", check)
    print(f"Previous epoch: {checkpoint['epoch']}")


def load_state(target: Any, state: Any, source: str, check: Callable[[Any, Any], None] | None = None) -> None:
    """`target.load_state_dict(state)`.

    Args:
        source: of the state, for the message.
        check: called before, with both; a built-in exception refuses the state.

    Raises:
        MismatchError: the state does not fit; `source` and what does not fit are named.
    """
    try:
        if check is not None:
            check(target, state)
        target.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
        raise MismatchError(f"{source} does not fit: {one_line(error, 600)}") from error


def load_pretrained_weights(model: nn.Module, weight_path: str) -> None:
    """Copy the tensors of a checkpoint (or plain state dict) whose names and shapes match; print which ones were used.

    Raises:
        MissingFileError: there is no such file.
        UnreadableFileError: the file is damaged.
        MismatchError: no tensor matches.
    """
    checkpoint = load_checkpoint(weight_path)
    given = _without_module_prefix(checkpoint.get("state_dict", checkpoint))
    own = model.state_dict()
    used = {name: value for name, value in given.items() if name in own and _same_shape(own[name], value)}
    misshaped = [name for name in given if name in own and name not in used]
    unknown = [name for name in given if name not in own]
    if not used:
        reason = f"wrong shape: {_shapes(misshaped, given, own)}" if misshaped else "no tensor name matches"
        raise MismatchError(f"cannot load {weight_path} into {type(model).__name__}: {reason}")
    model.load_state_dict(used, strict=False)
    print(f"Loaded {len(used)} of {len(own)} layers from {weight_path}: {listed(used, NAMES_SHOWN)}")
    for what, names in (("unmatched names", unknown), ("not in the file", [name for name in own if name not in given])):
        if names:
            print(f"  {what} ({len(names)}): {listed(names, NAMES_SHOWN)}")
    if misshaped:
        print(f"  NOT loaded because of their shape ({len(misshaped)}): {_shapes(misshaped, given, own)}")


def _same_shape(own: Any, given: Any) -> bool:
    return isinstance(given, torch.Tensor) and own.shape == given.shape


def _shapes(names: list[str], given: dict, own: dict) -> str:
    shapes = [f"{name} {tuple(getattr(given[name], 'shape', ()))} for {tuple(own[name].shape)}" for name in names]
    return listed(shapes, NAMES_SHOWN)


def _without_module_prefix(state_dict: dict[str, Any]) -> OrderedDict[str, Any]:
    return OrderedDict((key.removeprefix("module."), value) for key, value in state_dict.items())


def raw_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor's values in order, for digests."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def count_num_param(model: nn.Module | Iterable[nn.Parameter | dict] | None = None, params: Any = None) -> int:
    """Number of values in a model, in a list of parameters, or in a list of parameter groups."""
    given = params if params is not None else model
    if given is None:
        raise ValueError("model and params must provide at least one.")
    parameters = given.parameters() if isinstance(given, nn.Module) else given
    return sum(_count_in(entry) for entry in parameters)


def _count_in(entry: nn.Parameter | dict) -> int:
    if isinstance(entry, dict):
        return sum(parameter.numel() for parameter in tolist_if_not(entry["params"]))
    return entry.numel()


def open_all_layers(model: nn.Module) -> None:
    """Train every layer."""
    model.train()
    for parameter in model.parameters():
        parameter.requires_grad = True


def open_specified_layers(model: nn.Module, open_layers: str | list[str]) -> None:
    """Train the named children of `model` only; the others are frozen and in evaluation mode.

    Raises:
        ValueError: the model has no child of this name.
    """
    if isinstance(model, nn.DataParallel):
        model = model.module
    wanted = tolist_if_not(open_layers)
    children = dict(model.named_children())
    for layer in wanted:
        if layer not in children:
            raise ValueError(f'"{layer}" is not a layer of {type(model).__name__}; it has {", ".join(children)}')
    for name, module in children.items():
        module.train(name in wanted)
        for parameter in module.parameters():
            parameter.requires_grad = name in wanted


def init_network_weights(model: nn.Module, init_type: str = "normal", gain: float = 0.02) -> None:
    """Initialise convolutions and linear layers ("normal", "xavier", "kaiming", "orthogonal"), norms to N(1, gain)."""
    initialise = {
        "normal": lambda weight: nn.init.normal_(weight, 0.0, gain),
        "xavier": lambda weight: nn.init.xavier_normal_(weight, gain=gain),
        "kaiming": lambda weight: nn.init.kaiming_normal_(weight, a=0, mode="fan_in"),
        "orthogonal": lambda weight: nn.init.orthogonal_(weight, gain=gain),
    }
    if init_type not in initialise:
        raise ValueError(f'unknown initialisation "{init_type}"; available: {", ".join(initialise)}')
    for module in model.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            initialise[init_type](module.weight)
        elif isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
            if module.weight is None:
                continue
            nn.init.normal_(module.weight, 1.0, gain)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def adjust_learning_rate(
    optimizer: torch.optim.Optimizer,
    base_lr: float,
    epoch: int,
    stepsize: int = 20,
    gamma: float = 0.1,
    linear_decay: bool = False,
    final_lr: float = 0,
    max_epoch: int = 100,
) -> None:
    """Set the rate of all parameter groups for an epoch, counted from 0.

    It is base_lr * gamma ** (epoch // stepsize); with `linear_decay`, on the line from base_lr to final_lr, which it
    reaches at `max_epoch`.
    """
    done = epoch / max_epoch
    rate = done * final_lr + (1 - done) * base_lr if linear_decay else base_lr * gamma ** (epoch // stepsize)
    for group in optimizer.param_groups:
        group["lr"] = rate


def set_bn_to_eval(module: nn.Module) -> None:
    """For `model.apply`: a batch norm uses its running statistics and no longer updates them."""
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.eval()
