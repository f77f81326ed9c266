"""Argument values: what the schema makes of bare text, and JSON that is whole however the text comes."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.chat.tool_values import ArgumentsWriter, value_writer

STRING = {"type": "string"}
MAYBE_STRING = {"type": ["string", "null"]}
OPTIONAL_STRING = {"anyOf": [{"type": "string"}, {"type": "null"}]}
INTEGER = {"type": "integer"}
NUMBER = {"type": "number"}
BOOLEAN = {"type": "boolean"}
OBJECT = {"type": "object"}


def write(schema: object, *portions: str) -> Any:
    writer = value_writer(schema)
    fragments = [writer.feed(portion) for portion in portions]
    return json.loads("".join([*fragments, writer.end()]))


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (STRING, "5", "5"),
        (STRING, "null", "null"),
        (STRING, "", ""),
        (STRING, 'a"\\\n\x00é🙂</x>', 'a"\\\n\x00é🙂</x>'),
        ({"type": "str"}, "1", "1"),
        ({"enum": ["1", "2"]}, "1", "1"),
        ({"enum": [1, 2]}, "1", 1),
        (None, "5", "5"),
        (None, "null", "null"),
        ("odd schema", "x", "x"),
        (MAYBE_STRING, "null", None),
        (MAYBE_STRING, "NULL", None),
        (MAYBE_STRING, "nul", "nul"),
        (MAYBE_STRING, "nullable", "nullable"),
        (MAYBE_STRING, "", ""),
        (OPTIONAL_STRING, "123", "123"),
        (OPTIONAL_STRING, "null", None),
        (INTEGER, "5", 5),
        (INTEGER, " -7\n", -7),
        (INTEGER, "5.0", 5),
        (INTEGER, "five", "five"),
        (INTEGER, "5.5", "5.5"),
        (INTEGER, "12345678901234567890", 12345678901234567890),
        (INTEGER, "null", None),
        ({"type": "int32"}, "3", 3),
        ({"type": ["integer", "null"]}, "3", 3),
        ({"type": ["integer", "string"]}, "three", "three"),
        ({"type": ["integer", "string"]}, "null", "null"),
        (NUMBER, "1.5", 1.5),
        (NUMBER, "2.0", 2),
        (NUMBER, "1e400", "1e400"),
        (NUMBER, "nan", "nan"),
        (NUMBER, "9" * 5000, "9" * 5000),
        (BOOLEAN, "True", True),
        (BOOLEAN, "false", False),
        (BOOLEAN, "yes", False),
        (BOOLEAN, "None", False),
        ({"type": ["boolean", "string"]}, "maybe", "maybe"),
        (OBJECT, '{"a": [1, null]}', {"a": [1, None]}),
        (OBJECT, "{'a': (1, None, True)}", {"a": [1, None, True]}),
        (OBJECT, "{broken", "{broken"),
        (OBJECT, "NaN", "NaN"),
        (OBJECT, "{1, 2}", "{1, 2}"),
        (OBJECT, "[" * 100_000, "[" * 100_000),
        (OBJECT, "null", None),
        ({"type": "array"}, "[1]", [1]),
        ({}, "12", 12),
        ({}, "plain words", "plain words"),
        ({"anyOf": [{"$ref": "#/x"}, {"type": "null"}]}, '{"a": 1}', {"a": 1}),
        ({"anyOf": "odd"}, "x", "x"),
        ({"type": 5}, "[1]", [1]),
    ],
)
def test_follows_the_schema(schema: object, text: str, value: object) -> None:
    got = write(schema, text)
    assert got == value
    assert type(got) is type(value)
    assert write(schema, *text[:200], text[200:]) == value


@settings(deadline=None)
@given(
    st.sampled_from([STRING, MAYBE_STRING, INTEGER, NUMBER, BOOLEAN, OBJECT, {}, {"type": ["string", "integer"]}]),
    st.one_of(st.text(), st.text(alphabet="nulNUL0123456789.-+e_{}[]'\",: ")),
)
def test_always_writes_json(schema: object, text: str) -> None:
    assert write(schema, text) == write(schema, *text)


def test_strings_stream_and_null_waits() -> None:
    writer = value_writer(STRING)
    assert [writer.feed("a"), writer.feed(""), writer.feed('"'), writer.end()] == ['"a', "", '\\"', '"']
    writer = value_writer(MAYBE_STRING)
    assert [writer.feed("nu"), writer.feed("t"), writer.feed("s"), writer.end()] == ["", '"nut', "s", '"']


def test_arguments_are_one_object() -> None:
    assert ArgumentsWriter({}).end() == "{}"
    arguments = ArgumentsWriter({"n": INTEGER, "s": STRING})
    assert (arguments.awaited, arguments.is_declared("n"), arguments.is_declared("x")) == (["n", "s"], True, False)
    fragments = [arguments.start_value("n"), arguments.feed_value("4"), arguments.end_value()]
    fragments += [arguments.start_value('é"'), arguments.feed_value("x"), arguments.end_value(), arguments.end()]
    assert fragments == ['{"n": ', "", "4", ', "é\\"": ', '"x', '"', "}"]
    assert arguments.awaited == ["s"]
