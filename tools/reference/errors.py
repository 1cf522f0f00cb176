"""What is not documented in the code."""

from __future__ import annotations

from collections.abc import Sequence

from dassl.utils.errors import UserError


class UndocumentedError(UserError):
    """Something in the code has no description.

    Args:
        what: kind of the things, in the plural.
        names: of the things.
        remedy: where to describe them.
    """

    def __init__(self, what: str, names: Sequence[str], remedy: str) -> None:
        super().__init__(f"{what} without a description: {', '.join(names)}; {remedy}")
