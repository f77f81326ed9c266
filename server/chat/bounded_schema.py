"""JSON schemas with limits to numbers that have none: what a constrained answer writes, every reader can read.

A number may have any exponent and an integer any number of digits by JSON's rules, but not in a double, and a weak
model that has begun with digits may go on for ever. Lives here: schemas to schemas. It may not know what for.
"""

from collections.abc import Mapping
from typing import Any

MOST = 10**18  # either way; larger limits of a client's are lowered to it
_ANY = "any-value"
_ANY_REFERENCE = {"$ref": f"#/$defs/{_ANY}"}
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "contains")
_IDLE: Mapping[str, Any] = {"propertyNames": {"type": "string"}, "uniqueItems": False}  # true of all JSON
_SAYS_MORE = {"$ref", "enum", "const", "properties", "patternProperties", "prefixItems", "items", *_LISTS}


def bounded(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The same schema, but for numbers out of reach. Values of any type are described, so that theirs are bounded."""
    found: Mapping[str, Any] = _bounded(schema)
    if not _refers_to_any(found):
        return found
    definitions = found.get("$defs")
    return {**found, "$defs": {**(definitions if isinstance(definitions, Mapping) else {}), _ANY: _any_value()}}


def _bounded(schema: Any) -> Any:
    if schema is True:
        return _ANY_REFERENCE
    if not isinstance(schema, Mapping):
        return schema
    found = {key: value for key, value in schema.items() if key not in _IDLE or _IDLE[key] != value}
    for key in _BY_NAME:
        if isinstance(found.get(key), Mapping):
            found[key] = {name: _bounded(value) for name, value in found[key].items()}
    for key in _LISTS:
        if isinstance(found.get(key), list):
            found[key] = [_bounded(value) for value in found[key]]
    for key in _SINGLE:
        if key in found:
            found[key] = _bounded(found[key])
    types = found.get("type")
    if types is None:
        return found if _SAYS_MORE & found.keys() else {**found, **_ANY_REFERENCE}
    return found if {"enum", "const"} & found.keys() else _with_limits(found, types)


def _with_limits(schema: dict[str, Any], types: Any) -> dict[str, Any]:
    names = types if isinstance(types, list) else [types]
    if "number" in names or "integer" in names:
        for limit, exclusive, most in (("minimum", "exclusiveMinimum", -MOST), ("maximum", "exclusiveMaximum", MOST)):
            for key in (limit, exclusive):
                if _is_number(schema.get(key)) and abs(schema[key]) > MOST:
                    schema[key] = max(-MOST, min(schema[key], MOST))
            if exclusive not in schema:
                schema.setdefault(limit, most)
    if "array" in names and "prefixItems" not in schema:
        schema.setdefault("items", _ANY_REFERENCE)
    if "object" in names and "patternProperties" not in schema:
        schema.setdefault("additionalProperties", _ANY_REFERENCE)
    return schema


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _any_value() -> dict[str, Any]:
    kinds = ("string", "number", "boolean", "null", "array", "object")
    return {"anyOf": [_with_limits({"type": kind}, kind) for kind in kinds]}


def _refers_to_any(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        return schema.get("$ref") == _ANY_REFERENCE["$ref"] or any(_refers_to_any(value) for value in schema.values())
    return isinstance(schema, list) and any(_refers_to_any(value) for value in schema)
