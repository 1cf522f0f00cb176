"""What own data is called, in tables and output folders: by its folder or its CSV file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

FOLDER_READER, CSV_READER = "ImageFolder", "ImageCSV"


def custom_data_path(settings: Mapping[str, Any]) -> str | None:
    """DATASET.PATH, without detours.

    Args:
        settings: the node DATASET of a configuration.

    Returns:
        The path as it was given, absolute or relative; None for data that is not own, or without a path.
    """
    path = settings.get("PATH")
    if settings.get("NAME") not in (FOLDER_READER, CSV_READER) or not isinstance(path, str) or not path:
        return None
    return os.path.normpath(os.path.expanduser(path))


def custom_data_name(settings: Mapping[str, Any]) -> str | None:
    """The folder's name, or the CSV file's without its suffix; None for data that is not own, or has no such name."""
    path = custom_data_path(settings)
    if path is None:
        return None
    name = os.path.basename(path)
    if name in ("", os.curdir, os.pardir):
        name = os.path.basename(os.path.abspath(path))
    return (os.path.splitext(name)[0] if settings["NAME"] == CSV_READER else name) or None
