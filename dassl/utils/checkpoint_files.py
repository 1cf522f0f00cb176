"""Reading a checkpoint file without running code from it.

Files are read by PyTorch's weights-only unpickler. Some checkpoints of the lineage contain Python objects beside the
tensors (the warm-up schedulers of Dassl pickle the scheduler that follows them). Such a file is still read, as
described in `torch_archives`: an object becomes a dictionary of its values.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

from .errors import MissingFileError, UnreadableFileError
from .safe_text import printable
from .torch_archives import is_zip, load_archive, load_old_format, without_stand_ins


def load_checkpoint(fpath: str | os.PathLike) -> dict[str, Any]:
    """The dictionary in a checkpoint file, tensors on the CPU; no code in the file is run.

    Python objects in it become plain dictionaries of their items and attributes; one printed line names their classes.

    Raises:
        MissingFileError: there is no such file.
        UnreadableFileError: the file is truncated, damaged, or not a checkpoint.
    """
    if fpath is None:
        raise ValueError("File path is None")
    if not os.path.isfile(fpath):
        raise MissingFileError(f"no such checkpoint file: {fpath}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about files of other kinds; the error below is clearer
            content = _read(fpath)
    except Exception as error:  # a damaged or hostile file can raise anything; the remedy is the same
        reason = f"truncated, damaged, or written by something else: {_summary(error)}"
        raise UnreadableFileError(f"{fpath} is not a checkpoint that can be read ({reason})") from error
    if not isinstance(content, dict):
        raise UnreadableFileError(
            f"{fpath} is not a checkpoint: its content is a {type(content).__name__}, not a dictionary"
        )
    return content


def _summary(error: Exception) -> str:
    """The first line, without PyTorch's advice to load the file unsafely."""
    lines = str(error).rpartition("WeightsUnpickler error: ")[2].strip().splitlines()
    reasons = [line for line in lines if line.strip() and "weights_only" not in line]
    return (reasons[0] if reasons else type(error).__name__)[:200]


def _read(fpath: str | os.PathLike) -> Any:
    if not is_zip(fpath):  # PyTorch's older format without checksums
        return load_old_format(fpath)
    content, replaced = load_archive(fpath)
    if replaced:
        objects = printable(f"{fpath} contains Python objects ({', '.join(replaced)[:500]})")
        print(f"Note: {objects}; only their plain values are read")
    return without_stand_ins(content)
