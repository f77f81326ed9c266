"""The JSON types that a JSON schema admits.

Lives here: what `type`, `enum`, `const`, branches and references say about a value's type, for schemas as clients write
them, with odd spellings, references that lead nowhere and ones that never end. It may not know who asks: nothing of the
model's text or of grammars. Nothing here raises, and no schema takes longer than its size warrants.

A set of types has an integer wherever it has a number, so that sets meet as sets do; `5` is of type integer, `5.0` of
type number. `ANYTHING` is all seven, the empty set is a schema that no value fits.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

Types = frozenset[str]

ANYTHING: Types = frozenset({"string", "integer", "number", "boolean", "null", "object", "array"})
_NOTHING: Types = frozenset()

_SPELLINGS = {
    **dict.fromkeys(("str", "text", "varchar", "char", "enum"), "string"),
    **dict.fromkeys(("bool", "binary"), "boolean"),
    **dict.fromkeys(("none", "nonetype"), "null"),
}
_BEGINNINGS = {
    **dict.fromkeys(("int", "uint", "long", "short", "unsigned"), "integer"),
    **dict.fromkeys(("num", "float", "double"), "number"),
    **dict.fromkeys(("dict", "object"), "object"),
    **dict.fromkeys(("list", "array"), "array"),
}
_HINTS = {"properties": "object", "patternProperties": "object", "items": "array", "prefixItems": "array"}
_MAX_DEPTH = 50  # of branches and references in each other; deeper ones say nothing
_INDEX = re.compile(r"0|[1-9][0-9]{0,8}")


def types_of(schema: object, root: object) -> Types:
    """The types that a value of this schema may have. `root` is the document that its references point into."""
    return _Reader(root).types(schema, 0)


def choices_of(schema: object, root: object) -> tuple[Any, ...]:
    """The values that `enum` and `const` name, in the schema, its branches, and what these refer to."""
    return tuple(_Reader(root).choices(schema, 0))


def resolve(schema: object, root: object) -> object:
    """The schema that `$ref` leads to, however many there are in a row; True, which fits anything, if to none.

    A schema without `$ref` is given back. What stands beside a `$ref` is not part of what is given, though it is part
    of what `types_of` says.
    """
    seen = set()
    while isinstance(schema, Mapping) and isinstance(reference := schema.get("$ref"), str):
        if reference in seen:
            return True
        seen.add(reference)
        schema = _target(reference, root)
    return schema


def json_type(value: object) -> str:
    """The type of a JSON value in Python's terms."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case Mapping():
            return "object"
    return "array"


@dataclass(frozen=True, slots=True)
class _Reader:
    """One walk through a document. Each schema in it is read once, however many references lead there."""

    root: object
    known: dict[int, Types] = field(default_factory=dict)

    def types(self, schema: object, depth: int) -> Types:
        if schema is False:
            return _NOTHING
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH:
            return ANYTHING
        if id(schema) not in self.known:
            self.known[id(schema)] = ANYTHING  # what a schema made of itself says
            self.known[id(schema)] = self._read(schema, depth)
        return self.known[id(schema)]

    def _read(self, schema: Mapping[str, Any], depth: int) -> Types:
        types = ANYTHING.intersection(*self._restrictions(schema, depth + 1))
        if types == ANYTHING:
            types = frozenset(kind for key, kind in _HINTS.items() if key in schema) or ANYTHING
        return types | {"null"} if schema.get("nullable") is True else types

    def _restrictions(self, schema: Mapping[str, Any], depth: int) -> Iterator[Types]:
        """What each keyword admits by itself."""
        yield _declared(schema.get("type"))
        if enum := _list(schema, "enum"):
            yield _NOTHING.union(*(_closed(json_type(choice)) for choice in enum))
        if "const" in schema:
            yield _closed(json_type(schema["const"]))
        if isinstance(reference := schema.get("$ref"), str):
            yield self.types(_target(reference, self.root), depth)
        for key in ("anyOf", "oneOf"):
            if branches := _list(schema, key):
                yield _NOTHING.union(*(self.types(branch, depth) for branch in branches))
        for branch in _list(schema, "allOf"):
            yield self.types(branch, depth)

    def choices(self, schema: object, depth: int) -> Iterator[Any]:
        if not isinstance(schema, Mapping) or depth > _MAX_DEPTH or id(schema) in self.known:
            return
        self.known[id(schema)] = ANYTHING
        yield from _list(schema, "enum")
        if "const" in schema:
            yield schema["const"]
        if isinstance(reference := schema.get("$ref"), str):
            yield from self.choices(_target(reference, self.root), depth + 1)
        for key in ("anyOf", "oneOf", "allOf"):
            for branch in _list(schema, key):
                yield from self.choices(branch, depth + 1)


def _list(schema: Mapping[str, Any], key: str) -> list[Any]:
    found = schema.get(key)
    return found if isinstance(found, list) else []


def _declared(declared: object) -> Types:
    """What `type` says. A name nobody knows says nothing."""
    names = declared if isinstance(declared, list) else [declared]
    kinds = [_kind(name.strip().lower()) if isinstance(name, str) else None for name in names]
    return _NOTHING.union(*(_closed(kind) for kind in kinds)) if kinds else ANYTHING


def _kind(name: str) -> str | None:
    name = _SPELLINGS.get(name, name)
    if name in ANYTHING:
        return name
    return next((kind for beginning, kind in _BEGINNINGS.items() if name.startswith(beginning)), None)


def _closed(kind: str | None) -> Types:
    if kind is None:
        return ANYTHING
    return frozenset({"integer", "number"}) if kind == "number" else frozenset({kind})


def _target(reference: str, root: object) -> object:
    """The schema at a JSON pointer like `#/$defs/Name`; True for what is elsewhere or nowhere."""
    place = root
    path, *steps = unquote(reference).split("/")
    if path != "#":
        return True
    for step in steps:
        step = step.replace("~1", "/").replace("~0", "~")
        if isinstance(place, Mapping) and step in place:
            place = place[step]
        elif isinstance(place, list) and _INDEX.fullmatch(step) and int(step) < len(place):
            place = place[int(step)]
        else:
            return True
    return place if isinstance(place, Mapping | bool) else True
