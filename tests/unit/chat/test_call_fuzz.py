"""Any text at all through the tool-call parser: nothing raises, nothing is lost, and cuts change nothing.

What must hold is checked in `tests.support.calls`, whatever the text.
"""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.chat.conversation import Tool
from server.chat.tool_calls import ToolCallParser
from tests.support.calls import parse, parse_every_cut, random_portions

ANY_OBJECT = {"anyOf": [{"type": "object"}, {"type": "null"}]}
KINDS = ("string", "integer", "number", "boolean", "object", "array", ["string", "null"])
PROPERTIES = {
    "path": {"type": "string"},
    "any": ANY_OBJECT,
    **{f"k{n}": {"type": kind} for n, kind in enumerate(KINDS)},
}
TOOLS = (
    Tool("write", {"name": "write", "parameters": {"type": "object", "properties": PROPERTIES}}),
    Tool("now", {"name": "now"}),
    Tool("mcp.files/größe-1", {"name": "mcp.files/größe-1", "parameters": {"properties": {"名": {}}}}),
)
NAMES = ("write", "now", "mcp.files/größe-1", "unknown", "a b", "", '"now"')
KEYS = (*PROPERTIES, "名", "undeclared", "", "path=x", "=", '"path"')
TAGS = ("<tool_call>", "</tool_call>", "</function>", "</parameter>", "<parameter=", "<function=", "<tool_response>")
WORDS = (
    "x",
    "5",
    "-0.0",
    "null",
    "TRUE",
    "a < b",
    "<br/>",
    "</",
    "<",
    ">",
    "=",
    '{"a": [1]}',
    "{'a': None}",
    "```",
    "é🙂",
)
SPACES = ("", "", "\n", "\n", " ", "\n\n", "\r\n", "\t", "\n  ", "\u2028", "\xa0")


def make() -> ToolCallParser:
    return ToolCallParser(TOOLS)


class Composer:
    """Texts between a well-formed answer and noise, from a seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def text(self) -> str:
        text = self.space().join(self.part() for _ in range(self.dice.randint(0, 4)))
        return text[: self.dice.randint(0, len(text))] if self.dice.random() < 0.3 else text

    def part(self) -> str:
        return self.call() if self.dice.random() < 0.6 else self.words()

    def call(self) -> str:
        body = [self.parameter() for _ in range(self.dice.randint(0, 3))]
        name = self.dice.choice(NAMES)
        parts = ["<tool_call>", f"<function={name}>", *body, "</function>", "</tool_call>"]
        kept = [part for part in parts if self.dice.random() > 0.1]
        return self.space().join(kept)

    def parameter(self) -> str:
        value = self.call() if self.dice.random() < 0.1 else self.words()
        parts = [f"<parameter={self.dice.choice(KEYS)}>", value, "</parameter>"]
        return self.space().join(part for part in parts if self.dice.random() > 0.1)

    def words(self) -> str:
        words = (self.dice.choice(TAGS if self.dice.random() < 0.2 else WORDS) for _ in range(self.dice.randint(0, 5)))
        return "".join(word + self.space() for word in words)

    def space(self) -> str:
        return self.dice.choice(SPACES)


@pytest.mark.parametrize("seed", range(20))
def test_composed_texts(seed: int) -> None:
    composer = Composer(seed)
    for _ in range(100):
        text, truncated = composer.text(), composer.dice.random() < 0.4
        whole = parse(make, [text], truncated)
        assert parse(make, text, truncated) == whole, repr(text)
        for _ in range(3):
            portions = random_portions(text, composer.dice)
            assert parse(make, portions, truncated) == whole, repr(portions)


MARKUP = st.sampled_from(
    [*TAGS, *WORDS, *SPACES, "<function=now>", "<function=write>", "<parameter=path>", "<parameter=k1>"]
)


@settings(max_examples=150, deadline=None)
@given(st.lists(MARKUP, max_size=12).map("".join), st.booleans())
def test_any_markup_gives_the_same_at_every_cut(text: str, truncated: bool) -> None:
    parse_every_cut(make, text, truncated)


@settings(deadline=None)
@given(st.text(max_size=60), st.booleans())
def test_any_characters(text: str, truncated: bool) -> None:
    assert parse(make, text, truncated) == parse(make, [text], truncated)


@pytest.mark.parametrize("seed", range(5))
def test_without_tools_everything_is_text(seed: int) -> None:
    text = Composer(seed).text()
    answer = parse(lambda: ToolCallParser(()), text)
    assert answer.parts == ([text] if text else [])
