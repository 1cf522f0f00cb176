"""What is not documented in the code."""

from __future__ import annotations

from collections.abc import Sequence

from dassl.utils.errors import UserError


class UndocumentedError(UserError):
    """Things in the code that have no description.

    Args:
        what: their kind, in the plural.
        names: of the things.
        remedy: where to describe them.
    """

    def __init__(self, what: str, names: Sequence[str], remedy: str) -> None:
        super().__init__(f"{what} without a description: {', '.join(names)}; {remedy}")
