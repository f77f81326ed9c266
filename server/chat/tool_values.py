"""A tool argument's value: from the bare text the model writes to JSON, as the tool's schema asks.

Lives here: one writer per kind of value, fed the value's text and returning JSON text. It may not know the markup
around the value. In the model's format every value arrives as unquoted text, so only the schema tells "5" from 5:

* a string, an enum of strings, or an undeclared parameter: the text as it stands, streamed as it comes;
* `null` in any case is null, unless the schema asks for a string and not for null;
* integer, number: converted; text that does not fit goes out as a string, for the client to report back;
* boolean: true if the text says so in any case, else false;
* object, array, and what names no type: JSON if it is JSON, else a Python literal, else a string.
"""

import ast
import json
from collections.abc import Mapping
from typing import Any, Protocol

_STRINGS = frozenset({"string", "str", "text", "varchar", "char", "enum"})
_INTEGERS = ("int", "uint", "long", "short", "unsigned")
_NUMBERS = ("num", "float", "double")
_BOOLEANS = frozenset({"boolean", "bool", "binary"})
_SCALARS = frozenset({"string", "integer", "number", "boolean", "null"})


class ValueWriter(Protocol):
    """Writes one value. The fragments joined, the last one from `end`, are one JSON value."""

    def feed(self, text: str) -> str:
        """More of the value's text."""
        ...

    def end(self) -> str:
        """The text is complete."""
        ...


class StringWriter:
    """A JSON string, escaped on the fly."""

    def __init__(self) -> None:
        self._opened = False

    def feed(self, text: str) -> str:
        """The text escaped, after the opening quote the first time."""
        if not text:
            return ""
        quote = "" if self._opened else '"'
        self._opened = True
        return quote + _to_json(text)[1:-1]

    def end(self) -> str:
        """The closing quote."""
        return '"' if self._opened else '""'


class NullableStringWriter:
    """A string, or null when the whole text is `null`: waits only while it could still be."""

    def __init__(self) -> None:
        self._string = StringWriter()
        self._held: str | None = ""

    def feed(self, text: str) -> str:
        """Nothing while the text so far begins `null`, then as a string."""
        if self._held is None:
            return self._string.feed(text)
        self._held += text
        if "null".startswith(self._held.lower()):
            return ""
        held, self._held = self._held, None
        return self._string.feed(held)

    def end(self) -> str:
        """`null`, or the rest of the string."""
        if self._held is not None and self._held.lower() == "null":
            return "null"
        return self._string.feed(self._held or "") + self._string.end()


class TypedWriter:
    """Anything that can be read only when it is complete."""

    def __init__(self, kinds: frozenset[str]) -> None:
        self._kinds = kinds
        self._texts: list[str] = []

    def feed(self, text: str) -> str:
        """Nothing yet."""
        self._texts.append(text)
        return ""

    def end(self) -> str:
        """The value as JSON."""
        return _convert("".join(self._texts), self._kinds)


class ArgumentsWriter:
    """The JSON object of one call's arguments, value by value, in fragments."""

    def __init__(self, properties: Mapping[str, Any]) -> None:
        """`properties` are the schemas of the declared parameters, by name."""
        self._properties = properties
        self._given: set[str] = set()
        self._value: ValueWriter = StringWriter()

    def is_declared(self, key: str) -> bool:
        """Whether the schema names this parameter."""
        return key in self._properties

    @property
    def awaited(self) -> list[str]:
        """The declared parameters that have no value yet."""
        return [key for key in self._properties if key not in self._given]

    def start_value(self, key: str) -> str:
        """The key, and what stands before it."""
        before = ", " if self._given else "{"
        self._given.add(key)
        self._value = value_writer(self._properties.get(key))
        return f"{before}{_to_json(key)}: "

    def feed_value(self, text: str) -> str:
        """More of the value's text."""
        return self._value.feed(text)

    def end_value(self) -> str:
        """The value is complete."""
        return self._value.end()

    def end(self) -> str:
        """The object is complete."""
        return "}" if self._given else "{}"


def value_writer(schema: object) -> ValueWriter:
    """The writer for a parameter of this schema; None is an undeclared parameter."""
    if not isinstance(schema, Mapping):
        return StringWriter()
    kinds = _kinds(schema)
    if kinds == {"string"}:
        return StringWriter()
    if kinds == {"string", "null"}:
        return NullableStringWriter()
    return TypedWriter(kinds)


def _kinds(schema: Mapping[str, Any]) -> frozenset[str]:
    """The JSON types the schema allows, in one spelling; empty for anything."""
    declared = schema.get("type")
    branches = schema.get("anyOf") or schema.get("oneOf")
    if declared is None and isinstance(branches, list):
        kinds = [_kinds(branch) if isinstance(branch, Mapping) else frozenset[str]() for branch in branches]
        return frozenset().union(*kinds) if all(kinds) else frozenset()
    if declared is None:
        choices = schema.get("enum")
        only_strings = isinstance(choices, list) and all(isinstance(choice, str) for choice in choices)
        return frozenset({"string"}) if only_strings else frozenset()
    names = declared if isinstance(declared, list) else [declared]
    return frozenset(_kind(str(name).strip().lower()) for name in names)


def _kind(name: str) -> str:
    if name in _STRINGS:
        return "string"
    if name.startswith(_INTEGERS):
        return "integer"
    if name.startswith(_NUMBERS):
        return "number"
    return "boolean" if name in _BOOLEANS else name


def _convert(text: str, kinds: frozenset[str]) -> str:
    stripped = text.strip()
    if stripped.lower() == "null" and ("null" in kinds or "string" not in kinds):
        return "null"
    if kinds & {"integer", "number"}:
        number = _number(stripped, whole="number" not in kinds)
        if number is not None:
            return number
    if "boolean" in kinds and (kinds <= {"boolean", "null"} or stripped.lower() in ("true", "false")):
        return "true" if stripped.lower() == "true" else "false"
    if not kinds or kinds - _SCALARS:
        return _json_or_literal(stripped) or _to_json(text)
    return _to_json(text)


def _number(text: str, whole: bool) -> str | None:
    """The number as JSON: 5.0 as 5, None for what is no number (or none that JSON has)."""
    try:
        return str(int(text))
    except ValueError:
        pass
    try:
        value = float(text)
        if value.is_integer():
            return str(int(value))
        return None if whole else json.dumps(value, allow_nan=False)
    except (ValueError, OverflowError):
        return None


def _json_or_literal(text: str) -> str | None:
    try:
        json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return _literal(text)
    return text  # as written: digits and key order stay


def _literal(text: str) -> str | None:
    """Python's spelling of the same values: single quotes, None, True, tuples."""
    try:
        return json.dumps(ast.literal_eval(text), ensure_ascii=False, allow_nan=False)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _to_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
