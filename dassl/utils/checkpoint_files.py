"""Reading a checkpoint file without ever running what may be hidden in it.

Files are read by PyTorch's weights-only unpickler. Some checkpoints of the lineage hold Python objects beside the
tensors (the warm-up schedulers of Dassl pickle the scheduler they hand over to). Such a file is still read: the names
of its classes and functions are first replaced, in the pickle program, by the name of a stand-in that only collects
what it is given. So nothing is imported or called by a name from the file.
"""

from __future__ import annotations

import io
import os
import pickle
import pickletools
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from typing import Any

import numpy as np
import torch

from .errors import MissingFileError, UnreadableFileError

_STAND_IN_NAME = ("dassl_checkpoint", "stand_in")
_MARK = "_dassl_stands_in_for_an_object"
_NUMBER_KINDS = "fiub"


def read_checkpoint_file(fpath: str | os.PathLike) -> dict[str, Any]:
    """The dictionary in a checkpoint file, tensors on the CPU.

    Python objects in it become plain dictionaries of their items and attributes; one printed line names their classes.
    Raises MissingFileError, or UnreadableFileError when the file is truncated or is something else.
    """
    if not os.path.isfile(fpath):
        raise MissingFileError(f"no such checkpoint file: {fpath}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files of other kinds, which the error says better
            content = _read(fpath)
    except Exception as error:  # whatever a damaged or hostile file provokes, the remedy is the same
        raise UnreadableFileError(
            f"{fpath} is not a checkpoint that can be read (truncated, or written by something else): {_summary(error)}"
        ) from error
    if not isinstance(content, dict):
        raise UnreadableFileError(f"{fpath} is not a checkpoint: it holds a {type(content).__name__}, not a dictionary")
    return content


def _summary(error: Exception) -> str:
    """The first line, without PyTorch's advice to load the file unsafely."""
    lines = str(error).rpartition("WeightsUnpickler error: ")[2].strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def _read(fpath: str | os.PathLike) -> Any:
    try:
        return torch.load(fpath, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        if not zipfile.is_zipfile(fpath):
            raise
    return _read_with_stand_ins(fpath)


def _read_with_stand_ins(fpath: str | os.PathLike) -> Any:
    unsafe = set(torch.serialization.get_unsafe_globals_in_checkpoint(fpath))
    with zipfile.ZipFile(fpath) as archive:
        program_name = next(name for name in archive.namelist() if name.count("/") == 1 and name.endswith("/data.pkl"))
        program = _rename_globals(archive.read(program_name), unsafe - set(_NUMPY_NUMBERS))
        copy = _copy_archive(archive, {program_name: program})
    allowed = [(_StandIn, ".".join(_STAND_IN_NAME)), *((made, name) for name, made in _NUMPY_NUMBERS.items())]
    with torch.serialization.safe_globals(allowed):
        content = torch.load(copy, map_location="cpu", weights_only=True)
    names = sorted(unsafe - set(_NUMPY_NUMBERS))
    if names:
        print(f"Note: {fpath} holds Python objects ({', '.join(names)}); their plain values are kept, nothing is run")
    return _without_stand_ins(content, set())


def _rename_globals(program: bytes, unsafe: set[str]) -> bytes:
    """The pickle program with every name in ``unsafe`` replaced by the stand-in's."""
    replacement = b"c%b\n%b\n" % tuple(part.encode() for part in _STAND_IN_NAME)
    edited, done = bytearray(), 0
    for opcode, argument, position in pickletools.genops(program):
        if opcode.name == "GLOBAL" and not unsafe.isdisjoint(_spellings(*argument.split(" ", 1))):
            edited += program[done:position] + replacement
            end_of_module = program.index(b"\n", position)
            done = program.index(b"\n", end_of_module + 1) + 1
    return bytes(edited + program[done:])


def _spellings(module: str, name: str) -> set[str]:
    """Protocol 2 spells names of the standard library as Python 2 did; PyTorch translates some of them back."""
    new_module, new_name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return {f"{module}.{name}", f"{new_module}.{new_name}"}


def _copy_archive(archive: zipfile.ZipFile, replaced: dict[str, bytes]) -> io.BytesIO:
    """The archive in memory, with some entries replaced. PyTorch stores entries uncompressed; others are refused."""
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"entry {entry.filename} is compressed")
            target.writestr(entry.filename, replaced.get(entry.filename) or archive.read(entry))
    copy.seek(0)
    return copy


class _StandIn:
    """What a class or function named in the file is replaced by: makes an empty, marked dictionary.

    An OrderedDict is the one container that the weights-only unpickler fills with items and attributes alike.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> OrderedDict:
        made = OrderedDict()
        vars(made)[_MARK] = True
        return made


class _NumpyDtype:
    """What is needed of a pickled ``numpy.dtype`` to read one number."""

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        if not isinstance(code, str) or code[:1] not in _NUMBER_KINDS:
            raise ValueError(f"a number of type {code!r}")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        if state[1] == ">":
            raise ValueError("a big-endian number")


def _plain_number(dtype: _NumpyDtype, raw: bytes) -> bool | int | float:
    return np.frombuffer(raw, dtype=dtype.code, count=1)[0].item()


_NUMPY_NUMBERS = {
    "numpy.dtype": _NumpyDtype,
    "numpy.core.multiarray.scalar": _plain_number,
    "numpy._core.multiarray.scalar": _plain_number,
}


def _without_stand_ins(value: Any, parents: set[int]) -> Any:
    """Plain dictionaries in place of stand-ins; a reference back to a parent becomes None."""
    if not isinstance(value, (dict, list, tuple)):
        return value
    if id(value) in parents:
        return None
    parents = parents | {id(value)}
    if isinstance(value, dict):
        items = {key: _without_stand_ins(item, parents) for key, item in value.items()}
        if not vars(value).get(_MARK) if isinstance(value, OrderedDict) else True:
            return items if type(value) is dict else _like(value, items)
        attributes = {key: item for key, item in vars(value).items() if key != _MARK}
        return {**items, **_without_stand_ins(attributes, parents)}
    if type(value) is torch.Size:
        return value
    return type(value)(_without_stand_ins(item, parents) for item in value)


def _like(original: dict, items: dict) -> dict:
    """An OrderedDict (or Counter) of ``items`` that keeps the original's attributes, such as ``_metadata``."""
    made = type(original)(items)
    vars(made).update(vars(original))
    return made
