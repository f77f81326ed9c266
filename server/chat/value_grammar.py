"""Grammars of a call's values: the texts that a parameter's schema admits, in the form that the model writes them.

A string stands as it is, everything else as JSON; a line that begins `</parameter>` ends the value. Lives here: from a
schema to an expression in Lark. It may not know the call around the value, nor who compiles the grammar.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from llguidance import regex_to_lark

from server.chat.bounded_schema import bounded
from server.chat.call_markup import HELD_VALUE_CLOSE as CLOSE
from server.chat.schema_types import ANYTHING, json_type, types_of
from server.chat.whole_schema import ANNOTATIONS, MAX_DEPTH, Unclear, merged, whole_schema

TEXT = "TEXT"  # the terminal of a text without further rules; see `text_terminal`
_WORDS = {"null": ("null",), "boolean": ("true", "false")}
_CHOICES = {"enum", "const"}
_BLANK = r"[\s\x1c-\x1f]*"
_READ_AS = {  # what a text must not look like, where a value may be of these types as well
    "null": rf"(?i:{_BLANK}(null|none){_BLANK})",
    "boolean": rf"(?i:{_BLANK}(true|false){_BLANK})",
    "integer": rf"{_BLANK}[-+]?[\d.](?s:.*)",
    "object": rf"""{_BLANK}["'\[{{(](?s:.*)""",
    "array": rf"""{_BLANK}["'\[{{(](?s:.*)""",
}
JSON_OPTIONS = {"whitespace_pattern": r"( |\n[ \t]{0,40})?"}  # bounded: a weak model would go on for ever


class NoGrammar(Exception):
    """There is no grammar for a schema: why, in words, and for which part of the request."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(f"{path}: {reason}" if path else reason)
        self.reason = reason
        self.path = path


def text_terminal() -> str:
    """The definition of `TEXT`: all up to the first line that ends a value, and its closing tag."""
    free, begins, _ = _without((CLOSE,))
    return f"{TEXT}: /{free}{begins}{_escaped(CLOSE[1:])}/"


def text_without(*words: str) -> str:
    """An expression for every text that has none of the words in it. They begin alike, with a character that they have
    nowhere else."""
    free, begins, begun = _without(words)
    return f"/{free}({begins}({begun})?)?/"


def _without(words: Sequence[str]) -> tuple[str, str, str]:
    """Patterns: a text without the words and not ending in a part of one; their first character, perhaps after such
    parts; what follows it in a part of one.

    They spell out what `not containing` means, state by state, because a mask for such a pattern takes a tenth of the
    time of one for a complement.
    """
    first, rests = _escaped(words[0][0]), [word[1:] for word in words]
    parts = sorted({rest[:k] for rest in rests for k in range(len(rest))})
    begun = "|".join(_escaped(part) for part in parts if part)
    left = "|".join(f"{_escaped(part)}[^{first}{_escaped(_next_characters(part, rests))}]" for part in parts)
    begins = f"{first}((({begun})?{first}))*"
    return f"([^{first}]|{begins}({left}))*", begins, begun


def _next_characters(part: str, rests: Iterable[str]) -> str:
    return "".join(sorted({rest[len(part)] for rest in rests if rest.startswith(part)}))


@dataclass(frozen=True, slots=True)
class ValueGrammar:
    """An expression for a value and its end, and the terminals that it names, by their definitions."""

    expression: str
    terminals: tuple[str, ...] = ()


FREE_TEXT = ValueGrammar(TEXT)


def value_grammar(schema: object, root: object, lenient: bool) -> ValueGrammar:
    """The grammar of a schema's values. With `lenient`, rules that cannot be held to are left out.

    Raises:
        NoGrammar: no text fits the schema, none of those that fit can be told apart from others, or it is no schema.
    """
    try:
        return _value_grammar(schema, root, lenient)
    except Unclear as error:
        raise NoGrammar(str(error)) from None
    except RecursionError:
        raise NoGrammar("it is nested too deep") from None


def _value_grammar(schema: object, root: object, lenient: bool) -> ValueGrammar:
    leaves = list(_leaves(schema, root, 0))
    types = frozenset[str]().union(*(_types(leaf, root) for leaf in leaves))
    parts: list[str] = []
    terminals: list[str] = []
    for leaf in leaves:
        if leaf.get("type") == "string" and not _CHOICES & leaf.keys():
            pattern = _string_terminal(leaf, types - {"string"})
            parts.append(_name_of(pattern) if pattern else TEXT)
            terminals += [f"{_name_of(pattern)}: {pattern}"] if pattern else []
        else:
            parts += _leaf_grammar(leaf, root, lenient)
    if not parts:
        raise NoGrammar("no value that the call's form can carry fits it")
    return ValueGrammar(parts[0] if len(parts) == 1 else "(" + " | ".join(dict.fromkeys(parts)) + ")", tuple(terminals))


def _name_of(definition: str) -> str:
    return "TEXT_" + blake2b(definition.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest().upper()


# --- a schema as alternatives ---------------------------------------------------------------------------------------


def _leaves(schema: object, root: object, depth: int) -> Iterator[Mapping[str, Any]]:
    """Schemas of one type each, or of named values, one of which has to fit."""
    if depth > MAX_DEPTH:
        raise Unclear("it is nested too deep, or refers to itself")
    schema = whole_schema(schema, root)
    if schema is False:
        return
    if not isinstance(schema, Mapping):
        schema = {}
    if schema.get("nullable") is True:
        yield {"type": "null"}
    if _CHOICES & schema.keys():
        yield schema
        return
    for key in ("anyOf", "oneOf"):
        if isinstance(schema.get(key), list):
            rest = {name: value for name, value in schema.items() if name != key}
            for branch in schema[key]:
                yield from _leaves(merged(rest, branch), root, depth + 1)
            return
    types = types_of(schema, root)
    if types == ANYTHING and ANNOTATIONS.issuperset(schema):
        yield {}
    else:
        kinds = types - {"integer"} if "number" in types else types
        yield from ({**schema, "type": kind} for kind in sorted(kinds))


def _types(leaf: Mapping[str, Any], root: object) -> frozenset[str]:
    return types_of(leaf, root) if leaf else frozenset()


# --- the grammar of one alternative ---------------------------------------------------------------------------------


def _leaf_grammar(leaf: Mapping[str, Any], root: object, lenient: bool) -> Iterator[str]:
    if not leaf:
        yield TEXT
    elif _CHOICES & leaf.keys():
        yield from (literal(choice + CLOSE) for choice in _choice_texts(leaf))
    elif leaf["type"] in _WORDS:  # as one piece with the end: the longest piece that fits is taken, and texts go on
        yield from (literal(word + CLOSE) for word in _WORDS[leaf["type"]])
    else:
        yield f"{json_grammar(leaf, root, lenient)} {literal(CLOSE)}"


def _choice_texts(leaf: Mapping[str, Any]) -> Iterator[str]:
    named = leaf.get("enum", [leaf.get("const")])
    if not isinstance(named, list):
        raise NoGrammar("enum must be a list")
    choices = [choice for choice in named if "const" not in leaf or choice == leaf["const"]]
    admitted = types_of({key: value for key, value in leaf.items() if key not in ("enum", "const")}, {})
    for choice in choices:
        if json_type(choice) not in admitted:
            continue
        text = choice if isinstance(choice, str) else json.dumps(choice, ensure_ascii=False)
        if CLOSE not in text:
            yield text


def _string_terminal(leaf: Mapping[str, Any], other_types: frozenset[str]) -> str | None:
    """A pattern for a string's texts and their end, which are not to be read as of another type; None for any text."""
    rules = [f"/{pattern}/" for pattern in _string_patterns(leaf)]
    barred = [f"~/{_READ_AS[kind]}/" for kind in sorted(other_types & _READ_AS.keys())]
    if not rules and not barred:
        return None
    barred.append(f"~/(?s:.*){_escaped(CLOSE)}(?s:.*)/")
    if not rules:
        rules.append("/(?s:.*)/")
    return "(" + " & ".join([*rules, *dict.fromkeys(barred)]) + ") " + literal(CLOSE)


def _string_patterns(leaf: Mapping[str, Any]) -> Iterator[str]:
    least, most = _count(leaf.get("minLength")) or 0, _count(leaf.get("maxLength"))
    if least or most is not None:
        if most is not None and most < least:
            raise NoGrammar("maxLength is less than minLength")
        yield f"(?s:.){{{least},{'' if most is None else most}}}"
    pattern = leaf.get("pattern")
    if isinstance(pattern, str):
        yield _anywhere(pattern)


def _count(value: object) -> int | None:
    """A number of characters; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0 or value < 0:
        return None
    return int(value)


def _anywhere(pattern: str) -> str:
    """A schema's pattern may be found anywhere in a text, unless it says where."""
    from_start, to_end = pattern.startswith("^"), pattern.endswith("$") and not pattern.endswith("\\$")
    core = pattern[from_start : len(pattern) - to_end]
    try:
        lark = regex_to_lark(core, use_ascii="dw")
    except ValueError as error:  # half a character too
        raise NoGrammar(f"its pattern cannot be read: {error}") from None
    before, after = "" if from_start else "(?s:.*)", "" if to_end else "(?s:.*)"
    return f"{before}({lark}){after}"


def json_grammar(schema: Mapping[str, Any], root: object, lenient: bool = False) -> str:
    """An expression for a JSON value. `root` is what references point into, by way of its definitions."""
    options = {**JSON_OPTIONS, "lenient": True} if lenient else JSON_OPTIONS
    whole = dict(schema)
    if isinstance(root, Mapping) and '"$ref"' in json.dumps(schema):
        whole |= {key: root[key] for key in ("$defs", "definitions") if isinstance(root.get(key), Mapping)}
    return "%json " + json.dumps({**bounded(whole), "x-guidance": options})


def literal(text: str) -> str:
    """A text as Lark writes it."""
    return json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    """A text as part of a pattern; there is nothing more to escape in a closing tag."""
    return text.replace("/", "\\/").replace("\n", "\\n")
