"""Python's client libraries on a connection that is not always well. What each does about it is in the table.

Every one of them asks the bundled model for the only answer that its schema admits. What each says of a prompt that is
too long is in its own tests.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import anthropic
import httpx
import httpx2
import ollama
import openai
import pytest
import yaml
from langchain_openai import ChatOpenAI
from pydantic import SecretStr

from tests.support.daemon import Daemon
from tests.support.fault_proxy import NO_FAULT, RETRY_AFTER_SECONDS, Fault, fault_proxy
from tests.support.held_model import RETRY_LATER, Chat, Json, Messages, Responses, Script, Wire

MODEL = "qwen3-coder-nano"
QUESTION = "Say hi."
ONLY = {"command": "echo hi > done.txt"}
SCHEMA = Script("run", ONLY, "").parameters
FUNCTION = {"name": "run", "parameters": SCHEMA}
MESSAGES: Any = [{"role": "user", "content": QUESTION}]
CUT_AFTER = 5  # pieces of two characters
FAULTS = [
    pytest.param(NO_FAULT, id="well"),
    pytest.param(Fault(refused=True), id="refused once"),
    pytest.param(Fault(in_pieces=True, num_pieces=CUT_AFTER), id="cut once"),
    pytest.param(Fault(in_pieces=True), id="in pieces"),
    pytest.param(Fault(silent_seconds=60), id="a silent minute", marks=pytest.mark.slow),
]


class OllamaChat:
    """Ollama's own dialect; its lines are passed on as they are, the first half of them where they are cut."""

    path = "/api/chat"

    def split(self, event: Json) -> list[Json]:
        return [event]

    def refusal(self) -> Json:
        return {"error": RETRY_LATER}


class Failed(Exception):
    """A command ended with an error."""


def ask_chat(url: str) -> Any:
    tool: Any = {"type": "function", "function": FUNCTION}
    forced: Any = {"type": "function", "function": {"name": "run"}}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="x") as client:
        chunks = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, tools=[tool], tool_choice=forced, stream=True
        )
        deltas = [choice.delta for chunk in chunks for choice in chunk.choices]
    calls = [call.function for delta in deltas for call in delta.tool_calls or () if call.function]
    return json.loads("".join(call.arguments or "" for call in calls))


def ask_responses(url: str) -> Any:
    tool: Any = {"type": "function", "strict": True, **FUNCTION}
    forced: Any = {"type": "function", "name": "run"}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="x") as client:
        events = client.responses.create(model=MODEL, input=QUESTION, tools=[tool], tool_choice=forced, stream=True)
        deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    return json.loads("".join(deltas))


def ask_messages(url: str) -> Any:
    tool: Any = {"name": "run", "input_schema": SCHEMA}
    forced: Any = {"type": "tool", "name": "run"}
    asked = {"model": MODEL, "messages": MESSAGES, "max_tokens": 1000, "tools": [tool], "tool_choice": forced}
    with anthropic.Anthropic(base_url=url, api_key="x") as client, client.messages.stream(**asked) as stream:
        [call] = stream.get_final_message().content
    assert call.type == "tool_use"
    return call.input


def ask_ollama(url: str) -> Any:
    with ollama.Client(url) as client:
        parts = client.chat(MODEL, MESSAGES, format=SCHEMA, stream=True)
        return json.loads("".join(part.message.content or "" for part in parts))


def ask_langchain(url: str) -> Any:
    model = ChatOpenAI(model=MODEL, base_url=f"{url}/v1", api_key=SecretStr("x"))
    bound = model.bind_tools([{"type": "function", "function": FUNCTION}], tool_choice="run")
    whole: Any = reduce(add, bound.stream(QUESTION))
    [call] = whole.tool_calls
    return call["args"]


def ask_llm(url: str) -> Any:
    model = {"model_id": "local", "model_name": MODEL, "api_base": f"{url}/v1", "supports_schema": True}
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "extra-openai-models.yaml").write_text(yaml.safe_dump([model]))
        command = [sys.executable, "-m", "llm", "-m", "local", "--schema", json.dumps(SCHEMA), QUESTION]
        environment = {**os.environ, "LLM_USER_PATH": folder, "OPENAI_API_KEY": "x"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    if done.returncode != 0:
        raise Failed(done.stderr)
    return json.loads(done.stdout)


@dataclass(frozen=True, slots=True)
class Library:
    """One library. `cut` is what it raises when a stream ends in its middle, `refused` what at a 503 if anything."""

    ask: Callable[[str], Any]
    wire: Wire
    cut: type[Exception]
    refused: type[Exception] | None = None


LIBRARIES = {
    "openai": Library(ask_chat, Chat(), openai.APIConnectionError),
    "openai, Responses": Library(ask_responses, Responses(), openai.APIConnectionError),
    "anthropic": Library(ask_messages, Messages(), httpx2.RemoteProtocolError),
    "ollama": Library(ask_ollama, OllamaChat(), httpx.RemoteProtocolError, refused=ollama.ResponseError),
    "langchain": Library(ask_langchain, Chat(), openai.APIConnectionError),
    "llm": Library(ask_llm, Chat(), Failed),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("library", LIBRARIES.values(), ids=LIBRARIES)
def test_an_answer_comes_whatever_happens_on_the_way(daemon: Daemon, library: Library, fault: Fault) -> None:
    if fault.in_pieces and not fault.is_cut and library.wire.path == OllamaChat.path:
        pytest.skip("its lines are passed on as they are")
    raised = library.cut if fault.is_cut else library.refused if fault.refused else None
    with fault_proxy(daemon.url, library.wire, lambda body: ("call", body), fault) as proxy:
        if raised:
            with pytest.raises(raised):
                library.ask(proxy.url)
        assert library.ask(proxy.url) == ONLY
    first, *again = proxy.exchanges
    assert len(again) == (fault.is_cut or fault.refused)
    assert first.harmed == (fault != NO_FAULT)
    assert (first.status == 503) == fault.refused
    if fault.refused and not raised:
        assert again[0].began - first.began > RETRY_AFTER_SECONDS - 0.1
