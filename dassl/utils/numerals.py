"""Numbers in text that somebody wrote."""

from __future__ import annotations


def whole_number(text: str) -> int | None:
    """The number that decimal digits, of any script, stand for; None for other text.

    "²" and "①" are digits, but not decimal ones: `str.isdigit` takes them, `int` does not. Nor does `int` take text of
    more than 4,300 digits.
    """
    if not text.isdecimal():
        return None
    try:
        return int(text)
    except ValueError:
        return None
