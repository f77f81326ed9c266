"""What changes between requests that say the same, and what of it reaches the prompt."""

import asyncio

import pytest

from server.chat.conversation import Conversation, Message, Tool
from server.chat.history import History
from server.chat.volatile import ToolSpellings, without_billing
from server.cli import bundled_model
from server.model import read_files, served_model
from server.prompts import PromptEncoder

BILLING = "x-anthropic-billing-header: cc_version=2.1.330.565; cc_entrypoint=sdk-cli;"
USER = Message("user", "hi")


def after(*messages: Message) -> list[str]:
    return [message.content for message in without_billing(Conversation(messages)).messages]


@pytest.mark.parametrize("between", ["", " ", "\n", "\n\n"])
def test_the_billing_line_goes(between: str) -> None:
    assert after(Message("system", f"{BILLING}{between}You are.\nMore."), USER) == ["You are.\nMore.", "hi"]


def test_a_message_of_nothing_else_goes_whole() -> None:
    assert after(Message("system", BILLING), Message("system", "You are."), USER) == ["You are.", "hi"]


@pytest.mark.parametrize(
    "kept",
    [
        Message("user", BILLING),
        Message("system", f"Quote: {BILLING}"),
        Message("system", "x-anthropic-billing-header: is what they call it; drop it."),
        Message("system", "x-anthropic-billing-header"),
        Message("assistant", f"{BILLING} x"),
    ],
)
def test_what_is_no_such_line_stays(kept: Message) -> None:
    assert after(kept) == [kept.content]


def tool(*keys: str) -> Tool:
    return Tool("f", {"name": "f", "parameters": {"properties": {key: {"type": "string"} for key in keys}}})


def test_keys_in_another_order_are_the_same_tools() -> None:
    known = ToolSpellings()
    first, again = (tool("a", "b"),), (tool("b", "a"),)
    assert known.first("", first) is first
    assert known.first("", again) is first
    assert known.first("other", again) is again
    assert known.first("", (tool("b", "a", "c"),)) != first
    assert known.first("", ()) == ()


def test_the_least_recently_used_are_forgotten_first() -> None:
    known = ToolSpellings(max_bytes=250)
    first, second = (tool("a", "b"),), (tool("c", "d"),)
    known.first("", first)
    known.first("", second)
    known.first("", first)
    known.first("", (tool("e", "f"),))
    assert known.first("", (tool("b", "a"),)) is first
    swapped = (tool("d", "c"),)
    assert known.first("", swapped) is swapped


def test_the_prompt_is_the_same() -> None:
    def ids(encoder: PromptEncoder, digits: str, *keys: str) -> tuple[int, ...]:
        system = Message("system", BILLING.replace("565", digits) + "You are.")
        return asyncio.run(encoder.chat(Conversation((system, USER), (tool(*keys),)))).ids

    model = served_model(read_files(bundled_model()), ("nano",))
    encoder = PromptEncoder(model, History())
    assert ids(encoder, "565", "a", "b") == ids(encoder, "ad9", "b", "a")
    as_it_stands = PromptEncoder(model)
    assert ids(as_it_stands, "565", "a", "b") == ids(as_it_stands, "ad9", "a", "b")
    assert ids(as_it_stands, "565", "a", "b") != ids(as_it_stands, "565", "b", "a")
