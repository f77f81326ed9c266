"""Calling the Ollama dialect."""

import json
from typing import Any

import httpx

from tests.support.api import Api

CHAT = "/api/chat"
GENERATE = "/api/generate"


def lines_of(text: str) -> list[dict[str, Any]]:
    """The objects of a stream; each line ends, the last one too."""
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


def chat(api: Api, *messages: dict[str, Any], stream: bool = False, **more: Any) -> httpx.Response:
    said = list(messages) or [{"role": "user", "content": "Hi"}]
    return api.post(CHAT, {"messages": said, "stream": stream, **more})


def prompt_of(api: Api) -> str:
    """The last prompt the engine got, control tokens included."""
    tokenizer = api.app.state.service.model.tokenizer
    return str(tokenizer.decode(api.asked.prompt_ids, skip_special_tokens=False))
