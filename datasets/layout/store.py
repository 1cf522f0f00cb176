"""JSON files beside the data, in a folder of the user's choice, or in the output folder if the data are read-only."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from dassl.utils import BadValueError, UnwritableFileError, UserError, write_text_atomically
from datasets.layout.files import read_data_text

FOLDER_NAME = "data_folder.txt"
"""In a folder of the user's choice, beside the files of own data: the data's folder."""
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


class JsonStore:
    """Write-once JSON files that concurrent runs share.

    Args:
        home: the folder of the data set.
        spare: the folder used if `home` is read-only.
        chosen: the folder that new files are written to instead of `home`; files in it win. "": `home`.
        is_own: own data; another folder of own data may have the same name, and must not use the files in `chosen`.
    """

    def __init__(self, home: str, spare: str, chosen: str = "", is_own: bool = False) -> None:
        self.home, self.spare, self.chosen, self._is_own = home, spare, chosen, is_own

    def _check_data_folder(self) -> None:
        """Check that the files in `chosen` are not those of another folder of own data that still exists.

        Raises:
            BadValueError: they are.
        """
        path = Path(self.chosen, FOLDER_NAME)
        if not (self.chosen and self._is_own and os.path.isfile(path)):
            return
        other = read_data_text(path).removesuffix("\n")
        if os.path.isdir(other) and os.path.realpath(other) != os.path.realpath(self.home):
            raise BadValueError(
                f"{self.chosen} has the split and draws of {other}, not of {self.home}: "
                "choose another DATASET.SPLITS_DIR for it"
            )

    def find(self, name: str) -> str | None:
        """Path of the file `name` (relative, with /) if it exists, else None.

        Raises:
            BadValueError: the chosen folder belongs to other data.
        """
        self._check_data_folder()
        paths = [os.path.join(folder, name) for folder in (self.chosen, self.home, self.spare) if folder]
        return next((path for path in paths if os.path.isfile(path)), None)

    def publish(self, name: str, content: Any) -> str:
        """Write `content` unless the file `name` exists by now; returns the path of the valid file.

        The file appears complete or not at all. If two runs publish at once, the first one wins, so callers read the
        returned path again.

        Raises:
            UserError: neither folder can be written, or the disk is full.
        """
        text = json.dumps(content, indent=4, separators=(",", ": "))
        home_path, spare_path = os.path.join(self.chosen or self.home, name), os.path.join(self.spare, name)
        self._check_data_folder()
        try:
            if self.chosen and self._is_own:
                write_text_atomically(Path(self.chosen, FOLDER_NAME), f"{self.home}\n")
            write_text_atomically(home_path, text, replace=False)
            return home_path
        except UnwritableFileError as error:
            if self.chosen or not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _READ_ONLY:
                raise UserError(f"{error}; free space or fix the folder's permissions") from None
        try:
            write_text_atomically(spare_path, text, replace=False)
        except UnwritableFileError as error:
            raise UserError(f"{self.home} is read-only, and {error}; set OUTPUT_DIR to a writable folder") from None
        print(f"{self.home} is read-only, so {name} is kept in {self.spare}")
        return spare_path
