"""Numbers in text from users."""

from __future__ import annotations


def whole_number(text: str) -> int | None:
    """The number written in decimal digits of any script; None for other text.

    "²" and "①" are digits, but not decimal ones: `str.isdigit` accepts them, `int` does not. `int` also refuses text
    of more than 4,300 digits.
    """
    if not text.isdecimal():
        return None
    try:
        return int(text)
    except ValueError:
        return None
