"""pydantic's findings in plain words: one sentence that names the place and says what is allowed there.

Shared by the options and by every dialect's schema. Knows neither.
"""

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_PREFIXES = (("Input should be", "must be"), ("Input should have", "must have"), ("Value error, ", ""))


def describe(error: ErrorDetails) -> str:
    """What is wrong with one value, as the end of a sentence that its name begins: "must be at most 5"."""
    match error["type"]:
        case "missing":
            return "is required"
        case "literal_error":
            return f"must be one of {error['ctx']['expected'].replace(' or ', ', ')}"
        case "int_parsing" | "int_type" | "int_from_float":
            return "must be a whole number"
        case "float_parsing" | "float_type":
            return "must be a number"
        case "bool_parsing" | "bool_type":
            return "must be true or false"
        case "model_type" | "dict_type":
            return "must be an object"
        case "tuple_type" | "list_type":
            return "must be a list"
        case "string_type":
            return "must be text"
        case "extra_forbidden":
            return "is not known here"
        case "too_long" | "too_short":
            return _describe_length(error)
    message = error["msg"]
    for prefix, plain in _PREFIXES:
        if message.startswith(prefix):
            return plain + message.removeprefix(prefix)
    return f"is not valid: {message}"


def _describe_length(error: ErrorDetails) -> str:
    context = error["ctx"]
    if error["type"] == "too_long":
        return f"must have at most {context['max_length']} entries, not {context['actual_length']}"
    return f"must have at least {context['min_length']} entries"


def path_of(location: Sequence[int | str]) -> str:
    """A JSON path like `messages[2].role`."""
    parts = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in location if step != "[key]")
    return "".join(parts).removeprefix(".")


def first_problem(error: ValidationError) -> tuple[str, str]:
    """The first finding as (path, sentence)."""
    found = error.errors(include_url=False)[0]
    path = path_of(found["loc"])
    return path, f"{path} {describe(found)}{_shown(found['input'])}."


def _shown(value: Any) -> str:
    return f", not {shorten(value)}" if isinstance(value, bool | int | float | str) else ""


def shorten(value: object) -> str:
    """A client's value as an error message may repeat it."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
