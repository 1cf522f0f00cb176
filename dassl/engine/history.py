"""The training curve: one line of averages per epoch, kept in a file so that it outlives an interrupted run."""

from __future__ import annotations

import json
from pathlib import Path

from dassl.utils.errors import UnwritableFileError
from dassl.utils.files import StrPath, write_text_atomically

HISTORY_NAME = "history.jsonl"


class EpochHistory:
    """Averages of the epochs trained so far, in memory (`epochs`) and in ``<folder>/history.jsonl``.

    Args:
        folder: output folder of the run.
    """

    def __init__(self, folder: StrPath) -> None:
        self.path = Path(folder) / HISTORY_NAME
        self.epochs: list[dict[str, float]] = []

    def resume(self, completed: int, folder: StrPath) -> None:
        """Take up the lines of the first ``completed`` epochs from the history in ``folder``.

        Later epochs are trained again; their lines are dropped. Raises UnwritableFileError.
        """
        kept = {line["epoch"]: line for line in _lines(Path(folder) / HISTORY_NAME) if line["epoch"] <= completed}
        self.epochs = [kept[epoch] for epoch in sorted(kept)]
        if self.epochs or self.path.exists():
            write_text_atomically(self.path, "".join(f"{json.dumps(line)}\n" for line in self.epochs))

    def add(self, epoch: int, **averages: float) -> None:
        """Append an epoch, counted from 1. Raises UnwritableFileError."""
        line = {"epoch": epoch, **averages}
        self.epochs.append(line)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(f"{json.dumps(line)}\n")
        except OSError as error:
            raise UnwritableFileError(f"cannot write {self.path}: {error.strerror or error}") from error

    @property
    def seconds(self) -> float:
        """Training time of all epochs, over interruptions."""
        return sum(line.get("seconds", 0.0) for line in self.epochs)


def _lines(path: Path) -> list[dict[str, float]]:
    """The file's lines; one that an interruption cut short is no line."""
    if not path.is_file():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and isinstance(line.get("epoch"), int):
            lines.append(line)
    return lines
