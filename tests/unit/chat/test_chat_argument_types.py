"""How a tool argument gets its type: the ladder as a table, fed whole and in every two pieces."""

import json
import math
import warnings
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.chat.tool_values import value_writer

ROOT: dict[str, Any] = {
    "$defs": {
        "Name": {"type": "string"},
        "Point": {"type": "object", "properties": {"x": {"type": "number"}}},
        "Level": {"enum": [1, 2, 3]},
        "Tree": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#/$defs/Tree"}}]},
        "Loop": {"$ref": "#/$defs/Loop"},
    },
    "definitions": {"Flag": {"type": "boolean"}},
}


def ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/$defs/{name}"}


def any_of(*branches: object) -> dict[str, Any]:
    return {"anyOf": list(branches)}


def types(*names: str) -> dict[str, Any]:
    return {"type": list(names)}


STRING = {"type": "string"}
INTEGER = {"type": "integer"}
NUMBER = {"type": "number"}
BOOLEAN = {"type": "boolean"}
NULL = {"type": "null"}
OBJECT = {"type": "object"}
ARRAY = {"type": "array"}
MAYBE_STRING = types("string", "null")
STRING_OR_INTEGER = types("string", "integer")
STRING_OR_OBJECT = types("string", "object")
STRING_OR_ARRAY = types("string", "array")

TABLE = [
    # A string stays a string.
    (STRING, "hello", "hello"),
    (STRING, "5", "5"),
    (STRING, "true", "true"),
    (STRING, "null", "null"),
    (STRING, "None", "None"),
    (STRING, "", ""),
    (STRING, " two \n", " two \n"),
    (STRING, '"quoted"', '"quoted"'),
    (STRING, '{"a": 1}', '{"a": 1}'),
    (STRING, 'a"\\\n\x00é🙂</x>', 'a"\\\n\x00é🙂</x>'),
    ({"type": "str"}, "1", "1"),
    ({"const": "1"}, "1", "1"),
    (ref("Name"), "1", "1"),
    (None, "5", "5"),
    (None, "null", "null"),
    (False, "5", "5"),
    # A string or null.
    (MAYBE_STRING, "null", None),
    (MAYBE_STRING, "NULL", None),
    (MAYBE_STRING, "nul", "nul"),
    (MAYBE_STRING, "nullable", "nullable"),
    (MAYBE_STRING, "None", "None"),
    (MAYBE_STRING, "", ""),
    (MAYBE_STRING, "5", "5"),
    (any_of(STRING, NULL), "null", None),
    (any_of(STRING, NULL), "123", "123"),
    ({"type": "string", "nullable": True}, "null", None),
    (any_of(ref("Name"), NULL), "true", "true"),
    # Null.
    (NULL, "null", None),
    (NULL, " Null\n", None),
    (NULL, "None", None),
    (NULL, "nothing", "nothing"),
    (NULL, "0", "0"),
    (INTEGER, "null", None),
    (OBJECT, "null", None),
    (INTEGER, "None", "None"),
    (types("integer", "null"), "None", None),
    (types("integer", "null"), "null", None),
    (STRING_OR_INTEGER, "null", "null"),
    (types("string", "integer", "null"), "null", None),
    (types("string", "integer", "null"), "None", "None"),
    # Integers.
    (INTEGER, "5", 5),
    (INTEGER, " -7\n", -7),
    (INTEGER, "+7", 7),
    (INTEGER, "007", 7),
    (INTEGER, "-0", 0),
    (INTEGER, "5.0", 5),
    (INTEGER, "5.", 5),
    (INTEGER, "1e3", 1000),
    (INTEGER, "5.5", "5.5"),
    (INTEGER, " 5.5 ", " 5.5 "),
    (INTEGER, "five", "five"),
    (INTEGER, "", ""),
    (INTEGER, "1_000", "1_000"),
    (INTEGER, "0x10", "0x10"),
    (INTEGER, "５", "５"),
    (INTEGER, '"5"', '"5"'),
    (INTEGER, "[5]", "[5]"),
    (INTEGER, "true", "true"),
    (INTEGER, "12345678901234567890", 12345678901234567890),
    (INTEGER, "1e400", "1e400"),
    (INTEGER, "Infinity", "Infinity"),
    ({"type": "int32"}, "3", 3),
    ({"allOf": [NUMBER, INTEGER]}, "5.5", "5.5"),
    ({"allOf": [NUMBER, INTEGER]}, "5", 5),
    (types("integer", "null"), "3", 3),
    # Numbers.
    (NUMBER, "1.5", 1.5),
    (NUMBER, ".5", 0.5),
    (NUMBER, "-2.50", -2.5),
    (NUMBER, "2.0", 2),
    (NUMBER, "3", 3),
    (NUMBER, "1e-3", 0.001),
    (NUMBER, "1e-400", 0),
    (NUMBER, "1e400", "1e400"),
    (NUMBER, "-1e400", "-1e400"),
    (NUMBER, "nan", "nan"),
    (NUMBER, "NaN", "NaN"),
    (NUMBER, "-Infinity", "-Infinity"),
    (NUMBER, "1,5", "1,5"),
    (NUMBER, "1.2.3", "1.2.3"),
    (types("integer", "number"), "1.5", 1.5),
    # A number or a string.
    (STRING_OR_INTEGER, "5", 5),
    (STRING_OR_INTEGER, "-5", -5),
    (STRING_OR_INTEGER, "5.5", "5.5"),
    (STRING_OR_INTEGER, "three", "three"),
    (STRING_OR_INTEGER, "007", "007"),
    (STRING_OR_INTEGER, "+49", "+49"),
    (STRING_OR_INTEGER, '"5"', '"5"'),
    (STRING_OR_INTEGER, "true", "true"),
    (STRING_OR_INTEGER, "[1]", "[1]"),
    (any_of(NUMBER, STRING), "0.5", 0.5),
    ({"oneOf": [INTEGER, {"const": "auto"}]}, "auto", "auto"),
    ({"oneOf": [INTEGER, {"const": "auto"}]}, "5", 5),
    # Booleans.
    (BOOLEAN, "true", True),
    (BOOLEAN, "True", True),
    (BOOLEAN, "FALSE\n", False),
    (BOOLEAN, "false", False),
    (BOOLEAN, "yes", "yes"),
    (BOOLEAN, "1", "1"),
    (BOOLEAN, "0", "0"),
    (BOOLEAN, "None", "None"),
    (BOOLEAN, "", ""),
    (BOOLEAN, '"true"', '"true"'),
    (BOOLEAN, "null", None),
    ({"$ref": "#/definitions/Flag"}, "True", True),
    (types("boolean", "string"), "maybe", "maybe"),
    (types("boolean", "string"), "false", False),
    (types("boolean", "integer"), "1", 1),
    (types("boolean", "integer"), "true", True),
    # Objects.
    (OBJECT, '{"a": [1, null]}', {"a": [1, None]}),
    (OBJECT, ' {"b": "5",\n"a": 5.0} ', {"b": "5", "a": 5.0}),
    (OBJECT, "{}", {}),
    (OBJECT, "{'a': (1, None, True)}", {"a": [1, None, True]}),
    (OBJECT, "{'path': 'C:\\data'}", {"path": "C:\\data"}),
    (OBJECT, "{1: 'a'}", {"1": "a"}),
    (OBJECT, "{broken", "{broken"),
    (OBJECT, "{'a': true}", "{'a': true}"),
    (OBJECT, "{1, 2}", "{1, 2}"),
    (OBJECT, "[1]", "[1]"),
    (OBJECT, "5", "5"),
    (OBJECT, "", ""),
    (OBJECT, "NaN", "NaN"),
    (OBJECT, '{"a": NaN}', '{"a": NaN}'),
    (OBJECT, '{"a": 1e400}', '{"a": 1e400}'),
    (OBJECT, "{'a': 1e400}", "{'a': 1e400}"),
    (OBJECT, "{'a': '\\ud800'}", "{'a': '\\ud800'}"),
    (OBJECT, '"{\\"a\\": 1}"', {"a": 1}),
    (OBJECT, '"[1]"', '"[1]"'),
    (OBJECT, '"{\\"a\\": \\"\\ud800\\"}"', '"{\\"a\\": \\"\\ud800\\"}"'),
    (OBJECT, '"\\"{}\\""', '"\\"{}\\""'),
    (ref("Point"), '{"x": "1"}', {"x": "1"}),
    ({"properties": {"a": INTEGER}}, '{"a": "1"}', {"a": "1"}),
    # Arrays.
    (ARRAY, "[1]", [1]),
    (ARRAY, '["a", {"b": []}]', ["a", {"b": []}]),
    (ARRAY, "['a', 'b']", ["a", "b"]),
    (ARRAY, "(1, 2)", [1, 2]),
    (ARRAY, "1, 2", [1, 2]),
    (ARRAY, "a, b", "a, b"),
    (ARRAY, "5", "5"),
    (ARRAY, '"x"', '"x"'),
    (ARRAY, '{"a": 1}', '{"a": 1}'),
    (ARRAY, "true", "true"),
    (ARRAY, '"[1,2]"', [1, 2]),
    (ARRAY, "'[1,2]'", [1, 2]),
    (ARRAY, '"5"', '"5"'),
    (ARRAY, '"null"', '"null"'),
    ({"items": STRING}, "[1]", [1]),
    (types("array", "integer"), "5", 5),
    (types("array", "integer"), '"5"', 5),
    (types("array", "integer"), "5.5", "5.5"),
    (types("array", "null"), '"null"', None),
    (types("array", "object"), '"[]"', []),
    (ref("Tree"), "[1, [2]]", [1, [2]]),
    (ref("Tree"), "4", 4),
    (ref("Tree"), "leaf", "leaf"),
    # An object or array, or a string.
    (STRING_OR_OBJECT, '{"a":1}', {"a": 1}),
    (STRING_OR_OBJECT, "{'a':1}", {"a": 1}),
    (STRING_OR_OBJECT, "hello", "hello"),
    (STRING_OR_OBJECT, '"hello"', "hello"),
    (STRING_OR_OBJECT, "'hello'", "'hello'"),
    (STRING_OR_OBJECT, '"a" "b"', '"a" "b"'),
    (STRING_OR_OBJECT, "5", "5"),
    (STRING_OR_OBJECT, "[1]", "[1]"),
    (STRING_OR_OBJECT, "true", "true"),
    (STRING_OR_OBJECT, "null", "null"),
    (STRING_OR_OBJECT, '"{\\"a\\": 1}"', '{"a": 1}'),
    (STRING_OR_ARRAY, "1, 2", "1, 2"),
    (STRING_OR_ARRAY, "[1, 2]", [1, 2]),
    (STRING_OR_ARRAY, "('a')", "('a')"),
    (any_of(ref("Name"), {"type": "array", "items": ref("Name")}), "*.py", "*.py"),
    (any_of(ref("Name"), {"type": "array", "items": ref("Name")}), '["*.py"]', ["*.py"]),
    # An enum: a member written like the text, else by the members' types.
    ({"enum": ["1", "2"]}, "1", "1"),
    ({"enum": [1, 2]}, "1", 1),
    ({"enum": [1, 2]}, "2.0", 2),
    ({"enum": [1, 2]}, "3", 3),
    ({"enum": [1, 2]}, "one", "one"),
    ({"enum": [0.5, 1.5]}, "1.50", 1.5),
    ({"enum": [True, False]}, "True", True),
    ({"enum": ["5", 5]}, "5", 5),
    ({"enum": ["5", 5]}, '"5"', "5"),
    ({"enum": ["5", 6]}, "5", "5"),
    ({"enum": ["5", 6]}, "6", 6),
    ({"enum": ["5", 6]}, " 5\n", "5"),
    ({"enum": ["5.0", 5]}, "5.0", "5.0"),
    ({"enum": ["True", True]}, "True", "True"),
    ({"enum": ["True", True]}, "true", True),
    ({"enum": ["null", 5]}, "null", "null"),
    ({"enum": ["a", None]}, "null", None),
    ({"enum": ["a", None]}, "a", "a"),
    ({"enum": [float("nan"), "a"]}, "NaN", "NaN"),
    ({"enum": [{"a": 1}, "x"]}, '{"a":1}', {"a": 1}),
    ({"type": "integer", "enum": ["5", 5]}, "5", 5),
    ({"type": "string", "enum": [5]}, "5", "5"),
    ({"const": 5}, "5", 5),
    ({"const": None}, "null", None),
    (ref("Level"), "2", 2),
    (any_of(ref("Level"), NULL), "null", None),
    ({"oneOf": [{"const": "1", "title": "a word"}, {"const": 2}]}, "1", "1"),
    # Anything.
    ({}, "12", 12),
    (True, "12", 12),
    ({}, "1.0", 1),
    ({}, "007", "007"),
    ({}, "0x10", "0x10"),
    ({}, "1e400", "1e400"),
    ({}, "plain words", "plain words"),
    ({}, '"quoted"', "quoted"),
    ({}, "'quoted'", "'quoted'"),
    ({}, "True", True),
    ({}, "null", None),
    ({}, "None", None),
    ({}, '{"a": [1]}', {"a": [1]}),
    ({}, "{'a': None}", {"a": None}),
    ({}, "", ""),
    (ref("Missing"), '{"a": 1}', {"a": 1}),
    (ref("Loop"), "5", 5),
    (any_of(ref("Missing"), NULL), '{"a": 1}', {"a": 1}),
    ({"anyOf": "odd"}, "x", "x"),
    ({"type": 5}, "[1]", [1]),
    ({"type": "whatever"}, "[1]", [1]),
    ("odd schema", "x", "x"),
]
HUGE = "9" * 5000
LONG = "9" * 400
LONG_TEXTS = [LONG, HUGE, f"-{HUGE}", f"{HUGE}.0", f"[{LONG}]", f"[{HUGE}]", f"('', {LONG})"]
DEEP_TEXTS = [part * 100_000 for part in ("[", "-", "{'a':", "1+")]


def write(schema: object, *portions: str) -> str:
    writer = value_writer(schema, ROOT)
    return "".join([*[writer.feed(portion) for portion in portions], writer.end()])


@pytest.mark.parametrize(("schema", "text", "value"), TABLE)
def test_the_ladder(schema: object, text: str, value: object) -> None:
    written = write(schema, text)
    assert repr(json.loads(written)) == repr(value)  # 5 is neither 5.0 nor "5", at any depth
    written.encode()
    for cut in range(len(text) + 1):
        assert write(schema, text[:cut], text[cut:]) == written, f"cut at {cut}"


@pytest.mark.parametrize("schema", [INTEGER, NUMBER, OBJECT, ARRAY, STRING_OR_INTEGER, {}, {"enum": ["5", 6]}])
def test_what_is_too_long_for_a_number_or_too_deep_is_a_string(schema: object) -> None:
    for text in LONG_TEXTS + DEEP_TEXTS:
        assert json.loads(write(schema, text)) == text
        assert json.loads(write(schema, text[:300], text[300:])) == text


def test_thousands_of_zeros_are_none() -> None:
    assert write(INTEGER, "0" * 5000) == "0"
    assert write(INTEGER, "0" * 5000 + "7") == "7"


def test_json_stays_as_it_was_written() -> None:
    assert write(OBJECT, ' {"b":1.50, "a" : "\\u00e9"} ') == '{"b":1.50, "a" : "\\u00e9"}'
    assert write(ARRAY, '"[1.50 ,2]"') == "[1.50 ,2]"
    assert write(ARRAY, "['é']") == '["é"]'


def test_odd_escapes_in_literals_are_not_warned_of() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert write(OBJECT, "{'regex': '\\d+'}") == '{"regex": "\\\\d+"}'
    assert caught == []


SCHEMAS = [schema for schema, _, _ in TABLE]
TEXTS = st.one_of(
    st.text(),
    st.text(alphabet="nulNUL0123456789.-+e_{}[]()'\",: \\x\n"),
    st.lists(
        st.sampled_from(
            ["null", "true", "False", "NaN", "5", "1e400", "-", ".", "[", "]", "{", "}", '"', "'", "\\", ":"]
        )
    ).map("".join),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    ).flatmap(
        lambda value: st.sampled_from([json.dumps(value), repr(value), json.dumps(json.dumps(value)), str(value)])
    ),
)


@settings(deadline=None, max_examples=500)
@given(st.sampled_from(SCHEMAS), TEXTS, st.integers(0))
def test_always_writes_the_same_json(schema: object, text: str, cut: int) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    def finite(digits: str) -> float:
        value = float(digits)
        assert math.isfinite(value)
        return value

    written = write(schema, text)
    json.loads(written, parse_constant=refuse, parse_float=finite)
    written.encode()
    assert write(schema, *text) == written
    assert write(schema, text[: cut % (len(text) + 1)], text[cut % (len(text) + 1) :]) == written
