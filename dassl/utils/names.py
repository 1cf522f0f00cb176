"""Errors and suggestions for unknown names."""

from __future__ import annotations

from collections.abc import Iterable

from dassl.spelling import nearest_name

from .errors import UnknownNameError


def get_most_similar_str_to_a_from_b(a: str, b: Iterable[str]) -> str:
    """The entry of `b` that resembles `a` most, or an empty string when `b` is empty."""
    return nearest_name(str(a), b, cutoff=0.0)


def unknown_name_message(kind: str, requested: str, available: Iterable[str]) -> str:
    """One line with the requested name, the nearest one and all available ones."""
    names = list(available)
    if not names:
        return f'unknown {kind} "{requested}": none is registered'
    guess = get_most_similar_str_to_a_from_b(requested, names)
    return f'unknown {kind} "{requested}" (did you mean "{guess}"?); available: {", ".join(names)}'


def listed(names: Iterable[str], shown: int) -> str:
    """The first `shown` names on one line, and the number of the others."""
    names = list(names)
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def check_availability(requested: str, available: list[str], kind: str = "name") -> None:
    """Check that `requested` is in `available`.

    Raises:
        UnknownNameError: it is not.
    """
    if requested not in available:
        raise UnknownNameError(unknown_name_message(kind, requested, available))
