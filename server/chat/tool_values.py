"""A tool argument's value: from the bare text the model writes to JSON, as the tool's schema asks.

Lives here: one writer per kind of value, fed the value's text and returning JSON text. It may not know the markup
around the value, nor how types are read from a schema (`schema_types`) or a whole text is converted (`coercion`).

In the model's format every value arrives as unquoted text, so only the schema tells "5" from 5. A string, an enum of
strings, or an undeclared parameter streams as it comes. Anything else waits for its end and then goes down a ladder of
the types that the schema admits, and the first that the text fits is taken:

1. a member of an enum that is written just like the text;
2. null: `null` in any case; also where only other types than a string are admitted, as clients take it for absent;
3. integer, number: 5.0 is the integer 5; what JSON has no number for is none;
4. boolean: `true` or `false` in any case, and nothing else;
5. object, array: JSON as written, else a Python literal, else either of them inside a JSON string;
6. the string it is, whether the schema admits one or not, for the client to report back.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from server.chat.coercion import coerced, to_json
from server.chat.schema_types import Types, choices_of, resolve, types_of
from server.chat.whole_schema import Unclear, whole_schema


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
        return quote + to_json(text)[1:-1]

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

    def __init__(self, types: Types, choices: Sequence[Any] = ()) -> None:
        self._types = types
        self._choices = choices
        self._texts: list[str] = []

    def feed(self, text: str) -> str:
        """Nothing yet."""
        self._texts.append(text)
        return ""

    def end(self) -> str:
        """The value as JSON."""
        return coerced("".join(self._texts), self._types, self._choices)


class ArgumentsWriter:
    """The JSON object of one call's arguments, value by value, in fragments."""

    def __init__(self, parameters: object) -> None:
        """`parameters` is the schema of the tool's arguments; one of another shape declares none."""
        self._parameters = parameters
        try:
            found = whole_schema(parameters, parameters)
        except Unclear:
            found = resolve(parameters, parameters)
        whole = found if isinstance(found, Mapping) else {}
        properties, others = whole.get("properties"), whole.get("additionalProperties")
        self._properties: Mapping[str, Any] = properties if isinstance(properties, Mapping) else {}
        self._others = others if isinstance(others, Mapping) else None  # the schema of those not declared
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
        self._value = value_writer(self._properties.get(key, self._others), self._parameters)
        return f"{before}{to_json(key)}: "

    def feed_value(self, text: str) -> str:
        """More of the value's text."""
        return self._value.feed(text)

    def end_value(self) -> str:
        """The value is complete."""
        return self._value.end()

    def end(self) -> str:
        """The object is complete."""
        return "}" if self._given else "{}"


def value_writer(schema: object, root: object) -> ValueWriter:
    """The writer for a parameter of this schema, whose references point into `root`; None is an undeclared one."""
    types = types_of(schema, root)
    if schema is None or types <= {"string"}:
        return StringWriter()
    if types == {"string", "null"}:
        return NullableStringWriter()
    return TypedWriter(types, choices_of(schema, root))
