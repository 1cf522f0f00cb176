"""JSON files kept next to the data, or in the output folder when the data folder is read-only."""

from __future__ import annotations

import errno
import json
import os
import uuid
from typing import Any

from dassl.utils import UserError

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_HARD_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class JsonStore:
    """Write-once JSON files that concurrent runs share.

    Args:
        home: the folder of the data set.
        spare: the folder used when `home` cannot be written to.
    """

    def __init__(self, home: str, spare: str) -> None:
        self.home, self.spare = home, spare

    def find(self, name: str) -> str | None:
        """Path of the file `name` (relative, with /) if it was published, else None."""
        paths = [os.path.join(folder, name) for folder in (self.home, self.spare)]
        return next((path for path in paths if os.path.isfile(path)), None)

    def publish(self, name: str, content: Any) -> str:
        """Write `content` unless `name` exists by now; returns the path of the file that counts.

        The file appears complete or not at all, and of two runs that publish at once the first wins; so read the
        returned path again.

        Raises:
            UserError: neither folder can be written to, or the disk is full.
        """
        home_path = os.path.join(self.home, name)
        try:
            _create(home_path, content)
            return home_path
        except OSError as error:
            if error.errno not in _READ_ONLY:
                raise UserError(f"cannot write {home_path} ({error.strerror}); free space or fix the folder") from None
        spare_path = os.path.join(self.spare, name)
        try:
            _create(spare_path, content)
        except OSError as error:
            raise UserError(
                f"cannot write {name} to {self.home} (read-only) nor to {self.spare} ({error.strerror}); "
                "set OUTPUT_DIR to a writable folder"
            ) from None
        print(f"{self.home} is read-only, so {name} is kept in {self.spare}")
        return spare_path


def _create(path: str, content: Any) -> None:
    """Write a JSON file atomically; a file that is there already stays."""
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "x", encoding="utf-8") as file:
            json.dump(content, file, indent=4, separators=(",", ": "))
        try:
            os.link(temporary, path)  # fails if the file exists, unlike os.replace
        except FileExistsError:
            return
        except OSError as error:
            if error.errno not in _NO_HARD_LINKS:
                raise
            os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)
