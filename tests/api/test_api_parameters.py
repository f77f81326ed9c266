"""What becomes of every parameter: honoured, refused by name, knowingly ignored, or a stranger."""

import logging
from typing import Any

import pytest

from engine.types import RepetitionDetection
from server.dialects.openai.parameters import IGNORED, REFUSED
from server.dialects.openai.schema import ChatCompletionRequest, CompletionRequest
from tests.support.api import WEATHER, Api
from tests.support.tiny_text_model import tiny_model


@pytest.mark.parametrize(
    ("given", "param", "expected"),
    [
        ({"temperature": 0}, "temperature", 0.0),
        ({"top_p": 0.5}, "top_p", 0.5),
        ({"top_k": 40}, "top_k", 40),
        ({"top_k": -1}, "top_k", 0),
        ({"top_k": 0}, "top_k", 0),
        ({"min_p": 0.1}, "min_p", 0.1),
        ({"presence_penalty": 1.5}, "presence_penalty", 1.5),
        ({"frequency_penalty": -0.5}, "frequency_penalty", -0.5),
        ({"repetition_penalty": 1.1}, "repetition_penalty", 1.1),
        ({"repeat_penalty": 1.1}, "repetition_penalty", 1.1),
        ({"logit_bias": {"7": -100, "9": 1.5}}, "logit_bias", {7: -100.0, 9: 1.5}),
        ({"seed": 1234}, "seed", 1234),
        ({"stop_token_ids": [3]}, "stop_token_ids", (3,)),
        ({"min_tokens": 2}, "min_tokens", 2),
        ({"ignore_eos": True}, "ignore_eos", True),
        ({"allowed_token_ids": [5, 6, 5, 5]}, "allowed_token_ids", (5, 6)),
        ({"repetition_detection": None}, "repetition_detection", None),
        ({"repetition_detection": False}, "repetition_detection", None),
        ({"repetition_detection": {}}, "repetition_detection", None),
        ({"repetition_detection": {"max_pattern_size": 0, "min_count": 3}}, "repetition_detection", None),
        ({"repetition_detection": True}, "repetition_detection", RepetitionDetection(256, 1, 4, 1024)),
        (
            {"repetition_detection": {"max_pattern_size": 20, "min_count": 3}},
            "repetition_detection",
            RepetitionDetection(20, 1, 3),
        ),
        (
            {"repetition_detection": {"max_pattern_size": 20, "min_pattern_size": 0, "min_count": 3}},
            "repetition_detection",
            RepetitionDetection(20, 1, 3),
        ),
        (
            {"repetition_detection": {"max_pattern_size": 9, "min_pattern_size": 2, "min_count": 4, "other": 1}},
            "repetition_detection",
            RepetitionDetection(9, 2, 4),
        ),
        ({"max_tokens": 12}, "max_tokens", 12),
        ({"max_completion_tokens": 12}, "max_tokens", 12),
        ({"logprobs": True, "top_logprobs": 5}, "logprobs", 5),
    ],
)
def test_honoured(given: dict[str, Any], param: str, expected: Any) -> None:
    api = Api()
    assert api.chat(**given).status_code == 200
    assert getattr(api.asked.sampling, param) == expected


def test_priority_goes_to_the_engine() -> None:
    api = Api()
    api.chat(priority=-3)
    assert api.asked.priority == -3


def test_the_models_own_defaults_stand_where_the_request_is_silent() -> None:
    model = tiny_model(temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05, max_new_tokens=100)
    api = Api(model=model)
    api.chat(top_p=0.9, max_tokens=None)
    sampling = api.asked.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p) == (0.7, 20, 0.9)
    assert (sampling.repetition_penalty, sampling.max_tokens) == (1.05, 100)


@pytest.mark.parametrize(
    ("settings", "asked", "granted"),
    [({}, 32000, 4096 - 21), ({}, None, 4096 - 21), ({}, -1, 4096 - 21), ({"max_output_tokens": 50}, 32000, 50)],
)
def test_the_answers_limit_is_cut_down_to_what_there_is_room_for(
    settings: dict[str, Any], asked: int | None, granted: int
) -> None:
    api = Api(**settings)
    assert api.chat(max_tokens=asked).status_code == 200
    assert api.asked.sampling.max_tokens == granted


def test_null_means_absent() -> None:
    names = (set(ChatCompletionRequest.model_fields) - {"messages"}) | set(REFUSED) | set(IGNORED)
    assert Api().chat(**dict.fromkeys(names)).status_code == 200
    names = (set(CompletionRequest.model_fields) - {"prompt"}) | set(REFUSED) | set(IGNORED)
    assert Api().complete(**dict.fromkeys(names)).status_code == 200


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_refused_by_name(name: str) -> None:
    response = Api().chat(**{name: "something"})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["param"] == name
    assert error["code"] == "unsupported_parameter"
    assert error["message"].startswith(f"{name} is not supported: ")


@pytest.mark.parametrize(
    "neutral", [{"best_of": 1}, {"bad_words": []}, {"functions": []}, {"n_indent": 0}, {"modalities": ["text"]}]
)
def test_a_refused_parameter_that_asks_for_nothing_passes(
    neutral: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert Api().chat(**neutral).status_code == 200
    assert not caplog.records


def test_knowingly_ignored(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert Api().chat(**dict.fromkeys(IGNORED, "something")).status_code == 200
    assert not caplog.records


def test_no_parameter_is_in_two_places() -> None:
    fields = set(ChatCompletionRequest.model_fields) | set(CompletionRequest.model_fields)
    assert not fields & set(REFUSED)
    assert not fields & set(IGNORED)
    assert not set(REFUSED) & set(IGNORED)


def test_strangers_are_warned_of_once_and_only_so_many(caplog: pytest.LogCaptureFixture) -> None:
    api = Api()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert api.chat(draft_model="x", unheard_of=1).status_code == 200
        assert len(caplog.records) == 2
        api.chat(**{f"made_up_{number}": 1 for number in range(1000)})
    assert len(caplog.records) == 256


@pytest.mark.parametrize(
    ("body", "param", "says"),
    [
        ({"tool_choice": "required"}, "tool_choice", "offers no tools"),
        ({"tool_choice": "sometimes", "tools": [WEATHER]}, "tool_choice", "'required'"),
        (
            {"tool_choice": {"type": "function", "function": {"name": "x"}}, "tools": [WEATHER]},
            "tool_choice",
            "weather",
        ),
        ({"tool_choice": {"type": "function"}, "tools": [WEATHER]}, "tool_choice", "names no tool"),
        (
            {
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}},
                "tools": [WEATHER],
            },
            "tool_choice.allowed_tools",
            "needs tools",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {}}},
            "response_format.json_schema.schema",
            "required",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": [1]}}},
            "response_format.json_schema.schema",
            "an object",
        ),
        ({"response_format": {"type": "poem"}}, "response_format.type", "json_object"),
        ({"structured_outputs": {"regex": 5}}, "structured_outputs.regex", "text"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs.choice", "list of texts"),
        ({"structured_outputs": {"choice": ["a", ""]}}, "structured_outputs.choice", "empty"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag", "not supported"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs.json", "no JSON"),
        (
            {"structured_outputs": {"regex": "a"}, "response_format": {"type": "json_object"}},
            "structured_outputs.regex",
            "give one",
        ),
        ({"guided_json": {}}, "guided_json", "structured_outputs"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        ({"top_logprobs": 3}, "top_logprobs", "logprobs: true"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ({"temperature": -1}, "temperature", "between"),
        ({"temperature": "hot"}, "temperature", "a number"),
        ({"top_p": -0.1}, "top_p", "above 0"),
        ({"n": 0}, "n", "greater than or equal to 1"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": -2}, "max_tokens", "-1"),
        ({"min_tokens": 5, "max_tokens": 3}, "min_tokens", "at most max_tokens"),
        ({"stop": ["x"] * 33}, "stop", "at most 32"),
        ({"stop": 5}, "stop", "must be"),
        ({"stop": ["x", "y" * 257]}, "stop[1]", "at most 256 characters long"),
        ({"stop_token_ids": [1] * 1025}, "stop_token_ids", "at most 1024"),
        ({"logit_bias": {"many": 1}}, "logit_bias.many", "whole number"),
        ({"logit_bias": {"1": 101}}, "logit_bias", "between -100 and 100"),
        ({"seed": 2**70}, "seed", "64-bit"),
        ({"repetition_detection": 5}, "repetition_detection", "true, false or an object"),
        (
            {"repetition_detection": {"max_pattern_size": 1025, "min_count": 3}},
            "repetition_detection.max_pattern_size",
            "1024",
        ),
        (
            {"repetition_detection": {"max_pattern_size": "many"}},
            "repetition_detection.max_pattern_size",
            "a whole number",
        ),
        (
            {"repetition_detection": {"max_pattern_size": 4, "min_pattern_size": 5, "min_count": 3}},
            "repetition_detection.min_pattern_size",
            "between 1 and 4",
        ),
        ({"repetition_detection": {"max_pattern_size": 4}}, "repetition_detection.min_count", "at least 2"),
        (
            {"repetition_detection": {"max_pattern_size": 4, "min_count": 1}},
            "repetition_detection.min_count",
            "at least 2",
        ),
        (
            {"repetition_detection": {"max_pattern_size": 4, "min_count": 3, "min_repeated_tokens": -1}},
            "repetition_detection.min_repeated_tokens",
            "greater than or equal to 0",
        ),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type", "web_search"),
        ({"tools": [{"type": "function", "function": {}}]}, "tools[0].function.name", "required"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 3}}]}, "tools", "object"),
        ({"tools": [None]}, "tools[0]", "must be an object"),
        ({"tools": {}}, "tools", "must be a list"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 5}}]}]},
            "messages[0].tool_calls[0].function.arguments",
            "JSON text or an object",
        ),
        ({"model": 5}, "model", "must be text"),
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "messages[0].role", "'system'"),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages[0].role", "tool_calls"),
        (
            {"messages": [{"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}]},
            "messages[0].function_call",
            "tool_calls",
        ),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "list of parts"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0].type",
            "image_url",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]},
            "messages[0].content[0].type",
            "input_audio",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text", "text"),
        ({"continue_final_message": True}, "continue_final_message", "assistant"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
            "cannot both",
        ),
        ({"chat_template_kwargs": {"messages": []}}, "messages", "chat_template_kwargs"),
        ({"stream": "maybe"}, "stream", "true or false"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_refused_values_are_named(body: dict[str, Any], param: str, says: str) -> None:
    response = Api().chat(**body)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["param"].startswith(param)
    assert says in error["message"]
    assert "\n" not in error["message"]


def test_a_missing_prompt_is_named() -> None:
    assert Api().post("/v1/chat/completions", {}).json()["error"]["message"] == "messages is required."
