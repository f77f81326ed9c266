"""JSON schemas with their references and what `allOf` adds put in place, so that all they say stands in one object.

Lives here: schemas to schemas. It may not know who asks, nor what a schema is for.
"""

from collections.abc import Mapping
from typing import Any

from server.chat.schema_types import resolve

ANNOTATIONS = frozenset(
    ("title", "description", "default", "examples", "example", "deprecated", "readOnly", "writeOnly", "nullable")
) | {"format", "$schema", "$id", "$comment", "$anchor", "contentEncoding", "contentMediaType", "x-order"}
MAX_DEPTH = 20


class Unclear(Exception):
    """Parts of a schema do not go together, or there is no end to them."""


def whole_schema(schema: object, root: object) -> object:
    """The schema without `$ref` and `allOf` of its own. `root` is what references point into.

    Raises:
        Unclear: it says something twice, each time in another way, or refers to itself.
    """
    for _ in range(MAX_DEPTH):
        if not isinstance(schema, Mapping):
            return schema
        if "$ref" in schema:
            rest = {key: value for key, value in schema.items() if key != "$ref"}
            schema = merged(rest, resolve(schema, root))
        elif isinstance(schema.get("allOf"), list):
            whole: object = {key: value for key, value in schema.items() if key != "allOf"}
            for branch in schema["allOf"]:
                whole = merged(whole, resolve(branch, root))
            schema = whole
        else:
            return schema
    raise Unclear("it is nested too deep, or refers to itself")


def merged(one: object, other: object) -> object:
    """A schema that fits what fits both. Raises `Unclear`."""
    if one is False or other is False:
        return False
    if not isinstance(one, Mapping) or not one:
        return other
    if not isinstance(other, Mapping):
        return one
    whole: dict[str, Any] = dict(one)
    for key, value in other.items():
        if key not in whole or key in ANNOTATIONS or whole[key] == value:
            whole[key] = value
        elif key == "properties" and isinstance(value, Mapping) and isinstance(whole[key], Mapping):
            whole[key] = {**whole[key], **value}
        elif key == "required" and isinstance(value, list) and isinstance(whole[key], list):
            whole[key] = [*whole[key], *(name for name in value if name not in whole[key])]
        else:
            raise Unclear(f"{key} is said twice, in parts that have to fit together")
    return whole
