"""PyTorch's zip archives read as data: their entries are checked first, and no code in them is run.

`torch.save` and `torch.jit.save` write zip files with a pickle program (`data.pkl`) and one entry per storage. PyTorch
neither checks the entries' checksums nor limits their unpacked size. So the entries are checked here and copied, and
the copy is read by `torch.load` with its weights-only unpickler.

That unpickler refuses unknown classes and functions. In the pickle program, their names are first replaced by names of
stand-ins that only collect their arguments. Nothing is imported or called by a name from the file.
"""

from __future__ import annotations

import io
import os
import pickletools
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

_STAND_IN_MODULE = "dassl_checkpoint"
_MARK = "_dassl_stands_in_for_an_object"
_NUMBER_KINDS = "fiub"
_LOCAL_HEADER = 30
"""Bytes of a zip entry's own header, without its name."""
_MAX_EFFORT = 20_000_000
"""Replaced classes times objects. The unpickler checks every class for each object, for about ten seconds."""
_OBJECT_OPCODES = {"NEWOBJ", "REDUCE", "BUILD"}
_FORBIDDEN = {
    "builtins.bytearray",
    *(
        f"torch._utils._rebuild_{kind}"
        for kind in ("device_tensor_from_numpy", "device_tensor_from_cpu_tensor", "wrapper_subclass", "nested_tensor")
    ),
}
"""Functions that PyTorch allows in a file although a few bytes can exhaust the memory: `bytearray(10**12)`, a copy of
a tensor whose strides are 0."""
_OLD_FORMAT_PICKLES = 5


def is_zip(path: str | os.PathLike) -> bool:
    """Whether a file is a zip archive.

    Raises:
        ValueError: it is an incomplete zip archive.
    """
    if zipfile.is_zipfile(path):
        return True
    with open(path, "rb") as file:
        if file.read(4) == b"PK\x03\x04":
            raise ValueError("it is an incomplete zip archive")
    return False


def load_archive(path: str | os.PathLike) -> tuple[Any, list[str]]:
    """The content of an archive, tensors on the CPU; and the names of the classes and functions that were replaced.

    An object in the content is an OrderedDict, see `attributes_of`.

    Raises:
        Exception: of any kind, for a damaged or hostile file.
    """
    with open_checked(path) as archive:
        top = top_folder(archive)
        program, stand_ins = _with_stand_ins(read_stored(archive, f"{top}/data.pkl"))
        copy = _copy_for_torch(archive, top, program)
    # `safe_globals` is the unpickler's list of allowed names; only our own classes and functions are added
    allowed = [*((made, name) for name, made in _NUMPY_NUMBERS.items()), *stand_ins]
    with torch.serialization.safe_globals(allowed):
        content = torch.load(copy, map_location="cpu", weights_only=True)
    return content, sorted(made.origin for made, _ in stand_ins)


def load_old_format(path: str | os.PathLike) -> Any:
    """The content of a file in PyTorch's format before zip archives, tensors on the CPU.

    Raises:
        Exception: of any kind, for a damaged or hostile file.
    """
    with open(path, "rb") as file:
        for _ in range(_OLD_FORMAT_PICKLES):  # the values of the tensors come after these
            for opcode, argument, _ in pickletools.genops(file):
                if opcode.name == "GLOBAL" and not _FORBIDDEN.isdisjoint(_spellings(argument)):
                    raise ValueError(f"it uses {argument}")
    return torch.load(path, map_location="cpu", weights_only=True)


def open_checked(path: str | os.PathLike) -> zipfile.ZipFile:
    """A zip archive whose entries have distinct names, are not encrypted, and do not overlap.

    Raises:
        ValueError: an entry breaks these rules; it is named.
    """
    archive = zipfile.ZipFile(path)
    names: set[str] = set()
    end = 0
    for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
        if entry.filename in names:
            raise ValueError(f"entry {entry.filename} occurs twice")
        if entry.flag_bits & 1:
            raise ValueError(f"entry {entry.filename} is encrypted")
        if entry.header_offset < end:  # shared bytes would let a small file unpack to a huge one
            raise ValueError(f"entry {entry.filename} overlaps another one")
        names.add(entry.filename)
        end = entry.header_offset + _LOCAL_HEADER + len(entry.filename) + entry.compress_size
    return archive


def top_folder(archive: zipfile.ZipFile) -> str:
    """The top folder of all entries.

    Raises:
        ValueError: there is not exactly one `data.pkl` in a top folder.
    """
    tops = [name.removesuffix("/data.pkl") for name in archive.namelist() if name.endswith("/data.pkl")]
    tops = [top for top in tops if "/" not in top]
    if len(tops) != 1:
        raise ValueError("it does not have one data.pkl in a top folder, as PyTorch writes it")
    return tops[0]


def read_stored(archive: zipfile.ZipFile, name: str) -> bytes:
    """An entry's content. PyTorch stores tensors and pickles uncompressed; a compressed entry is refused.

    Raises:
        ValueError: the entry is compressed, or its checksum does not match.
    """
    entry = archive.getinfo(name)
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        raise ValueError(f"entry {name} is compressed")
    try:
        return archive.read(entry)
    except zipfile.BadZipFile as error:
        if "CRC" not in str(error):
            raise
        raise ValueError(f"entry {name} is damaged: its checksum does not match") from error


def _copy_for_torch(archive: zipfile.ZipFile, top: str, program: bytes) -> io.BytesIO:
    """An archive in memory with `program` and the storages, whose checksums have been checked."""
    wanted = [f"{top}/byteorder", f"{top}/version"]
    copy = io.BytesIO()
    with zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as target:
        target.writestr(f"{top}/data.pkl", program)
        for name in archive.namelist():
            if name in wanted or name.startswith(f"{top}/data/"):
                target.writestr(name, read_stored(archive, name))
    copy.seek(0)
    return copy


class _StandIn:
    """Replaces a class or function named in the file: a call creates an empty, marked dictionary.

    OrderedDict is the only container that the weights-only unpickler fills with both items and attributes.
    """

    origin = ""

    def __new__(cls, *args: Any, **kwargs: Any) -> OrderedDict:
        made: OrderedDict = OrderedDict()
        vars(made)[_MARK] = cls.origin
        return made


def _with_stand_ins(program: bytes) -> tuple[bytes, list[tuple[type[_StandIn], str]]]:
    """The pickle program with every unknown name replaced, and the stand-ins with their new names.

    Raises:
        ValueError: there are so many classes and objects that reading them would take minutes.
    """
    unsafe = sorted(_unknown_names(program))
    if not unsafe:
        return program, []
    stand_ins: list[tuple[type[_StandIn], str]] = [
        (type("StandIn", (_StandIn,), {"origin": name}), f"{_STAND_IN_MODULE}.stand_in_{number}")
        for number, name in enumerate(unsafe)
    ]
    names = {made.origin: name for made, name in stand_ins}
    edited, done, objects = bytearray(), 0, 0
    for opcode, argument, position in pickletools.genops(program):
        objects += opcode.name in _OBJECT_OPCODES
        if opcode.name != "GLOBAL":
            continue
        known_as = next((name for name in _spellings(argument) if name in names), None)
        if known_as is not None:
            # GLOBAL is b"c", then module and name, each with a line break
            edited += program[done:position] + b"c%b\n%b\n" % tuple(names[known_as].encode().split(b"."))
            end_of_module = program.index(b"\n", position)
            done = program.index(b"\n", end_of_module + 1) + 1
    if len(unsafe) * objects > _MAX_EFFORT:
        raise ValueError(f"it has {objects:,} objects of {len(unsafe):,} classes")
    return bytes(edited + program[done:]), stand_ins


def _unknown_names(program: bytes) -> set[str]:
    """The names that PyTorch's unpickler would refuse, except numpy's numbers, and the names in `_FORBIDDEN`."""
    # PyTorch lists the names of an archive only, so the program is put into a minimal one
    probe = io.BytesIO()
    with zipfile.ZipFile(probe, "w") as archive:
        archive.writestr("probe/data.pkl", program)
        archive.writestr("probe/version", b"3\n")
    probe.seek(0)
    refused = set(torch.serialization.get_unsafe_globals_in_checkpoint(probe)) - set(_NUMPY_NUMBERS)
    named = {argument for opcode, argument, _ in pickletools.genops(program) if opcode.name == "GLOBAL"}
    return refused | {name for each in named for name in _spellings(each) if name in _FORBIDDEN}


def _spellings(argument: Any) -> tuple[str, str]:
    """Dotted name in the argument "module name" of a GLOBAL opcode, as written and as in Python 3.

    Protocol 2 spells names of the standard library as Python 2 did; PyTorch translates some of them back.
    """
    module, name = argument.split(" ", 1)
    new_module, new_name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}", f"{new_module}.{new_name}"


class _NumpyDtype:
    """The part of a pickled `numpy.dtype` that reading one number needs."""

    def __init__(self, code: str, align: bool = False, copy: bool = True) -> None:
        if not isinstance(code, str) or code[:1] not in _NUMBER_KINDS:
            raise ValueError(f"it has a number of type {code!r}")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        if state[1] == ">":
            raise ValueError("it has a big-endian number")


def _plain_number(dtype: _NumpyDtype, raw: bytes) -> bool | int | float:
    return np.frombuffer(raw, dtype=dtype.code, count=1)[0].item()


_NUMPY_NUMBERS = {
    "numpy.dtype": _NumpyDtype,
    "numpy.core.multiarray.scalar": _plain_number,
    "numpy._core.multiarray.scalar": _plain_number,
}


def class_of(value: Any) -> str | None:
    """Name of the class that a stand-in replaced; None for any other value."""
    origin = vars(value).get(_MARK) if isinstance(value, OrderedDict) else None
    return origin if isinstance(origin, str) else None


def attributes_of(stand_in: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes of the object that the stand-in replaced."""
    return {key: item for key, item in vars(stand_in).items() if key != _MARK}


def without_stand_ins(value: Any, done: dict[int, Any] | None = None) -> Any:
    """`value` with plain dictionaries of items and attributes instead of stand-ins.

    A reference to a parent becomes None.

    Args:
        done: results by the id of the original, so that a value with many references is converted once.
    """
    done = {} if done is None else done
    if not isinstance(value, (dict, list, tuple)) or type(value) is torch.Size:
        return value
    if id(value) not in done:
        done[id(value)] = None  # for references of its parts to itself
        done[id(value)] = _converted(value, done)
    return done[id(value)]


def _converted(value: dict | list | tuple, done: dict[int, Any]) -> Any:
    if not isinstance(value, dict):
        return type(value)(without_stand_ins(item, done) for item in value)
    items = _converted_items(value, done)
    if class_of(value) is not None:
        return items | _converted_items(attributes_of(value), done)
    return items if type(value) is dict else _like(value, items)


def _converted_items(items: dict[Any, Any], done: dict[int, Any]) -> dict[Any, Any]:
    # not `items.items()`: an attribute `items` from the file would hide the method
    return {key: without_stand_ins(item, done) for key, item in dict.items(items)}


def _like(original: dict, items: dict) -> dict:
    """An OrderedDict (or Counter) of `items` that keeps the original's attributes, such as `_metadata`."""
    made = type(original)(items)
    vars(made).update(vars(original))
    return made
