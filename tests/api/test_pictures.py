"""Pictures and files among what a tool brings: left out, and the model is told, so that the agent can go on."""

from typing import Any

import pytest

from tests.support.api import Api
from tests.support.scripted_engine import TOKENIZER

DATA = "iVBORw0KGgo="
URL = f"data:image/png;base64,{DATA}"


def chat(part: Any) -> Any:
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    content = [{"type": "text", "text": "Here: "}, part]
    return "/v1/chat/completions", {
        "messages": [
            {"role": "user", "content": "Look."},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": content},
        ]
    }


def responses(part: Any) -> Any:
    return "/v1/responses", {
        "input": [
            {"role": "user", "content": "Look."},
            {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
            {
                "type": "function_call_output",
                "call_id": "c",
                "output": [{"type": "input_text", "text": "Here: "}, part],
            },
        ]
    }


def messages(part: Any) -> Any:
    content = [{"type": "text", "text": "Here: "}, part]
    return "/v1/messages", {
        "max_tokens": 9,
        "messages": [
            {"role": "user", "content": "Look."},
            {"role": "assistant", "content": [{"type": "tool_use", "id": "c", "name": "look", "input": {}}]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "c", "content": content}]},
        ],
    }


BASE64 = {"type": "base64", "media_type": "image/png", "data": DATA}


@pytest.mark.parametrize(
    ("dialect", "part"),
    [
        (chat, {"type": "image_url", "image_url": {"url": URL}}),
        (chat, {"type": "file", "file": {"file_data": DATA}}),
        (responses, {"type": "input_image", "image_url": URL}),
        (responses, {"type": "input_file", "file_data": DATA}),
        (messages, {"type": "image", "source": BASE64}),
        (messages, {"type": "document", "source": {**BASE64, "media_type": "application/pdf"}}),
    ],
)
def test_what_a_tool_brings_and_the_model_cannot_see(dialect: Any, part: Any) -> None:
    api = Api()
    response = api.post(*dialect(part))
    assert response.status_code == 200, response.text
    prompt = TOKENIZER.decode(api.asked.prompt_ids, skip_special_tokens=False)
    assert f"Here: [Left out: a part of the type {part['type']}. You can read only text.]" in prompt
    assert DATA not in prompt


@pytest.mark.parametrize("dialect", [chat, responses, messages])
def test_what_nobody_knows_is_refused_there_too(dialect: Any) -> None:
    response = Api().post(*dialect({"type": "hologram"}))
    assert response.status_code == 400
    assert "hologram" in response.text


def test_a_document_of_text_is_read() -> None:
    api = Api()
    document = {"type": "document", "title": "T", "source": {"type": "text", "data": "said"}}
    assert api.post(*messages(document)).status_code == 200
    assert "Here: T\nsaid" in TOKENIZER.decode(api.asked.prompt_ids, skip_special_tokens=False)
