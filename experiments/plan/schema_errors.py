"""What is wrong with a declaration, in plain words: the place, the mistake and what was probably meant."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from dassl.spelling import nearest_name

_KINDS = {"array": "a list", "object": "a mapping of keys to values", "integer": "a whole number", "string": "a word"}
_SHOWN = 60  # characters of a wrong value


class _Problem(NamedTuple):
    """What a rule of the schema expected, and what is there."""

    expected: Any
    value: Any
    schema: dict[str, Any]
    message: str


def first_problem(schema: dict[str, Any], content: Any) -> str:
    """The first problem of `content` with its place, in one line; empty if there is none.

    Args:
        schema: JSON schema; a `description` next to an `enum` or a `pattern` says what is expected there.
        content: of the file.
    """
    errors = list(Draft202012Validator(schema).iter_errors(content))
    # a misspelled key is the cause of the missing one beside it
    unknown = [error for error in errors if error.validator == "additionalProperties"]
    error = best_match(unknown or errors)
    if error is None:
        return ""
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
    say = _WORDS.get(str(error.validator), _as_the_schema_says)
    rule: Any = error.schema
    said = say(_Problem(error.validator_value, error.instance, rule, error.message))
    return f"{where.lstrip('.')}: {said}" if where else said


def suggestion(name: str, known: Sequence[str]) -> str:
    """The end of an error message about an unknown name: the nearest one, or else all."""
    nearest = nearest_name(name, known)
    return f'did you mean "{nearest}"?' if nearest else f"choose from {', '.join(known)}"


def _unknown_key(problem: _Problem) -> str:
    known = list(problem.schema["properties"])
    key = str(next(key for key in problem.value if key not in known))
    return f'unknown key "{key}"; {suggestion(key, known)}'


def _missing_key(problem: _Problem) -> str:
    missing = next(key for key in problem.expected if key not in problem.value)
    return f'the key "{missing}" is missing'


def _unknown_name(problem: _Problem) -> str:
    if not isinstance(problem.value, str):
        return f"should be the name of {_described(problem)}, {_but_is(problem.value)}"
    return f'"{_cut(problem.value)}" is not {_described(problem)}; {suggestion(problem.value, problem.expected)}'


def _wrong_kind(problem: _Problem) -> str:
    remedy = ""
    if problem.expected == "array" and isinstance(problem.value, (str, int)):
        remedy = f": write [{_cut(str(problem.value))}]"
    return f"should be {_KINDS[problem.expected]}, {_but_is(problem.value)}{remedy}"


def _but_is(value: Any) -> str:
    return "but is empty" if value is None else f"not {_cut(repr(value))}"


def _wrong_word(problem: _Problem) -> str:
    return f'"{_cut(problem.value)}" is not {_described(problem)}'


def _empty(problem: _Problem) -> str:
    return "is empty: name at least one"


def _too_small(problem: _Problem) -> str:
    return f"should be at least {problem.expected}, not {_cut(repr(problem.value))}"


def _too_large(problem: _Problem) -> str:
    return f"should be at most {problem.expected}, not {_cut(repr(problem.value))}"


def _as_the_schema_says(problem: _Problem) -> str:
    return " ".join(problem.message.split())


def _described(problem: _Problem) -> str:
    return problem.schema["description"]


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


_WORDS: dict[str, Callable[[_Problem], str]] = {
    "additionalProperties": _unknown_key,
    "required": _missing_key,
    "enum": _unknown_name,
    "type": _wrong_kind,
    "pattern": _wrong_word,
    "minItems": _empty,
    "minProperties": _empty,
    "minimum": _too_small,
    "maximum": _too_large,
}
