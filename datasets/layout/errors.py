"""What can be wrong with a data set on disk; every message is one line that names the thing and the remedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from dassl.utils import MissingFileError, UserError


class MissingDataError(MissingFileError):
    """A file or folder that a data set needs is not there.

    Args:
        files: all missing files, where the message names only the first.
    """

    def __init__(self, message: str, files: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.files = files


class BadDataError(UserError, ValueError):
    """A file of a data set is there, but its content cannot be used."""


class Remedy(NamedTuple):
    """What to do when something is missing, and when something is wrong."""

    missing: str
    bad: str


@contextmanager
def with_remedy(name: str, remedy: Remedy) -> Iterator[None]:
    """Open the message of a data error with the data set's name and close it with the remedy."""
    try:
        yield
    except MissingDataError as error:
        raise MissingDataError(f"{name}: {error}; {remedy.missing}", error.files) from None
    except BadDataError as error:
        raise BadDataError(f"{name}: {error}; {remedy.bad}") from None
