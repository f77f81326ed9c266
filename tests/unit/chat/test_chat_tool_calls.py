"""The tool-call parser: well-formed calls, the slips models make, prose that only looks like one; all at every cut."""

import json
from typing import Any

import pytest

from server.chat.call_pieces import CallArguments, CallCut, CallEnded, CallStarted, Markup, TextPiece
from server.chat.conversation import Conversation, Message, Tool, ToolCall
from server.chat.template import ChatTemplate
from server.chat.tool_calls import ToolCallParser
from tests.support import calls as checked
from tests.support.calls import Answer, MakeParser, parse

TOOLS = (
    Tool(
        "write_file",
        {
            "name": "write_file",
            "parameters": {
                "type": "object",
                "properties": {
                    "path": {"type": "string"},
                    "content": {"type": "string"},
                    "mode": {"type": "integer"},
                    "options": {"type": "object"},
                },
            },
        },
    ),
    Tool("now", {"name": "now"}),
    Tool("odd one", {"name": "odd one", "parameters": {"properties": ["no", "mapping"]}}),
)


def make(tools: tuple[Tool, ...] = TOOLS) -> MakeParser:
    return lambda: ToolCallParser(tools)


def parse_every_cut(text: str, tools: tuple[Tool, ...] = TOOLS, truncated: bool = False) -> Answer:
    return checked.parse_every_cut(make(tools), text, truncated)


def call(name: str, *parameters: tuple[str, str]) -> str:
    body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in parameters)
    return f"<tool_call>\n<function={name}>\n{body}</function>\n</tool_call>"


def test_text_then_calls() -> None:
    first = call("write_file", ("path", "a.py"), ("content", "x = 1\n\n"), ("mode", "420"), ("options", '{"a": [1]}'))
    answer = parse_every_cut(f"I'll write it.\n\n{first}\n{call('now')}\n")
    assert answer.parts[0] == "I'll write it."
    assert answer.calls == [
        ("write_file", {"path": "a.py", "content": "x = 1\n\n", "mode": 420, "options": {"a": [1]}}),
        ("now", {}),
    ]
    assert len(answer.parts) == 3
    assert not answer.in_call


def test_values_follow_references_of_the_schema() -> None:
    parameters = {
        "properties": {"count": {"$ref": "#/$defs/Count"}, "force": {"type": "boolean"}},
        "$defs": {"Count": {"anyOf": [{"type": "integer"}, {"type": "null"}]}},
    }
    tool = Tool("draw", {"name": "draw", "parameters": parameters})
    answer = parse_every_cut(call("draw", ("count", "3"), ("force", "yes"), ("other", "3")), (tool,))
    assert answer.calls == [("draw", {"count": 3, "force": "yes", "other": "3"})]


def test_what_the_template_writes_is_read_back(template: ChatTemplate) -> None:
    arguments = {"path": "", "content": "\n two\n\nlines \n", "mode": 7, "options": {"é": None, "x": [True, 1.5]}}
    calls = (ToolCall("1", "write_file", arguments), ToolCall("2", "now", {}))
    rendered = template.render(
        Conversation((Message("assistant", "Now:", calls),), template_kwargs={"add_generation_prompt": False})
    )
    text = rendered.text.removeprefix("<|im_start|>assistant\n").removesuffix("<|im_end|>\n")
    answer = parse_every_cut(text)
    assert answer.parts[0] == "Now:"
    assert answer.calls == [("write_file", arguments), ("now", {})]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a.py", "a.py"),
        ("", ""),
        ("\n", "\n"),
        ("if a < b:\n    x <<= 1\n", "if a < b:\n    x <<= 1\n"),
        ("<a>\n  <parameter name='x'>1</parameter>\n</a>", "<a>\n  <parameter name='x'>1</parameter>\n</a>"),
        ("<function=now>\n</function>\nmore", "<function=now>\n</function>\nmore"),
        ("a\n</tool_call> b\n</tool_call>\nc", "a\n</tool_call> b\n</tool_call>\nc"),
        ("<parameter=path>\nx", "<parameter=path>\nx"),
        ("<parameter=unknown>\nx", "<parameter=unknown>\nx"),
        ('quotes " and \\ and \t é 🙂', 'quotes " and \\ and \t é 🙂'),
    ],
)
def test_values_may_hold_anything(value: str, expected: str) -> None:
    text = call("write_file", ("path", "p"), ("content", value), ("mode", "1"))
    assert parse_every_cut(text).calls == [("write_file", {"path": "p", "content": expected, "mode": 1})]


@pytest.mark.parametrize(
    ("text", "before", "calls"),
    [
        pytest.param("<function=now>\n</function>\n</tool_call>", [], [("now", {})], id="no opener"),
        pytest.param("Look:\n\n  <function=now>\n</function>", ["Look:"], [("now", {})], id="no opener, after text"),
        pytest.param("<tool_call><function=now></function></tool_call>", [], [("now", {})], id="no newlines"),
        pytest.param("<tool_call>\n<function=now>\n</function>", [], [("now", {})], id="no call closer"),
        pytest.param("<tool_call>\n<function=now>\n</tool_call>", [], [("now", {})], id="no function closer"),
        pytest.param("<tool_call>\n<function=now>\n", [], [("now", {})], id="no closer at all"),
        pytest.param('<tool_call>\n<function="now" >\n</function>', [], [("now", {})], id="quoted name"),
        pytest.param("<tool_call>\n<function=odd one>\n</function>", [], [("odd one", {})], id="odd offered name"),
        pytest.param(
            "<tool_call>\n<function=now>\n<tool_call>\n<function=now>\n</function>\n</tool_call>",
            [],
            [("now", {}), ("now", {})],
            id="a call in a call",
        ),
        pytest.param(
            "<tool_call>\n<function=now>\n</function>\n<function=now>\n</function>\n</tool_call>",
            [],
            [("now", {}), ("now", {})],
            id="two functions in one call",
        ),
        pytest.param(
            "<tool_call>\n<function=write_file>\n<parameter=path>\na\n<parameter=mode>\n3\n</function>\n</tool_call>",
            [],
            [("write_file", {"path": "a", "mode": 3})],
            id="no parameter closers",
        ),
        pytest.param(
            "<tool_call>\n<function=write_file>\n<parameter=path>\na\n</tool_call>\n" + call("now"),
            [],
            [("write_file", {"path": "a"}), ("now", {})],
            id="only the call closer",
        ),
        pytest.param(
            "<tool_call>\n<function=write_file>\n<parameter=path>\na\n</function>\n",
            [],
            [("write_file", {"path": "a"})],
            id="no parameter closer, then the end",
        ),
        pytest.param(
            "<tool_call>\n<function=write_file>\n<parameter=path>\na/b\n",
            [],
            [("write_file", {"path": "a/b"})],
            id="the end inside a value",
        ),
        pytest.param(
            "<tool_call>\n<function=write_file>\n<parameter=path=a.py>\n</parameter>\n<parameter=content=x\ny\n"
            "</parameter>\n</function>\n</tool_call>",
            [],
            [("write_file", {"path": "a.py", "content": "x\ny"})],
            id="value in the tag",
        ),
        pytest.param(call("Now"), [], [("Now", {})], id="unknown function with an opener"),
        pytest.param(
            call("mcp.x/y:z-1", ("n", "5")), [], [("mcp.x/y:z-1", {"n": "5"})], id="unknown function with a parameter"
        ),
        pytest.param(call("now", ("path", "x")), [], [("now", {"path": "x"})], id="undeclared parameter"),
    ],
)
def test_slips_are_mended(text: str, before: list[str], calls: list[tuple[str, Any]]) -> None:
    answer = parse_every_cut(text)
    assert [part for part in answer.parts if isinstance(part, str)] == before
    assert answer.calls == calls
    assert all(part[2] for part in answer.parts if isinstance(part, list))
    assert not answer.in_call


@pytest.mark.parametrize(
    "text",
    [
        "plain text\n\n",
        " \n ",
        "",
        "The `<tool_call>` tag opens a call.",
        "<tool_call>",
        "<tool_call>\n<function=",
        "<tool_call>\n<function=now",
        "<tool_call>\n<function=a b\nc>",
        "<tool_call>\n<function=>\n",
        "<tool_call>\n\n{no function}",
        "<tool_call><tool_call>x",
        "see <function=now> for this",
        "\n<function=unknown>\n</function>",
        "\n<function=nowhere>",
        "a < b, c << d, <",
        "</tool_call>\n</function>",
        "<parameter=path>\nx\n</parameter>",
    ],
)
def test_what_is_no_call_stays_text(text: str) -> None:
    assert parse_every_cut(text).parts == ([text] if text else [])


def test_without_tools_everything_is_text() -> None:
    text = f"Example:\n{call('now')}\n"
    assert parse_every_cut(text, tools=()).parts == [text]


def test_text_after_and_inside_a_call_is_not_lost() -> None:
    inside = "<tool_call>\n<function=now>\nstray <b>\n</function>\n</tool_call>"
    answer = parse_every_cut(f"{inside}\nand then")
    assert answer.calls == [("now", {})]
    assert answer.parts[1] == "stray <b>\nand then"
    unfinished = parse_every_cut("<tool_call>\n<function=now>\n<parameter=pa")
    assert unfinished.parts == [["now", "{}", True], "<parameter=pa"]


@pytest.mark.parametrize(
    "length", range(1, len("<tool_call>\n<function=write_file>\n<parameter=path>\nab\n</parameter>"))
)
def test_a_truncated_call_is_never_complete(length: int) -> None:
    text = call("write_file", ("path", "ab"), ("content", "c"))[:length]
    answer = parse_every_cut(text, truncated=True)
    if answer.in_call:
        assert answer.parts[0][0] == "write_file"
        assert not answer.parts[0][2]
        with pytest.raises(json.JSONDecodeError):
            json.loads(answer.parts[0][1])
    else:
        assert answer.parts == [text]


def test_truncated_after_a_whole_call() -> None:
    answer = parse_every_cut(call("now")[: -len("call>")], truncated=True)
    assert answer.calls == [("now", {})]
    assert not answer.in_call


def test_text_and_arguments_stream() -> None:
    parser = ToolCallParser(TOOLS)
    assert parser.feed("Hello <tool") == [TextPiece("Hello", 0, 5)]
    assert parser.feed("_box> ") == [TextPiece(" <", 5, 7), TextPiece("tool_box>", 7, 16)]
    assert parser.feed("<tool_call> in prose") == [TextPiece(" <", 16, 18), TextPiece("tool_call> in prose", 18, 37)]
    assert parser.feed("\n<tool_call>\n<function=write_file>\n<parameter=content>\n") == [
        CallStarted(0, "write_file", 37, 71),
        CallArguments(0, '{"content": ', 71, 91),
    ]
    assert parser.in_call
    assert parser.feed('say "hi') == [CallArguments(0, '"say \\"hi', 91, 99)]
    assert parser.feed("\n") == []
    assert parser.feed("x</par") == [CallArguments(0, "\\nx", 99, 101)]
    assert parser.feed("ameter>\n</function>") == [
        CallArguments(0, '"', 101, 101),
        CallArguments(0, "}", 101, 114),
        CallEnded(0, 114, 125),
    ]
    assert not parser.in_call
    assert parser.feed("\n</tool_call>") == [Markup(125, 138)]
    assert parser.feed(" \n") == []
    assert parser.finish() == [Markup(138, 140)]


def test_stray_text_has_no_place_of_its_own() -> None:
    text = "<tool_call>\n<function=now>\nstray\n</function>\n</tool_call>\nand then"
    assert parse_every_cut(text).pieces == [
        CallStarted(0, "now", 0, 26),
        CallArguments(0, "{}", 26, 33),
        CallEnded(0, 33, 44),
        TextPiece("stray", 44, 44),
        Markup(44, 57),
        TextPiece("\nand then", 57, 66),
    ]


def test_what_is_held_back_of_a_cut_call_has_its_place() -> None:
    text = "<tool_call>\n<function=write_file>\n<parameter=mode>\n12"
    assert parse_every_cut(text, truncated=True).pieces == [
        CallStarted(0, "write_file", 0, 33),
        CallArguments(0, '{"mode": ', 33, 50),
        CallCut(0, 50, 53),
    ]


def test_a_long_value_costs_its_length() -> None:
    portions = ["<tool_call>\n<function=write_file>\n<parameter=content>\n", *["a < b\n"] * 20_000, "\n</parameter>"]
    assert len(parse(make(), portions).calls[0][1]["content"]) == 6 * 20_000
    assert len(parse(make(), ["".join(portions)]).calls[0][1]["content"]) == 6 * 20_000
