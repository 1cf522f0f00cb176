"""The name of custom data in tables and output folders: that of its folder or CSV file."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

FOLDER_READER, CSV_READER = "ImageFolder", "ImageCSV"


def custom_data_path(settings: Mapping[str, Any]) -> str | None:
    """DATASET.PATH in its normal form.

    Args:
        settings: the node DATASET of a configuration.

    Returns:
        The path as given, absolute or relative; None for other data sets, or without a path.
    """
    path = settings.get("PATH")
    if settings.get("NAME") not in (FOLDER_READER, CSV_READER) or not isinstance(path, str) or not path:
        return None
    return os.path.normpath(os.path.expanduser(path))


def custom_data_name(settings: Mapping[str, Any]) -> str | None:
    """The folder's name, or the CSV file's without its suffix; None for other data sets, or without a name."""
    path = custom_data_path(settings)
    if path is None:
        return None
    name = os.path.basename(path)
    if name in ("", os.curdir, os.pardir):
        name = os.path.basename(os.path.abspath(path))
    return (os.path.splitext(name)[0] if settings["NAME"] == CSV_READER else name) or None
