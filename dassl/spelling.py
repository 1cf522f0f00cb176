"""Suggestions for mistyped names. Imports nothing slow."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest_name(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """The known name that is most like `name`, whatever the case; empty if none is.

    Args:
        cutoff: similarity from 0 to 1 that a suggestion needs.
    """
    by_folded = {each.casefold(): each for each in known}
    nearest = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=cutoff)
    return by_folded[nearest[0]] if nearest else ""
