"""Answers that come back: which are known again, and in which tokens."""

import json
from array import array
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.chat.conversation import Conversation, Message, ToolCall
from server.chat.events import TextDelta, ToolCallArguments, ToolCallStarted
from server.chat.history import Answer, History, PromptKey, means_the_same
from server.model import ServedModel
from server.prompts import Prompt, PromptEncoder
from tests.support.tiny_text_model import tiny_model

QUESTION = Message("user", "hi")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(max_size=2), values, max_size=3),
    max_leaves=6,
)


def answer(ids: list[int], text: str, *calls: tuple[str, str]) -> Answer:
    made = Answer()
    made.add(ids, [TextDelta(0, text)])
    for index, (name, arguments) in enumerate(calls):
        started = ToolCallStarted(0, index, f"call_{index}", name)
        fragments = [ToolCallArguments(0, index, part) for part in (arguments[:3], arguments[3:])]
        made.add([], [started, *fragments])
    return made


def message(text: str, *calls: tuple[str, dict[str, Any]]) -> Message:
    return Message("assistant", text, tuple(ToolCall("x", name, arguments) for name, arguments in calls))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (message("a"), message(" a\n"), True),
        (message("a"), message("a b"), False),
        (message("a b"), message("a  b"), False),
        (
            message("", ("f", {"x": 1, "y": [1, {"z": None}]})),
            message("\n", ("f", {"y": [1.0, {"z": None}], "x": 1})),
            True,
        ),
        (message("", ("f", {"x": 1})), message("", ("f", {"x": True})), False),
        (message("", ("f", {"x": 1})), message("", ("f", {"x": "1"})), False),
        (message("", ("f", {"x": 1})), message("", ("g", {"x": 1})), False),
        (message("", ("f", {"x": 1})), message("", ("f", {"x": 1, "y": None})), False),
        (message("", ("f", {}), ("g", {})), message("", ("g", {}), ("f", {})), False),
        (message("", ("f", {})), message(""), False),
        (message("", ("f", {"x": [1, 2]})), message("", ("f", {"x": [1]})), False),
    ],
)
def test_meaning(one: Message, other: Message, same: bool) -> None:
    assert means_the_same(one, other) is same
    assert means_the_same(other, one) is same


@given(JSON)
def test_everything_means_itself(value: Any) -> None:
    assert means_the_same(message("", ("f", {"x": value})), message("", ("f", {"x": value})))


def test_arguments_too_deep_to_compare_pass_for_different_ones() -> None:
    deep = json.loads("[" * 900 + "]" * 900)
    assert not means_the_same(message("", ("f", {"x": deep})), message("", ("f", {"x": [deep]})))


def test_an_answer_is_found_after_its_prompt_and_salt_only() -> None:
    history = History()
    history.remember("s", [1, 2, 3], answer([7, 8], "a"))
    found = history.find(PromptKey("s").of([1, 2, 3]), message("a "))
    assert found == array("I", [7, 8])
    assert history.find(PromptKey("s").of([1, 2]), message("a")) is None
    assert history.find(PromptKey("t").of([1, 2, 3]), message("a")) is None
    assert history.find(PromptKey("s").of([1, 2, 3]), message("b")) is None


def test_names_of_prompts_do_not_depend_on_how_they_grew() -> None:
    growing = PromptKey("s")
    assert growing.of([1], [2, 3]) == growing.of([1, 2], [3]) == growing.of([1, 2, 3]) == PromptKey("s").of([1, 2, 3])


def test_several_answers_to_one_prompt() -> None:
    history, key = History(), PromptKey("").of([1])
    for ids, text in (([5], "a"), ([6], "b"), ([7], "a ")):
        history.remember("", [1], answer(ids, text))
    assert history.find(key, message("a")) == array("I", [7])
    assert history.find(key, message("b")) == array("I", [6])


def test_calls_are_put_together() -> None:
    made = answer([1], "t", ("f", '{"x": 1}'), ("g", "{broken")).message()
    assert [(call.name, call.arguments) for call in made.tool_calls] == [
        ("f", {"x": 1}),
        ("g", {"arguments": "{broken"}),
    ]


def test_history_keeps_to_its_bytes() -> None:
    history = History(max_bytes=20_000)
    for i in range(100):
        history.remember("", [i], answer([i] * 50, "text " * 100))
        assert history.num_bytes <= 20_000
    assert history.find(PromptKey("").of([0]), message("text " * 100)) is None
    assert history.find(PromptKey("").of([99]), message("text " * 100)) is not None
    for _ in range(100):
        history.remember("", [1], answer([1] * 50, "same"))
    assert history.num_bytes <= 20_000


# --- in a prompt ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> ServedModel:
    return tiny_model()


def _render(model: ServedModel, history: History | None, *messages: Message, salt: str = "") -> Prompt:
    return PromptEncoder(model, history)._render(Conversation(messages), salt)


def test_an_answer_comes_back_in_its_own_tokens(model: ServedModel) -> None:
    history = History()
    first = _render(model, history, QUESTION)
    odd = [*model.tokenizer.encode(" wo", parse_special=False), *model.tokenizer.encode("rd\n", parse_special=False)]
    history.remember("", first.ids, answer(odd, " word\n"))
    second = _render(model, history, QUESTION, message("word"), QUESTION)
    assert second.num_replayed == 1
    assert second.ids[: len(first.ids) + len(odd)] == (*first.ids, *odd)
    assert model.tokenizer.is_special(second.ids[len(first.ids) + len(odd)])
    plain = _render(model, None, QUESTION, message("word"), QUESTION)
    assert plain.num_replayed == 0
    assert plain.ids != second.ids
    assert _render(model, history, QUESTION, message("word"), QUESTION, salt="other").ids == plain.ids


def test_after_an_edit_answers_are_text_again(model: ServedModel) -> None:
    history = History()
    history.remember("", _render(model, history, QUESTION).ids, answer([65], "a"))
    edited = (Message("user", "ho"), message("a"), QUESTION)
    assert _render(model, history, *edited) == _render(model, None, *edited)


def test_later_answers_follow_replayed_ones(model: ServedModel) -> None:
    history, messages = History(), [QUESTION]
    for turn in range(4):
        prompt = _render(model, history, *messages)
        assert prompt.num_replayed == turn
        history.remember("", prompt.ids, answer([65 + turn, 66], f"answer {turn}"))
        messages += [message(f"answer {turn} "), QUESTION]


def test_answers_before_an_unfinished_one_come_back_in_their_own_tokens(model: ServedModel) -> None:
    history = History()
    first = _render(model, history, QUESTION)
    history.remember("", first.ids, answer([65, 32], "a "))
    unfinished = Conversation((QUESTION, message("a"), QUESTION, message("{")), continue_final_message=True)
    prompt = PromptEncoder(model, history)._render(unfinished, "")
    assert prompt.num_replayed == 1
    assert prompt.ids[: len(first.ids) + 2] == (*first.ids, 65, 32)
    plain = PromptEncoder(model)._render(unfinished, "")
    assert prompt.ids[len(first.ids) + 2 :] == plain.ids[len(first.ids) + 1 :]


def test_an_unfinished_answer_is_text(model: ServedModel) -> None:
    history = History()
    history.remember("", _render(model, history, QUESTION).ids, answer([65], "a"))
    unfinished = Conversation((QUESTION, message("a")), continue_final_message=True)
    assert PromptEncoder(model, history)._render(unfinished, "").num_replayed == 0
