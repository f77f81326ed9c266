"""Tool schemas of all kinds, as they come from agents and as they never should, by a seed."""

from collections.abc import Callable
from random import Random
from typing import Any

from server.chat.conversation import Tool

NAMES = ("path", "content", "größe", "first-line", "a.b", "名前", "x", "is_new", "type", "$id", "items", "with space")
WORDS = ("fast", "slow", "", "null", "5", "true", "</parameter>", "a b", "ü", "[1]", "line\nline", '"q"', "0x1F")
PATTERNS = ("^[a-z]{2,4}$", "^\\d{3}-\\d{4}$", "[A-Z]", "^/?([a-z]+/)*[a-z]+\\.py$", "^(red|green)$")
Schema = dict[str, Any]


def tool(rng: Random, name: str = "tool") -> Tool:
    """A tool with up to eight parameters, with references among them."""
    schema: Schema = {"type": "object", "properties": {}}
    if rng.random() < 0.3:
        schema["$defs"] = {"Item": _object(rng, 1), "Node": _node(), "Mode": {"enum": ["a", "b"]}}
    for key in rng.sample(NAMES, rng.choice([0, 1, 1, 2, 3, 4, 8])):
        schema["properties"][key] = _schema(rng, rng.choice([1, 2, 3]), "$defs" in schema)
    schema["required"] = [key for key in schema["properties"] if rng.random() < 0.5]
    if rng.random() < 0.5:
        schema["additionalProperties"] = False
    return Tool(name, {"name": name, "description": "Does something.", "parameters": schema})


def _node() -> Schema:
    children = {"type": "array", "items": {"$ref": "#/$defs/Node"}, "maxItems": 2}
    return {"type": "object", "properties": {"value": {"type": "integer"}, "children": children}, "required": ["value"]}


def _schema(rng: Random, depth: int, has_definitions: bool) -> Any:
    kinds: list[Callable[[], Any]] = [
        lambda: {"type": "string"},
        lambda: {"type": "string", "description": "A text.", "default": "x"},
        lambda: {"type": "string", "minLength": rng.randint(0, 3), "maxLength": rng.randint(3, 9)},
        lambda: {"type": "string", "pattern": rng.choice(PATTERNS)},
        lambda: {"type": "integer"},
        lambda: {"type": "integer", "minimum": rng.randint(-20, 0), "maximum": rng.randint(1, 300)},
        lambda: {"type": "number"},
        lambda: {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        lambda: {"type": "boolean"},
        lambda: {"type": "null"},
        lambda: {"enum": rng.sample(WORDS, rng.randint(1, 4))},
        lambda: {"type": "string", "enum": rng.sample(WORDS, rng.randint(1, 4))},
        lambda: {"enum": [1, 2.5, True, None, "text", {"a": [1]}, [None]][: rng.randint(1, 7)]},
        lambda: {"const": rng.choice([*WORDS, 7, False, None])},
        dict,
        lambda: {"type": rng.sample(["string", "integer", "null", "boolean", "array", "object"], rng.randint(1, 3))},
        lambda: {"type": "object"},
        lambda: {"type": "object", "properties": {}, "additionalProperties": False},
        lambda: {"type": "array"},
    ]
    if has_definitions:
        kinds += [lambda: {"$ref": f"#/$defs/{rng.choice(['Item', 'Node', 'Mode'])}"}] * 4
    if depth > 0:
        kinds += [lambda: _object(rng, depth - 1, has_definitions)] * 3
        kinds += [lambda: _array(rng, depth - 1, has_definitions)] * 3
        kinds += [lambda: _union(rng)] * 4
        kinds += [lambda: {"allOf": [{"type": "string"}, {"minLength": 1}], "title": "T"}]
    return rng.choice(kinds)()


def _object(rng: Random, depth: int, has_definitions: bool = False) -> Schema:
    keys = rng.sample(NAMES, rng.randint(0, 3))
    properties = {key: _schema(rng, depth, has_definitions) for key in keys}
    required = [key for key in keys if rng.random() < 0.5]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}


def _array(rng: Random, depth: int, has_definitions: bool) -> Schema:
    schema: Schema = {"type": "array", "items": _schema(rng, depth, has_definitions), "maxItems": 3}
    return schema | ({"minItems": 1} if rng.random() < 0.5 else {})


def _union(rng: Random) -> Schema:
    """Branches that a reader of plain text has to tell apart."""
    branches: list[Any] = [
        {"type": "string"},
        {"type": "string", "maxLength": 6},
        {"type": "integer", "minimum": 3},
        {"type": "boolean"},
        {"type": "null"},
        {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False},
        {"enum": ["auto", "none"]},
    ]
    return {"anyOf": rng.sample(branches, rng.randint(1, 3))}
