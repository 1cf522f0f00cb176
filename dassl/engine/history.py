"""The training curve: one line of averages per epoch, kept in a file, so that an interruption does not lose it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

from dassl.utils.errors import UnreadableFileError, UnwritableFileError
from dassl.utils.files import StrPath, read_bytes, write_text_atomically

HISTORY_NAME = "history.jsonl"
"""The training curve: a line for each epoch, with the averages of what was logged."""
TENSORBOARD_NAME = "tensorboard"
"""Folder with event files for TensorBoard."""


class EpochHistory:
    """Averages of the epochs trained so far, in memory (`epochs`) and in `<folder>/history.jsonl`.

    Args:
        folder: output folder of the run.
    """

    def __init__(self, folder: StrPath) -> None:
        self.path = Path(folder) / HISTORY_NAME
        self.epochs: list[dict[str, float]] = []

    def resume(self, completed: int, folder: StrPath) -> None:
        """Continue the history in `folder` after its first `completed` epochs.

        Later epochs are trained again; their lines are dropped.

        Raises:
            UnreadableFileError: the file is damaged.
            UnwritableFileError: the new file cannot be written.
        """
        lines = _lines(Path(folder) / HISTORY_NAME) if completed else []
        kept = {line["epoch"]: line for line in lines if line["epoch"] <= completed}
        self.epochs = [kept[epoch] for epoch in sorted(kept)]
        if self.epochs or self.path.exists():
            write_text_atomically(self.path, "".join(f"{json.dumps(line)}\n" for line in self.epochs))

    def add(self, epoch: int, **averages: float) -> None:
        """Append an epoch, counted from 1.

        Raises:
            UnwritableFileError: the file cannot be written.
        """
        line = {"epoch": epoch, **averages}
        self.epochs.append(line)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(f"{json.dumps(line)}\n")
        except OSError as error:
            raise UnwritableFileError(f"cannot write {self.path}: {error.strerror or error}") from error

    def amend(self, epoch: int, **values: float) -> None:
        """Add values to an epoch that may have a line already, such as its validation accuracy.

        The file gets the whole line again; of two lines of one epoch the last counts.

        Raises:
            UnwritableFileError: the file cannot be written.
        """
        known = self.epochs.pop() if self.epochs and self.epochs[-1]["epoch"] == epoch else {}
        self.add(epoch, **{name: value for name, value in known.items() if name != "epoch"} | values)

    @property
    def seconds(self) -> float:
        """Training time of all epochs, over interruptions."""
        return sum(line.get("seconds", 0.0) for line in self.epochs)


def _lines(path: Path) -> list[dict[str, float]]:
    """The file's lines, without an incomplete last one.

    Raises:
        UnreadableFileError: the file is damaged.
    """
    if not path.is_file():
        return []
    texts = read_bytes(path).decode("utf-8", errors="replace").split("\n")
    whole = texts[:-1]  # text after the last line break is an incomplete line
    return [_read_line(text, f"{path}: line {number}") for number, text in enumerate(whole, 1)]


def _read_line(text: str, where: str) -> dict[str, float]:
    with suppress(AttributeError, KeyError, OverflowError, RecursionError, TypeError, ValueError):
        line = json.loads(text)
        if type(line["epoch"]) is int and {type(value) for value in line.values()} <= {int, float}:
            for value in line.values():
                float(value)  # OverflowError for a number that no float can hold
            return line
    shown = text if len(text) <= 100 else f"{text[:100]} ..."
    remedy = "correct or delete the file (it contains only the training curve)"
    raise UnreadableFileError(f"{where} is not an epoch's averages: {shown!r}; {remedy}")
