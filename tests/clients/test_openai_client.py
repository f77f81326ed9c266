"""The official openai client against a real socket."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from engine.errors import Overloaded
from tests.support.api import WEATHER, Api, eventually, live
from tests.support.scripted_engine import ScriptedEngine, fail_after, say

MODEL = "tiny-qwen-coder"
MESSAGES: list[Any] = [{"role": "user", "content": "Hi"}]
CALL = "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n</function>\n</tool_call>"


@pytest.fixture
def url() -> Iterator[str]:
    with live(Api(say("Hello wörld"), keys=("key",))) as url:
        yield url


def client(url: str, key: str = "key", retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=retries)


def test_chat(url: str) -> None:
    with client(url) as api:
        answer = api.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello wörld"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 0


def test_streamed_chat(url: str) -> None:
    with client(url) as api:
        stream = api.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Hello wörld"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 13


def test_streamed_chat_with_the_helper() -> None:
    with (
        live(Api(say("Sure. " + CALL))) as url,
        client(url) as api,
        api.chat.completions.stream(
            model=MODEL,
            messages=MESSAGES,
            tools=[WEATHER],
        ) as stream,
    ):
        completion = stream.get_final_completion()
    [call] = completion.choices[0].message.tool_calls or []
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Rome"}')
    assert completion.choices[0].finish_reason == "tool_calls"


def test_logprobs(url: str) -> None:
    with client(url) as api:
        answer = api.chat.completions.create(
            model=MODEL,
            messages=MESSAGES,
            logprobs=True,
            top_logprobs=3,
        )
        old = api.completions.create(model=MODEL, prompt="x", logprobs=2)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert len(logprobs.content[0].top_logprobs) == 3
    assert old.choices[0].logprobs is not None
    assert old.choices[0].logprobs.tokens is not None


def test_completion(url: str) -> None:
    with client(url) as api:
        assert api.completions.create(model=MODEL, prompt="x", max_tokens=5).choices[0].text == "Hello"
        chunks = list(api.completions.create(model=MODEL, prompt="x", max_tokens=5, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == "Hello"


def test_models(url: str) -> None:
    with client(url) as api:
        assert [model.id for model in api.models.list()] == [MODEL]
        assert api.models.retrieve(MODEL).id == MODEL
        with pytest.raises(openai.NotFoundError) as caught:
            api.models.retrieve("gpt-4")
    assert caught.value.code == "model_not_found"


def test_errors_have_their_classes(url: str) -> None:
    with client(url) as api:
        with pytest.raises(openai.BadRequestError) as caught:
            api.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x" * 5000}])
        assert caught.value.code == "context_length_exceeded"
        assert caught.value.param == "messages"
        with pytest.raises(openai.NotFoundError):
            api.chat.completions.create(model="other", messages=MESSAGES)
    with client(url, key="wrong") as api, pytest.raises(openai.AuthenticationError):
        api.models.list()


def test_a_retry_after_is_waited_for() -> None:
    engine = ScriptedEngine(say("Hello"), refusal=Overloaded("full", "max_num_queued_reqs", 1.0))
    answered = []

    def release(response: object) -> None:
        answered.append(response)
        engine.refusal = None

    with live(Api(engine=engine)) as url, client(url, retries=2) as api:
        api._client.event_hooks["response"] = [release]
        answer = api.chat.completions.create(model=MODEL, messages=MESSAGES)
    assert answer.choices[0].message.content == "Hello"
    assert len(answered) == 2


def test_a_broken_stream_raises() -> None:
    with live(Api(fail_after("Hel"))) as url, client(url) as api, pytest.raises(openai.APIError) as caught:
        list(api.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True))
    assert "the device failed" in str(caught.value)


def test_leaving_a_stream_frees_it() -> None:
    api_side = Api(say("x" * 2000, delay=0.01))
    with live(api_side) as url, client(url) as api:
        with api.chat.completions.create(model=MODEL, messages=MESSAGES, stream=True) as stream:
            next(iter(stream))
        assert eventually(lambda: not api_side.engine.running, 1.0)
