"""JSON with comments and trailing commas, as editors write it, read together with where every value stands.

Knows nothing of changing it.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any

_BETWEEN = re.compile(r"(?:[\s\ufeff]|//[^\n]*|/\*.*?\*/)*", re.DOTALL)
_SCALAR = re.compile(r'"|-?\d|true\b|false\b|null\b')
_DECODER = json.JSONDecoder()


@dataclass(slots=True)
class Node:
    """A value, from the place `start` to just before `end`; its parts, if it is an object or a list.

    `part_end` is where the last part ends, `comma` whether a comma follows that one.
    """

    start: int
    end: int = 0
    value: Any = None
    members: dict[str, "Node"] = field(default_factory=dict)
    items: list["Node"] = field(default_factory=list)
    part_end: int | None = None
    comma: bool = False


def is_blank(text: str) -> bool:
    """Whether there is nothing but space and comments."""
    return _after(text, 0) == len(text)


def read(text: str) -> Node:
    """The value of a text. Raises `ValueError`, with a reason and a line."""
    try:
        node = _read_value(text, _after(text, 0))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if _after(text, node.end) != len(text):
        raise _error(text, node.end, "something follows the value")
    return node


def _after(text: str, place: int) -> int:
    """The next place that is neither space nor comment."""
    match = _BETWEEN.match(text, place)
    return match.end() if match else place


def _error(text: str, place: int, what: str) -> ValueError:
    return ValueError(f"{what} in line {text.count(chr(10), 0, place) + 1}")


def _read_value(text: str, place: int) -> Node:
    if text[place : place + 1] in ("{", "["):
        return _read_parts(text, Node(place))
    if not _SCALAR.match(text, place):
        raise _error(text, place, "a value is missing")
    try:
        value, end = _DECODER.raw_decode(text, place)
    except json.JSONDecodeError as error:
        raise _error(text, error.pos, error.msg) from None
    return Node(place, end, value)


def _read_parts(text: str, node: Node) -> Node:
    """An object or a list, from its opening bracket on."""
    is_object = text[node.start] == "{"
    close = "}" if is_object else "]"
    place = _after(text, node.start + 1)
    while text[place : place + 1] != close:
        if node.part_end is not None and not node.comma:
            raise _error(text, place, f"a comma or {close} is missing")
        if is_object:
            name, place = _read_name(text, place)
            part = node.members[name] = _read_value(text, place)
        else:
            part = _read_value(text, place)
            node.items.append(part)
        node.part_end = part.end
        place = _after(text, part.end)
        node.comma = text[place : place + 1] == ","
        if node.comma:
            place = _after(text, place + 1)
    node.end = place + 1
    if is_object:
        node.value = {name: part.value for name, part in node.members.items()}
    else:
        node.value = [part.value for part in node.items]
    return node


def _read_name(text: str, place: int) -> tuple[str, int]:
    """A member's name, and where its value begins."""
    name = _read_value(text, place)
    colon = _after(text, name.end)
    if not isinstance(name.value, str) or text[colon : colon + 1] != ":":
        raise _error(text, place, "a name and a colon are missing")
    return name.value, _after(text, colon + 1)
