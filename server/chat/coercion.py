"""The bare text of a value to JSON of a type that the schema admits.

Lives here: the ladder, one function a rung, each of which gives JSON or None; what no rung takes is the string it is.
It may not know schemas, only the types and choices they come to, nor that values arrive in portions. Never raises, and
what it gives is always JSON that can be sent: no NaN, no number that a double cannot hold, no half of a surrogate pair.
"""

import ast
import json
import math
import re
import warnings
from collections.abc import Sequence
from typing import Any

from server.chat.schema_types import ANYTHING, Types, json_type

_STRUCTURES = frozenset({"object", "array"})
_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_LOOSE_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


def coerced(text: str, types: Types, choices: Sequence[Any] = ()) -> str:
    """The value as JSON. `choices` are the members of an enum, as far as there is one."""
    bare = text.strip()
    return (
        _choice(text, bare, [choice for choice in choices if json_type(choice) in types])
        or _null(bare, types)
        or _number(bare, types)
        or _boolean(bare, types)
        or _structure(bare, types)
        or to_json(text)
    )


def to_json(text: str) -> str:
    """A string as JSON."""
    return json.dumps(text, ensure_ascii=False)


def _choice(text: str, bare: str, choices: Sequence[Any]) -> str | None:
    """A member whose JSON is the text, or else one that is the text."""
    if any(bare == _dumped(choice) for choice in choices):
        return bare
    return next((to_json(choice) for choice in choices if isinstance(choice, str) and choice in (text, bare)), None)


def _null(bare: str, types: Types) -> str | None:
    """Null also where neither it nor a string is admitted: to clients it means that nothing was given."""
    if bare.lower() == "null" and ("null" in types or "string" not in types):
        return "null"
    means_it = "null" in types and ("string" not in types or types == ANYTHING)
    return "null" if bare == "None" and means_it else None


def _number(bare: str, types: Types) -> str | None:
    """5.0 as 5. Where a string is admitted too, only what JSON calls a number: "007" and "+49" may be names."""
    pattern = _JSON_NUMBER if "string" in types else _LOOSE_NUMBER
    if "integer" not in types or not pattern.fullmatch(bare):
        return None
    value = float(bare)
    if not value.is_integer():
        return _dumped(value) if "number" in types else None
    try:
        return str(int(bare))
    except ValueError:  # a point, an exponent, or thousands of zeros
        return str(int(value))


def _boolean(bare: str, types: Types) -> str | None:
    lowered = bare.lower()
    return lowered if "boolean" in types and lowered in ("true", "false") else None


def _structure(bare: str, types: Types, unwrap: bool = True) -> str | None:
    """JSON as written, digits and key order too, or a Python literal; once from within a string that is not wanted."""
    found = (_read_json(bare) or _read_literal(bare, types)) if types & _STRUCTURES else None
    if found is None:
        return None
    value, written = found
    if json_type(value) in types:
        return written if _is_unicode(written) else None
    return _structure(value.strip(), types, unwrap=False) if unwrap and isinstance(value, str) else None


def _read_json(bare: str) -> tuple[Any, str] | None:
    try:
        return json.loads(bare, parse_constant=_refused, parse_float=_finite, parse_int=_finite_integer), bare
    except (ValueError, RecursionError):
        return None


def _read_literal(bare: str, types: Types) -> tuple[Any, str] | None:
    """Python's spelling of the same values: single quotes, None, True, tuples.

    Where a string is admitted, only what stands in brackets: prose with quotes is no literal.
    """
    if "string" in types and not bare.startswith(("[", "{", "(")):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the model's escapes, which are none of the operator's business
            value = ast.literal_eval(bare)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    if "string" in types and not isinstance(value, dict | list | tuple):
        return None
    written = _dumped(value)
    return None if written is None else _read_json(written)


def _dumped(value: Any) -> str | None:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return None


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is more than a double holds")
    return value


def _finite_integer(digits: str) -> int:
    _finite(digits)
    return int(digits)


def _refused(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _is_unicode(written: str) -> bool:
    """Whether it can be sent: a literal's escapes may leave half of a surrogate pair."""
    try:
        written.encode()
    except UnicodeEncodeError:
        return False
    return True
