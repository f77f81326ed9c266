"""What texts a parameter's grammar admits, and which schemas have none."""

import contextlib
import itertools
import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.constraints.constraints import Constraints
from engine.types import Constraint
from server.chat.answer_form import TextForm, json_of
from server.chat.call_formats import CallFormat, call_grammar_of, call_parser
from server.chat.call_grammar import function_of, held_calls, single_value, whole_answer
from server.chat.call_markup import HELD_VALUE_CLOSE as CLOSE
from server.chat.call_pieces import CallArguments
from server.chat.conversation import Tool
from server.chat.value_grammar import FREE_TEXT, TEXT, NoGrammar, text_terminal, text_without, value_grammar
from tests.support.grammar_walks import EOS, TOKENS, vocabulary

CONSTRAINTS = Constraints(vocabulary, (EOS,))


def tool(properties: dict[str, Any], **more: Any) -> Tool:
    return Tool("f", {"name": "f", "parameters": {"type": "object", "properties": properties, **more}})


def admits(grammar: str, text: str) -> bool:
    matcher = CONSTRAINTS.compile(Constraint(grammar)).deep_copy()
    ids = [TOKENS.index(bytes([byte]), 1) for byte in text.encode()]
    return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


def test_text_ends_with_the_first_line_that_closes_it() -> None:
    definition = text_terminal().removeprefix(f"{TEXT}: /").removesuffix("/")
    pattern = re.compile(definition.replace("\\/", "/"), re.DOTALL)
    pieces = ["\n", "<", "</", "</parameter", ">", "parameter>", "a", "\n</parameter>", "\n\n</par"]
    for number in range(len(pieces) ** 4):
        text = "".join(pieces[number // len(pieces) ** i % len(pieces)] for i in range(4)) + CLOSE
        end = text.index(CLOSE) + len(CLOSE)
        assert (pattern.fullmatch(text) is not None) == (end == len(text)), text


@pytest.mark.parametrize("words", [("<ab>",), ("<ab>", "<c="), ("<ab>", "<ac", "<b")])
def test_text_without_words(words: tuple[str, ...]) -> None:
    pattern = re.compile(text_without(*words)[1:-1], re.DOTALL)
    for text in map("".join, itertools.product("<abc>=\n", repeat=6)):
        assert (pattern.fullmatch(text) is None) == any(word in text for word in words), text


@pytest.mark.parametrize("call_format", CallFormat)
def test_no_calls(call_format: CallFormat) -> None:
    grammar = call_grammar_of(call_format).no_calls
    for text in ("", "a < b", "<tool_call", "see <tool_cal<l> and\n</tool_call>\n<function>", "<"):
        assert admits(grammar, text)
    for text in ("<tool_call>", "I look.\n<tool_call>\n", "<<tool_call>"):
        assert not admits(grammar, text)
    assert admits(grammar, "I look.\n<function=f>") == (call_format is CallFormat.HERMES)


@pytest.mark.parametrize("call_format", CallFormat)
@pytest.mark.parametrize("several", [False, True])
def test_calls_or_json_in_their_stead(call_format: CallFormat, several: bool) -> None:
    grammar = call_grammar_of(call_format)
    text = {
        CallFormat.XML: "<function=f>\n<parameter=n>\n5\n</parameter>\n</function>",
        CallFormat.HERMES: '{"name": "f", "arguments": {"n": 5}}',
    }[call_format]
    call = f"<tool_call>\n{text}\n</tool_call>"
    functions = [grammar.function_of(tool({"n": {"type": "integer"}}, required=["n"]), "t", True)]
    form = TextForm("json_schema", {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}, "p")
    whole = grammar.whole_answer(functions, several, json_of(form))
    assert admits(whole, call)
    assert admits(whole, '{"a": "<tool_call>"}')
    assert admits(whole, f"{call}\n{call}") == several
    for other in ("", "I look.", '{"a": 5}', call.replace("5", "x"), f'{{"a": "x"}}\n{call}', f'{call}\n{{"a": "x"}}'):
        assert not admits(whole, other)


@pytest.mark.parametrize(
    ("schema", "fits", "does_not"),
    [
        ({"type": "string"}, ["", "a\nb", "</parameter>", "5", "null"], []),
        ({}, ["", "x", "[1]", "null"], []),
        ({"type": "string", "minLength": 2, "maxLength": 3}, ["ab", "äöü"], ["a", "abcd"]),
        ({"type": "string", "pattern": "^a+$"}, ["a", "aaa"], ["", "ab"]),
        ({"type": "string", "pattern": "b"}, ["b", "abc\n"], ["a"]),
        ({"type": "string", "pattern": "^/a\\.b"}, ["/a.b", "/a.b and more"], ["a.b", "/axb"]),
        ({"type": "integer"}, ["5", "-3"], ["5.5", "x", "", "007"]),
        ({"type": "integer", "minimum": 1, "maximum": 12}, ["1", "12"], ["0", "13"]),
        ({"type": "number"}, ["5", "0.25"], ["1e400", "NaN", "1" * 30]),
        ({"type": "boolean"}, ["true", "false"], ["True", "yes"]),
        ({"type": "null"}, ["null"], ["", "None"]),
        ({"enum": ["a", "b c", 5, None]}, ["a", "b c", "5", "null"], ["c", '"a"', ""]),
        ({"const": "x\ny"}, ["x\ny"], ["x"]),
        ({"type": "string", "enum": ["a", 5]}, ["a"], ["5"]),
        ({"type": "array", "items": {"type": "string"}}, ['["a"]', "[]", '[\n  "a"\n]'], ["a", "[1]", "['a']"]),
        ({"type": "object"}, ["{}", '{"a": [1]}'], ["[]", "x"]),
        ({"type": ["string", "null"]}, ["null", "text", "nullable", "null\nx"], []),
        ({"type": ["string", "boolean"]}, ["true", "false", "truest", "False alarm"], ["True"]),
        ({"type": ["string", "integer"], "minimum": 3}, ["3", "text", "-x"], ["2", "2.5"]),
        (
            {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]},
            ["a", "[1]"],
            ['["a"]', "(1)"],
        ),
        ({"oneOf": [{"type": "boolean"}, {"enum": ["auto"]}]}, ["true", "auto"], ["other"]),
        ({"allOf": [{"type": "string"}, {"maxLength": 2}]}, ["ab"], ["abc"]),
        ({"$ref": "#/$defs/Mode"}, ["on"], ["off", "x"]),
        ({"$ref": "#/$defs/Mode", "description": "d"}, ["on"], ["x"]),
        ({"type": "integer", "nullable": True}, ["null", "1"], ["x"]),
        ({"type": "string", "format": "date"}, ["2026-01-01", "soon"], []),
    ],
)
def test_values(schema: dict[str, Any], fits: list[str], does_not: list[str]) -> None:
    definitions = {"Mode": {"enum": ["on"]}}
    [parameter] = function_of(tool({"p": schema}, **{"$defs": definitions}), "t", is_strict=True).parameters
    grammar = single_value(parameter)
    assert [text for text in fits if not admits(grammar, text + CLOSE)] == []
    assert [text for text in does_not if admits(grammar, text + CLOSE)] == []


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        (False, "no value"),
        ({"enum": []}, "no value"),
        ({"enum": ["a\n</parameter>"]}, "no value"),
        ({"type": "string", "const": 5}, "no value"),
        ({"allOf": [{"type": "string"}, {"type": "integer"}]}, "type is said twice"),
        ({"type": "string", "minLength": 3, "maxLength": 2}, "less than"),
        ({"type": "string", "pattern": "\ud800"}, "pattern cannot be read"),
        ({"$ref": "#/$defs/Loop"}, "refers to itself"),
    ],
)
def test_schemas_without_a_grammar(schema: Any, says: str) -> None:
    definitions = {"Loop": {"anyOf": [{"$ref": "#/$defs/Loop"}]}}
    odd = tool({"p": schema}, required=["p"], **{"$defs": definitions})
    with pytest.raises(NoGrammar, match=says) as caught:
        function_of(odd, "tools[3].function", is_strict=True)
    assert caught.value.path == "tools[3].function.parameters.properties.p"
    lenient = function_of(odd, "tools[3].function", is_strict=False)
    CONSTRAINTS.compile(Constraint(held_calls([lenient])))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"minProperties": 1}, "minProperties"),
        ({"anyOf": [{"required": ["p"]}]}, "anyOf"),
        ({"required": ["q"], "additionalProperties": False}, "no value"),
    ],
)
def test_rules_for_all_parameters_that_cannot_be_held_to(more: dict[str, Any], says: str) -> None:
    ruled = tool({"p": {"type": "string"}}, **more)
    with pytest.raises(NoGrammar, match=says):
        function_of(ruled, "t", is_strict=True)
    CONSTRAINTS.compile(Constraint(held_calls([function_of(ruled, "t", is_strict=False)])))


@pytest.mark.parametrize("name", ["", " a", "a>b", "a\nb"])
def test_names_that_the_form_cannot_carry(name: str) -> None:
    with pytest.raises(NoGrammar, match="name"):
        function_of(tool({name: {}}, required=[name]), "t", is_strict=True)


A, B = "<parameter=a>\n1\n</parameter>\n", "<parameter=b>\nx\n</parameter>\n"


@pytest.mark.parametrize("more_parameters", [0, 70])
def test_which_parameters_come(more_parameters: int) -> None:
    """Each once at most, the required ones certainly; in any order, unless they are very many."""
    others = {f"p{number}": {"type": "string"} for number in range(more_parameters)}
    listed = tool({"a": {"type": "integer"}, "b": {"type": "string"}, **others}, required=["a"])
    grammar = whole_answer([function_of(listed, "t", is_strict=True)], several=True)

    def call(*parameters: str) -> str:
        return "<tool_call>\n<function=f>\n" + "".join(parameters) + "</function>\n</tool_call>"

    assert admits(grammar, call(A))
    assert admits(grammar, call(A, B))
    assert admits(grammar, call(B, A)) == (not more_parameters)
    assert admits(grammar, call(A) + "\n" + call(A, B))
    assert not any(admits(grammar, call(*wrong)) for wrong in ((), (B,), (A, A), (A, B, A)))
    assert not admits(grammar, call(A) + "\nDone")
    assert not admits(whole_answer([function_of(listed, "t", is_strict=True)], several=False), call(A) + "\n" + call(A))


def test_tools_without_parameters() -> None:
    anything = function_of(Tool("any", {"name": "any"}), "t", is_strict=True)
    nothing = function_of(tool({}, additionalProperties=False), "t", is_strict=True)
    grammar = whole_answer([anything, anything, nothing], several=False)
    assert admits(grammar, "<tool_call>\n<function=any>\n<parameter=k>\nv\n</parameter>\n</function>\n</tool_call>")
    assert admits(grammar, "<tool_call>\n<function=f>\n</function>\n</tool_call>")
    assert not admits(grammar, "<tool_call>\n<function=f>\n<parameter=k>\nv\n</parameter>\n</function>\n</tool_call>")


def _allowed_after(constraint: Constraint, *pieces: str) -> set[bytes] | None:
    """What may come after these, of which those that are tokens come as such."""
    ids: list[int] = []
    for piece in pieces:
        raw = piece.encode()
        ids += [TOKENS.index(raw)] if raw in TOKENS else [TOKENS.index(bytes([byte]), 1) for byte in raw]
    CONSTRAINTS.open(1, constraint)
    CONSTRAINTS.begin_mask(1, ids, 0)
    mask = CONSTRAINTS.mask(1)
    return None if mask is None else {TOKENS[i] for i in range(len(TOKENS)) if mask.bits[i // 8] >> i % 8 & 1}


def test_a_call_of_its_own_accord_is_held_from_its_function_on() -> None:
    grammar = call_grammar_of(CallFormat.XML)
    function = grammar.function_of(tool({"n": {"type": "integer"}}, required=["n"]), "t", False)
    constraint = Constraint(grammar.held_calls([function]), grammar.opening)
    assert _allowed_after(constraint, "<tool_call>", "\n") is None
    assert _allowed_after(constraint, "<tool_call>", "\n<function") == {b"="}
    assert _allowed_after(constraint, "Well:\n<function") is None  # code may begin like this
    assert _allowed_after(constraint, "Well:\n", "<function=") == {b"f"}
    assert _allowed_after(constraint, "see ", "<function=") is None
    call = ("<tool_call>", "\n", "<function=", "f>", "\n<parameter=", "n>\n5", "\n</parameter>", "\n", "</function>")
    assert _allowed_after(constraint, *call) == {b"\n", TOKENS[EOS]}
    assert _allowed_after(constraint, *call, "\n", "</tool_call>") is None


def test_a_json_call_of_its_own_accord_is_held_from_its_object_on() -> None:
    grammar = call_grammar_of(CallFormat.HERMES)
    function = grammar.function_of(tool({"n": {"type": "integer"}}, required=["n"]), "t", False)
    constraint = Constraint(grammar.held_calls([function]), grammar.opening)
    assert _allowed_after(constraint, "<tool_call>", "\n") is None
    assert _allowed_after(constraint, "<tool_call>", "\n{") == {b'"'}
    assert _allowed_after(constraint, "<tool_call>", "\n", '{"') == {b"n"}
    assert _allowed_after(constraint, 'So {"name') is None
    call = ("<tool_call>", "\n", '{"', 'name": "f", "arguments": {"n": 5}}', "\n", "</tool_call>")
    assert _allowed_after(constraint, *call) is None


KEYWORDS = [
    *(
        "type",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "$defs",
        "properties",
        "required",
        "items",
        "pattern",
    ),
    *("additionalProperties", "minLength", "maxLength", "minimum", "nullable", "description", "prefixItems", "x"),
]
ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.sampled_from(["string", "#", "#/$defs/x", "(", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(KEYWORDS), ODD, max_size=5))
def test_what_is_no_schema_has_no_grammar_and_breaks_nothing(schema: dict[str, Any]) -> None:
    for given_tool in (Tool("f", {"name": "f", "parameters": schema}), tool({"p": schema}, required=["p"])):
        for form in CallFormat:
            grammar = call_grammar_of(form)
            assert grammar.held_calls([grammar.function_of(given_tool, "t", False)])
            with contextlib.suppress(NoGrammar):
                grammar.whole_answer([grammar.function_of(given_tool, "t", True)], True)


@pytest.mark.parametrize("length", [float("inf"), float("nan"), 2.5, -1, True, "2", None])
def test_lengths_that_are_none_do_not_count(length: Any) -> None:
    schema = {"type": "string", "minLength": length, "maxLength": length}
    assert value_grammar(schema, {}, lenient=False) == FREE_TEXT


@pytest.mark.parametrize(
    ("parameters", "text", "expected"),
    [
        ({"allOf": [{"properties": {"p": {"type": "integer"}}}], "required": ["p"]}, "5", 5),
        (
            {"$ref": "#/$defs/T", "$defs": {"T": {"properties": {"p": {"type": "null"}}, "required": ["p"]}}},
            "null",
            None,
        ),
        ({"additionalProperties": {"type": "boolean"}, "required": ["p"]}, "true", True),
    ],
)
def test_what_the_grammar_types_the_parser_types(parameters: dict[str, Any], text: str, expected: Any) -> None:
    given_tool = Tool("f", {"name": "f", "parameters": {"type": "object", **parameters}})
    grammar = call_grammar_of(CallFormat.XML)
    answer = f"<tool_call>\n<function=f>\n<parameter=p>\n{text}\n</parameter>\n</function>\n</tool_call>"
    assert admits(grammar.whole_answer([grammar.function_of(given_tool, "t", True)], False), answer)
    assert not admits(
        grammar.whole_answer([grammar.function_of(given_tool, "t", True)], False), answer.replace(text, "x")
    )
    parser = call_parser(CallFormat.XML, (given_tool,), are_held=True)
    fragments = [p.fragment for p in [*parser.feed(answer), *parser.finish()] if isinstance(p, CallArguments)]
    assert json.loads("".join(fragments)) == {"p": expected}


def test_schemas_that_are_nested_too_deep() -> None:
    deep: Any = {"type": "string"}
    for _ in range(900):
        deep = {"type": "array", "items": deep}
    given_tool = tool({"p": deep}, required=["p"])
    for form in CallFormat:
        grammar = call_grammar_of(form)
        assert grammar.held_calls([grammar.function_of(given_tool, "t", False)])
        with contextlib.suppress(NoGrammar):
            grammar.function_of(given_tool, "t", True)
