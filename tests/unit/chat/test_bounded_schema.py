"""Schemas with limits to their numbers: the same values otherwise."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from server.chat.bounded_schema import MOST, bounded

ANY = {"$ref": "#/$defs/any-value"}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"type": "integer"}, {"type": "integer", "minimum": -MOST, "maximum": MOST}),
        ({"type": "number", "exclusiveMinimum": 0}, {"type": "number", "exclusiveMinimum": 0, "maximum": MOST}),
        (
            {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
            {"type": "integer", "minimum": -MOST, "maximum": MOST},
        ),
        ({"type": ["number", "null"]}, {"type": ["number", "null"], "minimum": -MOST, "maximum": MOST}),
        ({"type": "string"}, {"type": "string"}),
        ({"enum": [10**30]}, {"enum": [10**30]}),
        ({"type": "integer", "enum": [1]}, {"type": "integer", "enum": [1]}),
        ({"anyOf": [{"type": "boolean"}]}, {"anyOf": [{"type": "boolean"}]}),
        (
            {"type": "object", "properties": {}, "additionalProperties": False, "propertyNames": {"type": "string"}},
            {"type": "object", "properties": {}, "additionalProperties": False},
        ),
    ],
)
def test_limits(schema: dict[str, Any], expected: dict[str, Any]) -> None:
    before = repr(schema)
    assert bounded(schema) == expected
    assert repr(schema) == before


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"type": "array"},
        {"type": "array", "items": True},
        {"type": "object", "properties": {"a": {"description": "anything"}}},
        {"type": "array", "items": {"anyOf": [{}, {"type": "null"}]}},
        {"type": "object", "additionalProperties": {"type": "array"}, "$defs": {"mine": {"type": "integer"}}},
    ],
)
def test_values_of_any_type_are_bounded_too(schema: dict[str, Any]) -> None:
    found = bounded(schema)
    assert "any-value" in found["$defs"]
    known = Draft202012Validator(schema)
    limited = Draft202012Validator(found)
    for value in (None, 5, [], {}, [1, "x", None, {"a": [2.5]}], {"a": {"b": [True]}}, {"a": []}):
        assert known.is_valid(value) == limited.is_valid(value)
    for value in ([10**19], {"a": 10**19}, {"a": [[10**19]]}, 10**19):
        assert not (limited.is_valid(value) and known.is_valid(value))


def test_what_is_no_schema_stays() -> None:
    odd = {"type": 5, "properties": [], "anyOf": {}, "items": 3, "minimum": "x", "additionalProperties": None}
    assert bounded(odd) == odd
