"""What is wrong with a declaration, in plain words: the place, the mistake and what was probably meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.exceptions import best_match

from dassl.spelling import nearest_name

_KINDS = {"array": "a list", "object": "a mapping of keys to values", "integer": "a whole number", "string": "a word"}
_SHOWN = 60  # characters of a wrong value


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
    said = _in_words(error)
    return f"{where.lstrip('.')}: {said}" if where else said


def suggestion(name: str, known: Sequence[str]) -> str:
    """The end of an error message about an unknown name: the nearest one, or else all."""
    nearest = nearest_name(name, known)
    return f'did you mean "{nearest}"?' if nearest else f"choose from {', '.join(known)}"


def _in_words(error: ValidationError) -> str:
    rule: Any = error.schema
    expected: Any = error.validator_value
    value: Any = error.instance
    match error.validator:
        case "additionalProperties":
            known = list(rule["properties"])
            key = str(next(key for key in value if key not in known))
            return f'unknown key "{key}"; {suggestion(key, known)}'
        case "required":
            return f'the key "{next(key for key in expected if key not in value)}" is missing'
        case "enum" if isinstance(value, str):
            return f'"{_cut(value)}" is not {rule["description"]}; {suggestion(value, expected)}'
        case "enum":
            return f"should be the name of {rule['description']}, {_but_is(value)}"
        case "type":
            remedy = f": write [{_cut(str(value))}]" if expected == "array" and isinstance(value, (str, int)) else ""
            return f"should be {_KINDS[expected]}, {_but_is(value)}{remedy}"
        case "pattern":
            return f'"{_cut(value)}" is not {rule["description"]}'
        case "minItems" | "minProperties":
            return "is empty: name at least one"
        case "minimum":
            return f"should be at least {expected}, not {_cut(repr(value))}"
        case "maximum":
            return f"should be at most {expected}, not {_cut(repr(value))}"
    return " ".join(error.message.split())


def _but_is(value: Any) -> str:
    return "but is empty" if value is None else f"not {_cut(repr(value))}"


def _cut(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
