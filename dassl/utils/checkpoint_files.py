"""Reading a checkpoint file without ever running what may be hidden in it.

Files are read by PyTorch's weights-only unpickler. Some checkpoints of the lineage hold Python objects beside the
tensors (the warm-up schedulers of Dassl pickle the scheduler they hand over to). Such a file is still read, as
`torch_archives` describes: an object becomes a dictionary of its values.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

from .errors import MissingFileError, UnreadableFileError
from .safe_text import printable
from .torch_archives import is_zip, load_archive, load_old_format, without_stand_ins


def read_checkpoint_file(fpath: str | os.PathLike) -> dict[str, Any]:
    """The dictionary in a checkpoint file, tensors on the CPU.

    Python objects in it become plain dictionaries of their items and attributes; one printed line names their classes.
    Raises MissingFileError, or UnreadableFileError when the file is truncated, damaged, or something else.
    """
    if not os.path.isfile(fpath):
        raise MissingFileError(f"no such checkpoint file: {fpath}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files of other kinds, which the error says better
            content = _read(fpath)
    except Exception as error:  # whatever a damaged or hostile file provokes, the remedy is the same
        reason = f"truncated, damaged, or written by something else: {_summary(error)}"
        raise UnreadableFileError(f"{fpath} is not a checkpoint that can be read ({reason})") from error
    if not isinstance(content, dict):
        raise UnreadableFileError(f"{fpath} is not a checkpoint: it holds a {type(content).__name__}, not a dictionary")
    return content


def _summary(error: Exception) -> str:
    """The first line, without PyTorch's advice to load the file unsafely."""
    lines = str(error).rpartition("WeightsUnpickler error: ")[2].strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:200]


def _read(fpath: str | os.PathLike) -> Any:
    if not is_zip(fpath):  # PyTorch's older format, which has no checksums
        return load_old_format(fpath)
    content, replaced = load_archive(fpath)
    if replaced:
        objects = printable(f"{fpath} holds Python objects ({', '.join(replaced)[:500]})")
        print(f"Note: {objects}; their plain values are kept, nothing is run")
    return without_stand_ins(content)
