"""Progress bars: on a terminal only, never in the log."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

from .logger import console_of


def progress_bar(iterable: Iterable | None = None, **options: Any) -> tqdm:
    """A tqdm bar on stderr that shows only when stderr is a terminal and vanishes when done."""
    console = console_of(sys.stderr)
    options = {"leave": False, "dynamic_ncols": True, **options}
    return tqdm(iterable, file=console, disable=not console.isatty(), **options)


def print_above_bar(message: str) -> None:
    """`print` that keeps a progress bar intact."""
    with tqdm.external_write_mode(file=console_of(sys.stderr)):
        print(message)
