"""The writers of arguments: what streams and what waits, and one object in the end."""

import json
from typing import Any

import pytest

from server.chat.tool_values import ArgumentsWriter, value_writer

STRING = {"type": "string"}
MAYBE_STRING = {"type": ["string", "null"]}
INTEGER = {"type": "integer"}
ROOT = {"$defs": {"Name": STRING, "Color": {"enum": ["red", "blue"]}, "Never": False}}


@pytest.mark.parametrize(
    "schema",
    [
        STRING,
        {"enum": ["null", "1"]},
        {"const": "x"},
        {"type": "string", "enum": ["a"]},
        {"$ref": "#/$defs/Name"},
        {"anyOf": [{"$ref": "#/$defs/Name"}, {"$ref": "#/$defs/Color"}]},
        {"$ref": "#/$defs/Never"},
        False,
        None,
    ],
)
def test_what_can_only_be_a_string_streams(schema: object) -> None:
    writer = value_writer(schema, ROOT)
    assert [writer.feed("n"), writer.feed(""), writer.feed('"'), writer.end()] == ['"n', "", '\\"', '"']


@pytest.mark.parametrize(
    "schema",
    [
        MAYBE_STRING,
        {"type": "string", "nullable": True},
        {"enum": ["a", None]},
        {"anyOf": [{"$ref": "#/$defs/Color"}, {"type": "null"}]},
    ],
)
def test_null_waits_only_while_it_could_be(schema: object) -> None:
    writer = value_writer(schema, ROOT)
    assert [writer.feed("nu"), writer.feed("t"), writer.feed("s"), writer.end()] == ["", '"nut', "s", '"']
    writer = value_writer(schema, ROOT)
    assert [writer.feed("nu"), writer.feed("LL"), writer.end()] == ["", "", "null"]
    writer = value_writer(schema, ROOT)
    assert [writer.feed("nu"), writer.end()] == ["", '"nu"']
    writer = value_writer(schema, ROOT)
    assert [writer.feed("a"), writer.feed("null"), writer.end()] == ['"a', "null", '"']


@pytest.mark.parametrize("schema", [INTEGER, {}, True, {"type": ["string", "integer"]}, {"enum": ["a", 1]}])
def test_the_rest_waits_for_its_end(schema: object) -> None:
    writer = value_writer(schema, ROOT)
    assert [writer.feed("1"), writer.feed("2"), writer.end()] == ["", "", "12"]


def test_arguments_are_one_object() -> None:
    assert ArgumentsWriter({}).end() == "{}"
    arguments = ArgumentsWriter({"properties": {"n": INTEGER, "s": STRING}})
    assert (arguments.awaited, arguments.is_declared("n"), arguments.is_declared("x")) == (["n", "s"], True, False)
    fragments = [arguments.start_value("n"), arguments.feed_value("4"), arguments.end_value()]
    fragments += [arguments.start_value('é"'), arguments.feed_value("x"), arguments.end_value(), arguments.end()]
    assert fragments == ['{"n": ', "", "4", ', "é\\"": ', '"x', '"', "}"]
    assert arguments.awaited == ["s"]


def written(parameters: object, **texts: str) -> Any:
    arguments = ArgumentsWriter(parameters)
    parts = [
        part
        for key, text in texts.items()
        for part in (arguments.start_value(key), arguments.feed_value(text), arguments.end_value())
    ]
    return json.loads("".join([*parts, arguments.end()]))


def test_references_point_into_the_whole_schema() -> None:
    parameters = {
        "type": "object",
        "properties": {
            "edit": {"$ref": "#/$defs/Edit"},
            "line": {"anyOf": [{"$ref": "#/definitions/Line"}, {"type": "null"}]},
        },
        "$defs": {"Edit": {"properties": {"next": {"$ref": "#/$defs/Edit"}}}},
        "definitions": {"Line": {"type": "integer"}},
    }
    assert written(parameters, edit='{"next": {}}', line="7") == {"edit": {"next": {}}, "line": 7}
    assert written(parameters, edit="[1]", line="null") == {"edit": "[1]", "line": None}


def test_the_whole_schema_may_be_a_reference() -> None:
    parameters = {"$ref": "#/definitions/Args", "definitions": {"Args": {"properties": {"n": INTEGER}}}}
    assert ArgumentsWriter(parameters).awaited == ["n"]
    assert written(parameters, n="7", other="7") == {"n": 7, "other": "7"}


@pytest.mark.parametrize("parameters", [None, "odd", [], {"properties": ["a"]}, {"$ref": "#"}])
def test_schemas_of_another_shape_declare_nothing(parameters: object) -> None:
    assert ArgumentsWriter(parameters).awaited == []
    assert written(parameters, a="5") == {"a": "5"}
