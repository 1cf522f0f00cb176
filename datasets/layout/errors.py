"""Errors about data sets on disk; every message is one line with the file and the remedy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from dassl.utils import MissingFileError, UserError


class MissingDataError(MissingFileError):
    """A file or folder of a data set is missing.

    Args:
        files: all missing files; the message names only the first.
    """

    def __init__(self, message: str, files: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.files = files


class BadDataError(UserError, ValueError):
    """The content of a data set's file is wrong."""


class Remedy(NamedTuple):
    """What to do about missing and about wrong data."""

    missing: str
    bad: str


@contextmanager
def with_remedy(name: str, remedy: Remedy) -> Iterator[None]:
    """Start the message of a data error with the data set's name and end it with the remedy."""
    try:
        yield
    except MissingDataError as error:
        raise MissingDataError(f"{name}: {error}; {remedy.missing}", error.files) from None
    except BadDataError as error:
        raise BadDataError(f"{name}: {error}; {remedy.bad}") from None
