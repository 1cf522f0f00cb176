"""What is not documented in the code."""

from __future__ import annotations

from collections.abc import Sequence

from dassl.utils.errors import UserError


class UndocumentedError(UserError):
    """Something in the code has no description."""


def refuse_undocumented(what: str, names: Sequence[str], remedy: str) -> None:
    """Raise UndocumentedError for things (`what`) without a description, if there are any."""
    if names:
        raise UndocumentedError(f"{what} without a description: {', '.join(names)}; {remedy}")
