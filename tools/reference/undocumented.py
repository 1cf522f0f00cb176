"""What is not documented in the code."""

from __future__ import annotations

from collections.abc import Sequence

from dassl.utils.errors import UserError


def refuse_undocumented(what: str, names: Sequence[str], remedy: str) -> None:
    """Check that no things (`what`) lack a description.

    Raises:
        UserError: some do; their `names` are listed.
    """
    if names:
        raise UserError(f"{what} without a description: {', '.join(names)}; {remedy}")
