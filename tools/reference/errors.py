"""What is not documented in the code."""

from __future__ import annotations

from collections.abc import Sequence

from dassl.utils.errors import UserError


class UndocumentedError(UserError):
    """Something in the code has no description."""


def undocumented(what: str, names: Sequence[str], remedy: str) -> UndocumentedError:
    """The error to raise.

    Args:
        what: kind of the things, in the plural.
        names: of the things.
        remedy: where to describe them.
    """
    return UndocumentedError(f"{what} without a description: {', '.join(names)}; {remedy}")
