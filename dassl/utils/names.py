"""Help with names that were mistyped."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from .errors import UnknownNameError


def get_most_similar_str_to_a_from_b(a: str, b: Iterable[str]) -> str:
    """The entry of `b` that resembles `a` most, or an empty string when `b` is empty."""
    by_folded = {name.casefold(): name for name in b}
    nearest = difflib.get_close_matches(str(a).casefold(), by_folded, n=1, cutoff=0.0)
    return by_folded[nearest[0]] if nearest else ""


def unknown_name_message(kind: str, requested: str, available: Iterable[str]) -> str:
    """One line that says what was asked for, what is there, and what was probably meant."""
    names = list(available)
    if not names:
        return f'unknown {kind} "{requested}": none is registered'
    guess = get_most_similar_str_to_a_from_b(requested, names)
    return f'unknown {kind} "{requested}" (did you mean "{guess}"?); available: {", ".join(names)}'


def check_availability(requested: str, available: list[str], kind: str = "name") -> None:
    """Raise UnknownNameError when `requested` is not in `available`."""
    if requested not in available:
        raise UnknownNameError(unknown_name_message(kind, requested, available))
