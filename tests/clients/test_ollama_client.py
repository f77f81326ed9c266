"""The official ollama client against a real socket, over scripted answers and over the bundled model."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import httpx
import ollama
import pytest

from engine.errors import Overloaded
from tests.support.api import Api, live
from tests.support.daemon import Daemon
from tests.support.orders import QUESTION, Order, Weather
from tests.support.scripted_engine import ScriptedEngine, fail_after, say

SCRIPTED, BUNDLED = "tiny-qwen-coder", "qwen3-coder-nano"
MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]
CALL = "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"
GREEDY = {"temperature": 0.0}


def weather(city: str) -> str:
    """Returns the weather.

    Args:
        city: Where.
    """
    return f"sunny in {city}"


@pytest.fixture
def url() -> Iterator[str]:
    with live(Api(say("Hello wörld"), keys=("key",))) as url:
        yield url


@contextlib.contextmanager
def client(url: str, key: str = "key") -> Iterator[ollama.Client]:
    with ollama.Client(host=url, headers={"authorization": f"Bearer {key}"}) as api:
        yield api


@pytest.fixture
def api(url: str) -> Iterator[ollama.Client]:
    """Of the scripted server."""
    with client(url) as api:
        yield api


@pytest.fixture
def bundled(daemon: Daemon) -> Iterator[ollama.Client]:
    """Of the daemon with the bundled model."""
    with client(daemon.url) as api:
        yield api


def test_chat(api: ollama.Client) -> None:
    answer = api.chat(model=SCRIPTED, messages=MESSAGES)
    assert answer.message.content == "Hello wörld"
    assert (answer.done, answer.done_reason, answer.eval_count) == (True, "stop", 13)


def test_streamed_chat(api: ollama.Client) -> None:
    chunks = list(api.chat(model=SCRIPTED, messages=MESSAGES, stream=True))
    assert "".join(chunk.message.content or "" for chunk in chunks) == "Hello wörld"
    assert [chunk.done for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_the_asynchronous_client(url: str) -> None:
    async def text() -> str:
        async with ollama.AsyncClient(host=url, headers={"authorization": "Bearer key"}) as api:
            stream = await api.chat(model=SCRIPTED, messages=MESSAGES, stream=True)
            return "".join([chunk.message.content or "" async for chunk in stream])

    assert asyncio.run(text()) == "Hello wörld"


@pytest.mark.parametrize("stream", [False, True])
def test_a_function_as_a_tool(stream: bool) -> None:
    """Its schema is the client's; its call comes back in the history as the client writes it."""
    api_side = Api(say(f"I look. {CALL}"))
    with live(api_side) as url, client(url) as api:
        answers: Any = api.chat(model=SCRIPTED, messages=MESSAGES, tools=[weather], stream=stream)
        said = [answer.message for answer in (answers if stream else [answers])]
        calls = [call for message in said for call in message.tool_calls or []]
        assert [(call.function.name, dict(call.function.arguments)) for call in calls] == [
            ("weather", {"city": "Rome"})
        ]
        spoken = ollama.Message(role="assistant", content="I look. ", tool_calls=calls)
        result = ollama.Message(role="tool", content=weather(**calls[0].function.arguments), tool_name="weather")
        api.chat(model=SCRIPTED, messages=[*MESSAGES, spoken, result], tools=[weather])
    assert len(api_side.engine.requests) == 2


def test_generate(api: ollama.Client) -> None:
    assert api.generate(model=SCRIPTED, prompt="x", options={"num_predict": 5}).response == "Hello"
    assert api.generate(model=SCRIPTED, prompt="a", suffix="b", raw=False).response == "Hello wörld"
    chunks = list(api.generate(model=SCRIPTED, prompt="x", raw=True, stream=True))
    assert "".join(chunk.response or "" for chunk in chunks) == "Hello wörld"
    assert api.generate(model=SCRIPTED, keep_alive=0).done_reason == "unload"


def test_logprobs(api: ollama.Client) -> None:
    answer = api.chat(model=SCRIPTED, messages=MESSAGES, logprobs=True, top_logprobs=3)
    assert answer.logprobs is not None
    assert len(answer.logprobs[0].top_logprobs or []) == 3


def test_errors(api: ollama.Client, url: str) -> None:
    with pytest.raises(ollama.ResponseError, match="model 'llama3' not found") as caught:
        api.chat(model="llama3", messages=MESSAGES)
    assert caught.value.status_code == 404
    with pytest.raises(ollama.ResponseError, match="maximum context length is 4096 tokens") as caught:
        list(api.chat(model=SCRIPTED, messages=[{"role": "user", "content": "x" * 5000}], stream=True))
    assert caught.value.status_code == 400
    with pytest.raises(ollama.ResponseError, match="embeddings") as caught:
        api.embed(model=SCRIPTED, input="x")
    assert caught.value.status_code == 501
    with client(url, key="wrong") as stranger, pytest.raises(ollama.ResponseError, match="API key") as caught:
        stranger.list()
    assert caught.value.status_code == 401


def test_overload() -> None:
    engine = ScriptedEngine(refusal=Overloaded("busy", "max_num_queued_reqs", 1.0))
    with (
        live(Api(engine=engine)) as url,
        client(url) as api,
        pytest.raises(ollama.ResponseError, match="busy") as caught,
    ):
        api.chat(model=SCRIPTED, messages=MESSAGES)
    assert caught.value.status_code == 503


def test_a_broken_stream_raises() -> None:
    with live(Api(fail_after("Hel"))) as url, client(url) as api:
        stream = api.chat(model=SCRIPTED, messages=MESSAGES, stream=True)
        with pytest.raises(ollama.ResponseError, match="the device failed"):
            list(stream)


def test_what_the_bundled_model_is(bundled: ollama.Client, daemon: Daemon) -> None:
    [listed] = bundled.list().models
    assert listed.model == f"{BUNDLED}:latest"
    assert listed.details is not None
    assert (listed.details.format, listed.details.parameter_size) == ("safetensors", "11.34M")
    assert (listed.details.family, listed.details.quantization_level) == ("qwen3next", "BF16")
    assert listed.size is not None
    assert 22_000_000 < listed.size < 23_000_000
    shown = bundled.show(listed.model)
    assert shown.capabilities == ["completion", "tools", "insert"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["qwen3next.block_count"] == 8
    max_model_len = httpx.get(f"{daemon.url}/v1/models").json()["data"][0]["max_model_len"]
    assert shown.modelinfo["qwen3next.context_length"] == max_model_len
    [running] = bundled.ps().models
    assert (running.model, running.context_length) == (listed.model, max_model_len)
    assert running.digest == listed.digest


def test_the_bundled_model_calls_a_tool(bundled: ollama.Client) -> None:
    question: dict[str, Any] = {"model": BUNDLED, "messages": [QUESTION], "tools": [weather], "options": GREEDY}
    whole = bundled.chat(**question)
    [call] = whole.message.tool_calls or []
    assert (call.function.name, dict(call.function.arguments)) == ("weather", {"city": "Rome"})
    chunks = list(bundled.chat(**question, stream=True))
    [streamed] = [call for chunk in chunks for call in chunk.message.tool_calls or []]
    assert streamed.function == call.function
    result = {"role": "tool", "content": weather("Rome"), "tool_name": "weather"}
    assert bundled.chat(**{**question, "messages": [QUESTION, whole.message, result]}).done_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_the_bundled_model_answers_in_a_form(bundled: ollama.Client, stream: bool) -> None:
    form = Order.model_json_schema()
    answers: Any = bundled.chat(model=BUNDLED, messages=[QUESTION], format=form, stream=stream)
    text = "".join(answer.message.content for answer in (answers if stream else [answers]))
    Order.model_validate_json(text)


def test_the_bundled_model_begins_an_object(bundled: ollama.Client) -> None:
    options = {"seed": 1, "num_predict": 5}
    free = bundled.generate(model=BUNDLED, prompt="x", options=options)
    held = bundled.generate(model=BUNDLED, prompt="x", format="json", options=options)
    assert not (free.response or "").startswith("{")
    assert (held.response or "").startswith("{")


def test_the_bundled_model_fills_a_gap(bundled: ollama.Client) -> None:
    options = {**GREEDY, "num_predict": 40}
    before, after = "def add(a, b):\n    return ", "\n\n\nprint(add(1, 2))\n"
    filled = bundled.generate(model=BUNDLED, prompt=before, suffix=after, options=options)
    marks = f"<|fim_prefix|>{before}<|fim_suffix|>{after}<|fim_middle|>"
    raw = bundled.generate(model=BUNDLED, prompt=marks, raw=True, options=options)
    assert filled.response == raw.response
    assert filled.prompt_eval_count == raw.prompt_eval_count
    assert "<|" not in (filled.response or "")


def test_both_ways_of_asking_are_one(bundled: ollama.Client, daemon: Daemon) -> None:
    """A prompt is a chat of one message, and Ollama's route gives the same tokens as OpenAI's."""
    options = {"seed": 7, "num_predict": 30}
    chat = bundled.chat(model=BUNDLED, messages=[QUESTION], options=options).message.content
    assert bundled.generate(model=BUNDLED, prompt=QUESTION["content"], options=options).response == chat
    body = {"messages": [QUESTION], "seed": 7, "max_tokens": 30}
    other = httpx.post(f"{daemon.url}/v1/chat/completions", json=body, timeout=60).json()
    assert other["choices"][0]["message"]["content"] == chat


def test_a_tool_with_a_schema(bundled: ollama.Client) -> None:
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": Weather.model_json_schema()}}
    answer = bundled.chat(model=BUNDLED, messages=[QUESTION], tools=[tool], options=GREEDY)
    assert [call.function.name for call in answer.message.tool_calls or []] == ["weather"]
