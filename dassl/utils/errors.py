"""Errors that the user can fix: one line that names the thing and the remedy, shown without a traceback."""

from __future__ import annotations

from .safe_text import printable

_MAX_LENGTH = 4000
"""Characters of a message. A wrong name may have a million characters; only both ends are shown."""


def one_line(error: BaseException, longest: int = 200) -> str:
    """The message of an error on one line, cut to `longest` characters; its class if it has no message."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= longest else f"{text[:longest]}..."


class UserError(Exception):
    """Raised with a one-line message. Programs print `error: <message>` to stderr and exit with status 1."""

    def __str__(self) -> str:
        """The message on one line, without hidden characters. (KeyError, a base of some subclasses, shows its repr.)"""
        message = printable(" ".join(" ".join(str(arg) for arg in self.args).splitlines()))
        if len(message) <= _MAX_LENGTH:
            return message
        return f"{message[: _MAX_LENGTH // 2 - 10]} ... {message[-_MAX_LENGTH // 2 + 10 :]}"


class MissingFileError(UserError, FileNotFoundError):
    """A file or folder that is needed does not exist."""


class UnreadableFileError(UserError, OSError):
    """A file exists but does not have the expected content (truncated, damaged, another kind)."""


class UnwritableFileError(UserError, OSError):
    """A file cannot be written: disk full, folder not writable, a file where a folder should be."""


class UnknownNameError(UserError, KeyError, ValueError):
    """A name that is not among the available ones."""


class BadValueError(UserError, ValueError):
    """A configured value that cannot be used."""


class BadTypeError(UserError, TypeError):
    """A configured value of the wrong type."""


class UnknownKeyError(UserError, KeyError):
    """A configuration key that does not exist."""


class MismatchError(UserError, RuntimeError):
    """A checkpoint that does not fit the model, optimiser or scheduler it is loaded into."""
