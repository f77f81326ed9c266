"""The types a schema admits, the values it names, and where its references lead."""

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.chat.schema_types import ANYTHING, choices_of, json_type, resolve, types_of

NUMBER = {"integer", "number"}
ROOT: dict[str, Any] = {
    "$defs": {
        "Name": {"type": "string"},
        "Alias": {"$ref": "#/$defs/Name"},
        "Mode": {"enum": ["fast", 1, None]},
        "Node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}},
        "Loop": {"$ref": "#/$defs/Loop"},
        "Ping": {"$ref": "#/$defs/Pong"},
        "Pong": {"$ref": "#/$defs/Ping"},
        "Never": False,
        "a/b~c d": {"type": "boolean"},
        "Text": "not a schema",
        "Tree": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#/$defs/Tree"}}]},
    },
    "definitions": {"Count": {"type": "integer"}},
    "anyOf": [{"type": "null"}, {"type": "array"}],
    "type": "object",
}


@pytest.mark.parametrize(
    ("schema", "types"),
    [
        ({"type": "string"}, {"string"}),
        ({"type": " String "}, {"string"}),
        ({"type": "integer"}, {"integer"}),
        ({"type": "number"}, NUMBER),
        ({"type": "null"}, {"null"}),
        ({"type": "None"}, {"null"}),
        ({"type": "object"}, {"object"}),
        ({"type": "varchar"}, {"string"}),
        ({"type": "uint8"}, {"integer"}),
        ({"type": "double"}, NUMBER),
        ({"type": "bool"}, {"boolean"}),
        ({"type": "dict[str, int]"}, {"object"}),
        ({"type": "list[str]"}, {"array"}),
        ({"type": "any"}, ANYTHING),
        ({"type": 5}, ANYTHING),
        ({"type": None}, ANYTHING),
        ({"type": []}, ANYTHING),
        ({"type": ["string", "null"]}, {"string", "null"}),
        ({"type": ["integer", "whatever"]}, ANYTHING),
        ({}, ANYTHING),
        (True, ANYTHING),
        (False, set()),
        (None, ANYTHING),
        ("string", ANYTHING),
        ({"enum": ["a", "b"]}, {"string"}),
        ({"enum": [1, 2]}, {"integer"}),
        ({"enum": [1.5]}, NUMBER),
        ({"enum": [True, None, [], {}]}, {"boolean", "null", "array", "object"}),
        ({"enum": []}, ANYTHING),
        ({"enum": "ab"}, ANYTHING),
        ({"type": "string", "enum": ["a", None]}, {"string"}),
        ({"type": "string", "enum": [1]}, set()),
        ({"const": None}, {"null"}),
        ({"const": 5}, {"integer"}),
        ({"const": False}, {"boolean"}),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, {"string", "null"}),
        ({"oneOf": [{"type": "integer"}, {"const": "auto"}]}, {"integer", "string"}),
        ({"anyOf": [{"type": "string"}, {}]}, ANYTHING),
        ({"anyOf": [{"type": "string"}, False]}, {"string"}),
        ({"anyOf": ["odd", {"type": "string"}]}, ANYTHING),
        ({"anyOf": []}, ANYTHING),
        ({"anyOf": "odd"}, ANYTHING),
        ({"type": "string", "anyOf": [{"minLength": 1}, {"type": "null"}]}, {"string"}),
        ({"allOf": [{"type": "number"}, {"type": "integer"}]}, {"integer"}),
        ({"allOf": [{"type": ["string", "number"]}, {"type": ["integer", "null"]}]}, {"integer"}),
        ({"allOf": [{"type": "string"}, {"type": "array"}]}, set()),
        ({"allOf": [{"$ref": "#/$defs/Node"}, {"properties": {"x": {}}}]}, {"object"}),
        ({"allOf": [{"description": "said twice"}, {"type": "boolean"}]}, {"boolean"}),
        ({"properties": {"a": {"type": "string"}}}, {"object"}),
        ({"patternProperties": {}}, {"object"}),
        ({"items": {"type": "string"}}, {"array"}),
        ({"prefixItems": []}, {"array"}),
        ({"properties": {}, "items": {}}, {"object", "array"}),
        ({"type": "string", "properties": {}}, {"string"}),
        ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}], "properties": {}}, {"object"}),
        ({"type": "string", "nullable": True}, {"string", "null"}),
        ({"type": "string", "nullable": "yes"}, {"string"}),
        ({"type": "string", "enum": ["a"], "nullable": True}, {"string", "null"}),
        ({"allOf": [{"$ref": "#/$defs/Name"}], "nullable": True}, {"string", "null"}),
        ({"$ref": "#/$defs/Name"}, {"string"}),
        ({"$ref": "#/$defs/Alias"}, {"string"}),
        ({"$ref": "#/definitions/Count"}, {"integer"}),
        ({"$ref": "#/$defs/Mode"}, {"string", "integer", "null"}),
        ({"$ref": "#/$defs/Mode", "type": "string"}, {"string"}),
        ({"$ref": "#/$defs/Name", "nullable": True}, {"string", "null"}),
        ({"$ref": "#/$defs/Node"}, {"object"}),
        ({"$ref": "#/$defs/Node/properties/next"}, {"object"}),
        ({"$ref": "#/$defs/Tree"}, {"integer", "array"}),
        ({"$ref": "#/$defs/a~1b~0c%20d"}, {"boolean"}),
        ({"$ref": "#/anyOf/1"}, {"array"}),
        ({"$ref": "#/anyOf/2"}, ANYTHING),
        ({"$ref": "#/anyOf/-1"}, ANYTHING),
        ({"$ref": "#/anyOf/" + "9" * 5000}, ANYTHING),
        ({"$ref": "#/$defs/Never"}, set()),
        ({"$ref": "#/$defs/Loop"}, ANYTHING),
        ({"$ref": "#/$defs/Ping", "type": "string"}, {"string"}),
        ({"$ref": "#/$defs/Missing"}, ANYTHING),
        ({"$ref": "#/$defs/Text"}, ANYTHING),
        ({"$ref": "#name"}, ANYTHING),
        ({"$ref": "https://example.com/schema.json#/$defs/Name"}, ANYTHING),
        ({"$ref": 5}, ANYTHING),
        ({"anyOf": [{"$ref": "#/$defs/Name"}, {"type": "null"}]}, {"string", "null"}),
    ],
)
def test_types(schema: object, types: set[str]) -> None:
    assert types_of(schema, ROOT) == types


def test_the_whole_document_is_a_reference_too() -> None:
    assert types_of({"$ref": "#"}, {"type": "array", "items": {"$ref": "#"}}) == {"array"}
    assert types_of({"$ref": "#"}, {"$ref": "#"}) == ANYTHING
    assert types_of({"$ref": "#"}, "no document") == ANYTHING


def test_resolve_gives_the_schema_at_the_end() -> None:
    assert resolve({"$ref": "#/$defs/Alias", "description": "d"}, ROOT) == {"type": "string"}
    assert resolve({"type": "integer"}, ROOT) == {"type": "integer"}
    assert resolve({"$ref": "#/$defs/Never"}, ROOT) is False
    for nowhere in ("Loop", "Ping", "Missing", "Text"):
        assert resolve({"$ref": f"#/$defs/{nowhere}"}, ROOT) is True


def test_choices_are_found_in_branches_and_behind_references() -> None:
    schema = {"anyOf": [{"$ref": "#/$defs/Mode"}, {"const": True}, {"allOf": [{"enum": [2]}]}, {"type": "string"}]}
    assert choices_of(schema, ROOT) == ("fast", 1, None, True, 2)
    assert choices_of({"$ref": "#/$defs/Ping"}, ROOT) == ()
    assert choices_of({"enum": "odd"}, ROOT) == choices_of(True, ROOT) == ()


def test_types_of_values() -> None:
    values = [None, True, 1, 1.0, "", {}, []]
    assert [json_type(value) for value in values] == [
        "null", "boolean", "integer", "number", "string", "object", "array",
    ]  # fmt: skip


def test_schemas_that_double_back_are_read_once() -> None:
    doubling = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(24)}
    wide: dict[str, Any] = {"anyOf": [{"$ref": f"#/$defs/{'%77' * (n % 2) or 'w'}"} for n in range(3000)]}
    root = {"$defs": {**doubling, "d24": {"type": "string"}, "w": wide}}
    started = time.monotonic()
    assert types_of({"$ref": "#/$defs/d0"}, root) == {"string"}
    assert types_of(wide, root) == ANYTHING
    assert choices_of({"$ref": "#/$defs/d0"}, root) == choices_of(wide, root) == ()
    assert time.monotonic() - started < 5


def test_what_is_too_deep_says_nothing() -> None:
    chain = {f"d{n}": {"anyOf": [{"$ref": f"#/$defs/d{n + 1}"}]} for n in range(5000)}
    root = {"$defs": {**chain, "d5000": {"const": "x"}}}
    assert types_of({"$ref": "#/$defs/d0"}, root) == ANYTHING
    assert types_of({"$ref": "#/$defs/d4990"}, root) == {"string"}
    assert choices_of({"$ref": "#/$defs/d0"}, root) == ()


KEYWORDS = st.sampled_from(
    ["type", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "$defs", "properties", "items", "nullable"]
)
LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["#", "#/$defs", "#/anyOf/0", "null"])
)
SCHEMAS = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYWORDS, inner), max_leaves=20)


@settings(deadline=None)
@given(SCHEMAS, SCHEMAS)
def test_any_schema_is_read(schema: object, root: object) -> None:
    types = types_of(schema, root)
    assert types <= ANYTHING
    assert "integer" in types or "number" not in types
    choices_of(schema, root)
    resolved = resolve(schema, root)
    assert not (isinstance(resolved, dict) and isinstance(resolved.get("$ref"), str)), json.dumps(resolved)
