"""Calls in JSON: well-formed ones, the slips models make, prose that only looks like one; all at every cut."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.chat.call_pieces import CallArguments, CallCut, CallEnded, CallStarted, Markup, Piece, TextPiece
from server.chat.conversation import Tool
from server.chat.hermes_calls import HermesCallParser
from tests.support.calls import Answer, has_object, parse, random_portions
from tests.support.calls import parse_every_cut as parse_all

TOOLS = (Tool("edit", {"name": "edit"}), Tool("now", {"name": "now"}))


def make() -> HermesCallParser:
    return HermesCallParser(TOOLS)


def parse_every_cut(text: str, truncated: bool = False) -> Answer:
    return parse_all(make, text, truncated, may_break_json=True)


def call(name: str, arguments: Any, **layout: Any) -> str:
    written = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False, **layout)
    return f"<tool_call>\n{written}\n</tool_call>"


NOW = call("now", {})
ARGUMENTS: list[Any] = [
    {},
    {"path": "a.py"},
    {"path": "größe/名 🙂", "text": 'quotes " and \\ and \n\t\r and / '},
    {"line": -12, "ratio": 0.5, "big": 1e300, "force": True, "no": None},
    {"options": {"a": [1, [2, {}], {"b": {}}], "": []}, "items": ["x", ""]},
    {"text": NOW},
    {"text": "</tool_call>"},
    {"text": "<tool_call>\n{"},
    {"text": '}}]]"', "</tool_call>": "{["},
    {"name": "other", "arguments": {"name": "x"}},
    {"text": "", "a": [], "b": {}},
]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=repr)
def test_well_formed_calls(arguments: Any) -> None:
    assert parse_every_cut(call("edit", arguments)).calls == [("edit", arguments)]
    for layout in ({"indent": 2}, {"separators": (",", ":")}, {"indent": "\t", "separators": (" ,", " : ")}):
        text = call("edit", arguments, **layout)
        assert parse(make, text) == parse(make, [text])
        assert parse(make, text).calls == [("edit", arguments)]


EDIT = '"name": "edit"'
ONE = '"arguments": {"a": 1}'
MENDED = {
    "no line breaks": (f"<tool_call>{{{EDIT}, {ONE}}}</tool_call>", {"a": 1}),
    "crlf": (f"<tool_call>\r\n{{{EDIT},\r\n{ONE}}}\r\n</tool_call>", {"a": 1}),
    "spaces everywhere": ('<tool_call> \n { "name" : "edit" , "arguments" : { "a" : 1 } } \n </tool_call>\n', {"a": 1}),
    "arguments first": (f"<tool_call>\n{{{ONE}, {EDIT}}}\n</tool_call>", {"a": 1}),
    "other members": (
        f'<tool_call>\n{{"id": [1, {{}}], {EDIT}, "type": "function", {ONE}, "x": null}}\n</tool_call>',
        {"a": 1},
    ),
    "parameters": (f'<tool_call>\n{{{EDIT}, "parameters": {{"a": 1}}}}\n</tool_call>', {"a": 1}),
    "no arguments": (f"<tool_call>\n{{{EDIT}}}\n</tool_call>", {}),
    "null": (f'<tool_call>\n{{{EDIT}, "arguments": null}}\n</tool_call>', {}),
    "text": (f'<tool_call>\n{{{EDIT}, "arguments": "{{\\"a\\": \\"\\\\n\\"}}"}}\n</tool_call>', {"a": "\n"}),
    "empty text": (f'<tool_call>\n{{{EDIT}, "arguments": ""}}\n</tool_call>', {}),
    "text with slips": (f'<tool_call>\n{{{EDIT}, "arguments": "{{\\"a\\": True,}}"}}\n</tool_call>', {"a": True}),
    "text first": (f'<tool_call>\n{{"arguments": "{{}}", {EDIT}}}\n</tool_call>', {}),
    "arguments twice": (f'<tool_call>\n{{{EDIT}, {ONE}, "arguments": {{"b": 2}}}}\n</tool_call>', {"a": 1}),
    "no closing tag": (f"<tool_call>\n{{{EDIT}, {ONE}}}", {"a": 1}),
    "one bracket missing": (f"<tool_call>\n{{{EDIT}, {ONE}\n</tool_call>", {"a": 1}),
    "all brackets missing": (
        f'<tool_call>\n{{{EDIT}, "arguments": {{"a": [1, {{"b": 2\n</tool_call>',
        {"a": [1, {"b": 2}]},
    ),
    "a bracket and the tag missing": (f"<tool_call>\n{{{EDIT}, {ONE}", {"a": 1}),
    "all brackets and the tag missing": (f'<tool_call>\n{{{EDIT}, "arguments": {{"a": 12', {"a": 12}),
    "nothing after the name": (f"<tool_call>\n{{{EDIT}", {}),
    "opened only": (f'<tool_call>\n{{{EDIT}, "arguments": {{', {}),
    "a bracket too many": (f"<tool_call>\n{{{EDIT}, {ONE}}}}}\n</tool_call>", {"a": 1}),
    "brackets too many": (f"<tool_call>\n{{{EDIT}, {ONE}}}}}\n}}\n</tool_call>\n", {"a": 1}),
    "commas too many": (f'<tool_call>\n{{{EDIT}, "arguments": {{"a": [1, ], }}, }}\n</tool_call>', {"a": [1]}),
    "a comma, then nothing": (f"<tool_call>\n{{{EDIT}, {ONE},\n</tool_call>", {"a": 1}),
    "python": (
        f'<tool_call>\n{{{EDIT}, "arguments": {{"a": True, "b": [False, None]}}}}\n</tool_call>',
        {"a": True, "b": [False, None]},
    ),
    "raw line breaks": (
        f'<tool_call>\n{{{EDIT}, "arguments": {{"a": "x\n\ty\r\n"}}}}\n</tool_call>',
        {"a": "x\n\ty\r\n"},
    ),
    "raw controls": (
        f'<tool_call>\n{{{EDIT}, "arguments": {{"a": "\x00\x1f\x7f"}}}}\n</tool_call>',
        {"a": "\x00\x1f\x7f"},
    ),
    "bad escapes": (
        f'<tool_call>\n{{{EDIT}, "arguments": {{"a": "\\d\\\'\\u12\\"\\x"}}}}\n</tool_call>',
        {"a": "\\d'\\u12\"\\x"},
    ),
    "escapes": (
        f'<tool_call>\n{{{EDIT}, "arguments": {{"\\u0061": "\\ud83d\\ude42\\/"}}}}\n</tool_call>',
        {"a": "🙂/"},
    ),
    "escaped names": (f'<tool_call>\n{{"n\\u0061me": "\\u0065dit", {ONE}}}\n</tool_call>', {"a": 1}),
    "a name with space": (f'<tool_call>\n{{"name": " edit\\n", {ONE}}}\n</tool_call>', {"a": 1}),
    "a second name": (f'<tool_call>\n{{{EDIT}, "name": "other", {ONE}}}\n</tool_call>', {"a": 1}),
}


@pytest.mark.parametrize("slip", MENDED)
def test_slips_are_mended(slip: str) -> None:
    text, expected = MENDED[slip]
    answer = parse_every_cut(text)
    assert answer.calls == [("edit", expected)]
    assert answer.texts == []


BROKEN = {
    "no comma": ('{"a": 1 "b": 2}', '{"a": 1 "b": 2}}\n'),
    "single quotes": ("{'a': 1}", "{'a': 1}}\n"),
    "no quotes": ("{a: 1}", "{a: 1}}\n"),
    "a quote in a string": ('{"a": "b" c"}', '{"a": "b" c"}}\n'),
    "no value": ('{"a": }', '{"a": }}\n'),
    "two commas": ('{"a": 1,, "b": 2}', '{"a": 1,, "b": 2}}\n'),
    "no number": ('{"a": 01}', '{"a": 01}}\n'),
    "infinity": ('{"a": Infinity}', '{"a": Infinity}}\n'),
    "a word": ('{"a": trueish}', '{"a": trueish}}\n'),
    "a comment": ('{"a": 1 // one\n}', '{"a": 1 // one\n}}\n'),
    "the wrong bracket": ('{"a": [1}', '{"a": [1}}\n'),
    "a tag": ('{"a": <b>}', '{"a": <b>}}\n'),
    "nothing": ("", f'{{{EDIT}, "arguments": }}\n'),
    "a bare word": ("none", f'{{{EDIT}, "arguments": none}}\n'),
    "an array that breaks": ("[1 2]", "[1 2]}\n"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_json_that_cannot_be_mended_goes_out_as_written(kind: str) -> None:
    arguments, shown = BROKEN[kind]
    answer = parse_every_cut(f'<tool_call>\n{{{EDIT}, "arguments": {arguments}}}\n</tool_call>\n{NOW}')
    assert answer.parts == [["edit", shown, True], ["now", "{}", True]]
    assert not has_object(shown)


def test_a_string_without_an_end_has_all_the_rest() -> None:
    text = f'<tool_call>\n{{{EDIT}, "arguments": {{"a": "b}}}}\n</tool_call>'
    assert parse_every_cut(text).parts == [["edit", '{"a": "b}}\\n</tool_call>', True]]


@pytest.mark.parametrize("arguments", ["[1, 2]", "5", '"text"', "true", '"[1]"', '"{\\"a\\": }"', "[" * 30 + "]" * 30])
def test_arguments_that_are_no_object_go_out_as_written(arguments: str) -> None:
    text = f'<tool_call>\n{{{EDIT}, "arguments": {arguments}}}\n</tool_call>'
    assert parse_every_cut(text).parts == [["edit", arguments, True]]


def test_what_follows_complete_arguments_breaks_nothing() -> None:
    text = f"<tool_call>\n{{{EDIT}, {ONE} and <more>}}\n</tool_call>\nDone."
    assert parse_every_cut(text).parts == [["edit", '{"a": 1}', True], "and <more>}\nDone."]
    unfinished = f'<tool_call>\n{{{EDIT}, {ONE}, "x": '
    assert parse_every_cut(unfinished).parts == [["edit", '{"a": 1}', True]]


@pytest.mark.parametrize("between", ["", "\n", "\n\n", " ", "\r\n"])
def test_several_calls(between: str) -> None:
    text = between.join([call("edit", {"a": 1}), NOW, call("strange", {"b": [2]})])
    assert parse_every_cut(text).parts == [
        ["edit", '{"a": 1}', True],
        ["now", "{}", True],
        ["strange", '{"b": [2]}', True],
    ]


def test_text_around_calls() -> None:
    text = f"First:\n\n{NOW}\nthen `x`\n{NOW}\nDone.\n"
    now = ["now", "{}", True]
    assert parse_every_cut(text).parts == ["First:", now, "\nthen `x`", now, "\nDone.\n"]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>",
        "The `<tool_call>` tag opens a call.",
        "<tool_call>\n",
        "<tool_call>\n{",
        "<tool_call>\n{}",
        '<tool_call>\n{"name"',
        '<tool_call>\n{"name": "edi',
        '<tool_call>\n{"name": ""}\n</tool_call>',
        '<tool_call>\n{"name": " "}\n</tool_call>',
        '<tool_call>\n{"name": 5}\n</tool_call>',
        '<tool_call>\n{"name": ["edit"]}\n</tool_call>',
        '<tool_call>\n{"names": "edit"}\n</tool_call>',
        '<tool_call>\n{"arguments": {"name": "edit"}}\n</tool_call>',
        '<tool_call>\n["name"]\n</tool_call>',
        "<tool_call>\n{name: edit}\n</tool_call>",
        "<tool_call>\n{'name': 'edit'}\n</tool_call>",
        "<tool_call>\n<function=edit>\n</function>\n</tool_call>",
        '{"name": "edit", "arguments": {}}',
        "</tool_call>",
        "a < b <",
        f"<tool_call>\n{{{'[' * 9}",
        '<tool_call>\n{"a": ' + "[" * 50 + "]" * 50 + "}",
        '<tool_call>\n{"name": ' + "9" * 50,
    ],
)
@pytest.mark.parametrize("truncated", [False, True])
def test_what_is_no_call_stays_text(text: str, truncated: bool) -> None:
    assert parse_every_cut(text, truncated).parts == [text]


@pytest.mark.parametrize(
    ("held", "rest"),
    [
        ("<tool_call>", " x"),
        ("<tool_call>\n\n", "x"),
        ("<tool_call>", "`"),
        ("<tool_call>\n", "["),
        ("<tool_call>\n{", "x"),
        ("<tool_call>\n{", "'"),
        ("<tool_call>\n{", "}"),
        ('<tool_call>\n{"name"', ";"),
        ('<tool_call>\n{"name": ', "x"),
        ('<tool_call>\n{"name": 5', ","),
        ('<tool_call>\n{"a": {"b": [1]}', "}"),
        ("<tool_cal", "s"),
    ],
)
def test_text_that_looks_like_a_call_goes_out_as_soon_as_it_cannot_be_one(held: str, rest: str) -> None:
    def texts(pieces: list[Piece]) -> str:
        assert all(isinstance(piece, TextPiece) for piece in pieces)
        return "".join(piece.text for piece in pieces if isinstance(piece, TextPiece))

    parser = make()
    assert texts(parser.feed("Tags: ")) == "Tags:"
    assert texts([piece for character in held for piece in parser.feed(character)]) == ""
    assert texts(parser.feed(rest)) == " " + held + rest


def test_a_call_streams() -> None:
    parser = make()
    assert parser.feed('Hi\n<tool_call>\n{"name": "ed') == [TextPiece("Hi", 0, 2)]
    assert parser.feed('it"') == [CallStarted(0, "edit", 2, 30)]
    assert parser.feed(', "arguments": {"a": "x') == [CallArguments(0, '{"a": "x', 30, 53)]
    assert parser.feed("y\\") == [CallArguments(0, "y", 53, 54)]
    assert parser.feed("nz") == [CallArguments(0, "\\nz", 54, 57)]
    assert parser.feed('", "b": 1') == [CallArguments(0, '", "b": ', 57, 65)]
    assert parser.feed("2}") == [CallArguments(0, "12", 65, 67)]
    assert parser.in_call
    assert parser.feed("}\n</tool") == [CallArguments(0, "}", 67, 69), CallEnded(0, 69, 69)]
    assert parser.feed("_call>\n") == [Markup(69, 82)]
    assert parser.finish() == [Markup(82, 83)]


@pytest.mark.parametrize("arguments", [{"a": "b", "c": [1]}, {}])
def test_cut_off_at_any_character(arguments: dict[str, Any]) -> None:
    text = call("edit", arguments)
    named, closed = text.index('edit"') + len('edit"'), text.index("\n</tool_call>")
    for length in range(1, len(text)):
        answer = parse(make, text[:length], truncated=True)
        assert parse(make, [text[:length]], truncated=True) == answer
        if length < named:
            assert answer.parts == [text[:length]]
        elif length < closed:
            assert answer.in_call
            assert isinstance(answer.pieces[-1], CallCut)
            assert not has_object(answer.parts[0][1])
        else:
            assert answer.calls == [("edit", arguments)]
            assert not answer.in_call


def test_without_tools_everything_is_text() -> None:
    assert parse(lambda: HermesCallParser(()), NOW).parts == [NOW]


def test_long_arguments_cost_their_length() -> None:
    for order in (f"{EDIT}, %s", f"%s, {EDIT}"):
        before, after = (f"<tool_call>\n{{{order}}}" % '"arguments": {"a": "%s"}').split("%s")
        portions = [before, *["a < b\\n"] * 20_000, after]
        assert len(parse(make, portions).calls[0][1]["a"]) == 6 * 20_000
        assert len(parse(make, ["".join(portions)]).calls[0][1]["a"]) == 6 * 20_000


@pytest.mark.parametrize("value", ["[" * 20_000, '{"a":' * 20_000, "9" * 20_000, "\\" * 9999])
@pytest.mark.parametrize("member", ["name", "arguments", "other"])
def test_nothing_is_too_deep_or_too_long(member: str, value: str) -> None:
    for text in (f'<tool_call>{{"{member}": {value}', f'<tool_call>{{{EDIT}, "{member}": "{value}'):
        parser = make()
        pieces = parser.feed(text) + parser.finish()
        assert pieces[-1].end == len(text)


UNITS = (
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    '"',
    '"a"',
    '"name"',
    '"arguments"',
    '"edit"',
    "1",
    "-0.5e3",
    "true",
    "None",
    "x",
    "\\",
    "\\n",
)
TAGS = (
    "<tool_call>",
    "</tool_call>",
    "<tool_call>\n{",
    EDIT,
    ONE,
    '"arguments": {',
    '"arguments": "{',
    "<",
    "</tool",
    " ",
    "\n",
    "é",
    "\x01",
)


class Composer:
    """Texts between a well-formed answer and noise, from a seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def text(self) -> str:
        text = "".join(self.part() for _ in range(self.dice.randint(1, 3)))
        return text[: self.dice.randint(0, len(text))] if self.dice.random() < 0.2 else text

    def part(self) -> str:
        if self.dice.random() < 0.3:
            return "".join(self.dice.choice((*TAGS, *UNITS)) for _ in range(self.dice.randint(0, 6)))
        text = call(self.dice.choice(["edit", "now", "é", ""]), self.dice.choice([*ARGUMENTS, self.value()]))
        for _ in range(self.dice.choice([0, 0, 1, 1, 2, 4])):
            at = self.dice.randint(0, len(text))
            text = text[:at] + self.dice.choice(("", *UNITS, *TAGS)) + text[at + self.dice.randint(0, 2) :]
        return text

    def value(self, depth: int = 0) -> Any:
        kind = self.dice.randint(0, 5 if depth < 3 else 3)
        if kind == 4:
            return [self.value(depth + 1) for _ in range(self.dice.randint(0, 3))]
        if kind == 5:
            return {self.dice.choice("abcé"): self.value(depth + 1) for _ in range(self.dice.randint(0, 3))}
        return self.dice.choice([0, -1.5, True, None, "", "x", 'é"\\\n', "</tool_call>", "{"])


@pytest.mark.parametrize("seed", range(12))
def test_composed_texts(seed: int) -> None:
    composer = Composer(seed)
    for _ in range(100):
        text, truncated = composer.text(), composer.dice.random() < 0.4
        whole = parse(make, [text], truncated, may_break_json=True)
        for portions in (text, *(random_portions(text, composer.dice) for _ in range(3))):
            assert parse(make, portions, truncated, may_break_json=True) == whole, repr(portions)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from([*TAGS, *UNITS]), max_size=14).map("".join), st.booleans())
def test_any_markup_gives_the_same_at_every_cut(text: str, truncated: bool) -> None:
    parse_every_cut(f"<tool_call>{{{text}", truncated)


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=5), JSON_VALUES, max_size=3), st.booleans(), st.randoms(use_true_random=False))
def test_any_arguments_arrive_as_they_are(arguments: dict[str, Any], ascii_only: bool, dice: random.Random) -> None:
    written = json.dumps({"name": "edit", "arguments": arguments}, ensure_ascii=ascii_only)
    text = f"<tool_call>\n{written}\n</tool_call>"
    assert parse(make, random_portions(text, dice)).calls == [("edit", arguments)]
