"""The tensors of a TorchScript archive, read as data: its code is never compiled or run.

`torch.jit.load` runs code while it loads (a module's `__setstate__`). Here the module objects in the archive's pickle
become plain containers. From the code, only the lists of parameters and buffers are read, as text.
"""

from __future__ import annotations

import itertools
import os
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from .torch_archives import attributes_of, class_of, load_archive, open_checked, top_folder

_MAX_CODE_BYTES = 64 << 20
_MAX_MODULES, _MAX_DEPTH = 100_000, 100
_CLASS = re.compile(
    r"^class (\w+)\(Module\):\n  __parameters__ = \[([^\]\n]*)\]\n(?:  __buffers__ = \[([^\]\n]*)\]\n)?", re.MULTILINE
)
_QUOTED = re.compile(r'"([^"\\]*)"')
_Declared = tuple[list[str], list[str]]
"""The attributes of a module class that belong to its state dict: parameters and buffers."""


def is_torchscript(path: str | os.PathLike) -> bool:
    """Whether a file is an archive that `torch.jit.save` wrote."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of `torch.jit.load(path).state_dict()`, in the same order, on the CPU.

    Raises:
        Exception: of any kind, for a damaged or hostile file.
    """
    root, _ = load_archive(path)
    classes = _module_classes(path)
    if class_of(root) not in classes:
        raise ValueError("it has no TorchScript module")
    state: dict[str, Tensor] = {}
    for name, value in _tensors(root, classes, itertools.count(1)):
        if value is None:
            continue
        if not isinstance(value, Tensor) or name in state:
            raise ValueError(f"{name} is not one tensor")
        state[name] = value.detach()
    return state


def _module_classes(path: str | os.PathLike) -> dict[str, _Declared]:
    """The declaration of each module class in the archive's code, by the class's full name."""
    found = {}
    with open_checked(path) as archive:
        for module, text in _sources(archive, f"{top_folder(archive)}/code/"):
            for name, parameters, buffers in _CLASS.findall(text):
                found[f"{module}.{name}"] = _QUOTED.findall(parameters), _QUOTED.findall(buffers)
    return found


def _sources(archive: zipfile.ZipFile, folder: str) -> Iterator[tuple[str, str]]:
    """Module name and text of each code file. These are the only entries that PyTorch compresses."""
    entries = [
        entry for entry in archive.infolist() if entry.filename.startswith(folder) and entry.filename.endswith(".py")
    ]
    if sum(entry.file_size for entry in entries) > _MAX_CODE_BYTES:
        raise ValueError(f"its code unpacks to more than {_MAX_CODE_BYTES:,} bytes")
    for entry in entries:
        with archive.open(entry) as file:
            text = file.read(entry.file_size)  # at most the stated size, whatever it unpacks to
        module = entry.filename.removeprefix(folder).removesuffix(".py").replace("/", ".")
        yield module, text.decode("utf-8")


def _tensors(
    module: OrderedDict, classes: Mapping[str, _Declared], counter: Iterator[int], prefix: str = "", depth: int = 0
) -> Iterator[tuple[str, Any]]:
    """Names and values of the parameters and buffers of nested modules; the value of an optional one may be None.

    Args:
        counter: counts the modules from 1.
    """
    if next(counter) > _MAX_MODULES or depth > _MAX_DEPTH:
        raise ValueError("its modules are nested too deeply or contain themselves")
    attributes = attributes_of(module)
    for names in classes[class_of(module) or ""]:
        # in the order of the attributes, as PyTorch lists them
        yield from ((f"{prefix}{name}", value) for name, value in attributes.items() if name in names)
    for name, value in attributes.items():
        if class_of(value) in classes:
            yield from _tensors(value, classes, counter, f"{prefix}{name}.", depth + 1)
