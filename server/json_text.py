"""JSON as it goes out: compact, UTF-8, on one line for every reader; and what of a model's own JSON can go out so.

Knows values, no dialect.
"""

import json
import math
from typing import Any, NoReturn

from starlette.responses import Response

_JSON = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_SEPARATORS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}

_LEAST_LOGPROB = -9999.0  # JSON has no infinity
MAX_DEPTH = 512  # of an object inside an answer: Python writes less than 1000 levels, its own calls among them


def to_json(value: Any) -> bytes:
    """Compact UTF-8, on one line for every reader: some end lines at Unicode's separators too, inside an event."""
    text = _JSON.encode(value)
    return text.encode() if text.isascii() else text.translate(_SEPARATORS).encode("utf-8", "backslashreplace")


def readable_logprob(value: float) -> float:
    """A number that JSON can carry."""
    return max(value, _LEAST_LOGPROB)


def json_response(value: Any, status: int = 200) -> Response:
    """A whole answer."""
    return Response(to_json(value), status, media_type="application/json")


def object_of(text: str) -> dict[str, Any] | None:
    """The object in JSON that a model wrote, for an answer in which it stands as such.

    None for anything else, and for what could not be written again: numbers that no double holds, values too deep.
    """
    try:
        value = json.loads(text, parse_constant=_refuse, parse_float=finite)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) and depth_of(value) <= MAX_DEPTH else None


def finite(digits: str) -> float:
    """A number with a point or an exponent. Raises `ValueError` for one that no double holds."""
    value = float(digits)
    return value if math.isfinite(value) else _refuse(digits)


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name[:80]} is no number of JSON that a double holds")


def depth_of(value: Any) -> int:
    """How many levels of objects and lists there are."""
    depth, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return depth


class TextTemplate:
    """The JSON of an object in which one text changes from event to event; where it goes, the object has `PLACE`."""

    PLACE = "\0"

    def __init__(self, value: Any) -> None:
        self._before, self._after = to_json(value).split(to_json(self.PLACE))

    def fill(self, text: str) -> bytes:
        """The JSON with this text."""
        return self._before + to_json(text) + self._after
