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
    prompt = prompt_of(api)
    assert f"[Left out: a part of the type {part['type']}. You can read only text.]" in prompt
    assert "Here: " in prompt
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
    assert "Here: \nT\nsaid" in prompt_of(api)


def test_a_picture_inside_a_document() -> None:
    api = Api()
    parts = [{"type": "image", "source": BASE64}, {"type": "text", "text": "below"}]
    document = {"type": "document", "source": {"type": "content", "content": parts}}
    assert api.post(*messages(document)).status_code == 200
    assert "You can read only text.]\nbelow" in prompt_of(api)


@pytest.mark.parametrize("part", [{"type": "image", "source": BASE64}, {"type": "document", "source": BASE64}])
def test_what_claude_code_puts_beside_a_result(part: Any) -> None:
    """The pages of a file that its `Read` opens."""
    path, body = messages({"type": "text", "text": "read"})
    body["messages"][-1]["content"].append(part)
    api = Api()
    assert api.post(path, body).status_code == 200
    assert f"a part of the type {part['type']}." in prompt_of(api)


SAID: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"type": "image_url", "image_url": {"url": URL}}),
    ("/v1/messages", {"type": "image", "source": BASE64}),
    ("/v1/responses", {"type": "input_image", "image_url": URL}),
]


@pytest.mark.parametrize(("path", "part"), SAID)
def test_what_was_refused_once_does_not_end_the_conversation(path: str, part: Any) -> None:
    picture, text = {"role": "user", "content": [part]}, {"role": "user", "content": "Go on without."}
    api = Api()
    for said, status in (([picture], 400), ([text, picture], 400), ([picture, text], 200)):
        given = {"input": said} if path.endswith("responses") else {"messages": said, "max_tokens": 9}
        assert api.post(path, given).status_code == status
    assert f"a part of the type {part['type']}." in prompt_of(api)


@pytest.mark.parametrize(("path", "part"), SAID)
def test_a_message_after_the_result_shows_what_the_tool_brought(path: str, part: Any) -> None:
    """As opencode and Qwen Code do it: chat completions have no place for a picture in a result."""
    dialect = {"/v1/chat/completions": chat, "/v1/messages": messages, "/v1/responses": responses}[path]
    path, body = dialect({"type": "input_text" if dialect is responses else "text", "text": "see below"})
    said = body["input" if dialect is responses else "messages"]
    said.append({"role": "user", "content": [part]})
    api = Api()
    response = api.post(path, body)
    assert response.status_code == 200, response.text
    assert f"a part of the type {part['type']}." in prompt_of(api)


def test_pictures_of_ollamas_dialect() -> None:
    picture, text = {"role": "user", "content": "Look.", "images": [DATA]}, {"role": "user", "content": "Go on."}
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}
    result = {"role": "tool", "content": "Here:", "images": [DATA]}
    api = Api()
    for said, status in (([picture], 400), ([text, picture], 400), ([picture, text], 200), ([text, call, result], 200)):
        assert api.post("/api/chat", {"messages": said, "stream": False}).status_code == status
    assert "Here:\n[Left out: a part of the type image. You can read only text.]" in prompt_of(api)


def prompt_of(api: Api) -> str:
    """What the model was last asked."""
    return TOKENIZER.decode(api.asked.prompt_ids, skip_special_tokens=False)
