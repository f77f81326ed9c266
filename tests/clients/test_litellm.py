"""litellm, through which many agents speak, against a real socket and the bundled model."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.daemon import Daemon
from tests.support.fault_proxy import RETRY_AFTER_SECONDS, Fault, fault_proxy
from tests.support.held_model import Chat
from tests.support.orders import NEVER_CUT_OFF, QUESTION, Order, Weather, named

pytestmark = [
    pytest.mark.agents,
    # litellm warns of its own types, and leaves an event loop and connections to the garbage collector.
    pytest.mark.filterwarnings("ignore"),
]

SEEDS = (1, 2, 3)
Calls = list[tuple[str, dict[str, Any]]]


@pytest.fixture(scope="module")
def litellm() -> Iterator[Any]:
    """The library, imported late because that takes seconds, and told not to look for prices on the network."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        yield pytest.importorskip("litellm")


def tool(model: type[Order] | type[Weather], name: str, strict: bool = False) -> dict[str, Any]:
    function = {"name": name, "description": model.__doc__, "parameters": model.model_json_schema(), "strict": strict}
    return {"type": "function", "function": function}


def asked(daemon: Daemon, **more: Any) -> dict[str, Any]:
    return {
        "model": "openai/qwen3-coder-nano",
        "api_base": f"{daemon.url}/v1",
        "api_key": "x",
        "messages": [QUESTION],
        "temperature": 1.0,
        "max_tokens": NEVER_CUT_OFF,
        "num_retries": 0,
        **more,
    }


def whole_and_streamed(litellm: Any, fields: dict[str, Any]) -> tuple[Any, Any]:
    """Two answers to one request, the second put together by litellm from the chunks of a stream."""
    whole = litellm.completion(**fields)
    chunks = list(litellm.completion(**fields, stream=True, stream_options={"include_usage": True}))
    assert len(chunks) > 8
    return whole, litellm.stream_chunk_builder(chunks, messages=fields["messages"])


def calls_of(answer: Any) -> Calls:
    [choice] = answer.choices
    assert choice.finish_reason == "tool_calls"
    assert not choice.message.content
    assert all(call.id and call.type == "function" for call in choice.message.tool_calls)
    return [(call.function.name, json.loads(call.function.arguments)) for call in choice.message.tool_calls]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("choice", ["required", named("Order")], ids=["required", "named"])
def test_calls_are_the_same_whole_and_streamed(litellm: Any, daemon: Daemon, choice: Any, seed: int) -> None:
    whole, built = whole_and_streamed(
        litellm, asked(daemon, tools=[tool(Order, "Order")], tool_choice=choice, seed=seed)
    )
    assert calls_of(whole) == calls_of(built)
    for name, arguments in calls_of(whole):
        assert name == "Order"
        assert Order.model_validate(arguments, strict=True)
    assert whole.usage.total_tokens == built.usage.total_tokens


def test_a_strict_tool_that_the_model_calls_by_itself_is_held_to_its_schema(litellm: Any, daemon: Daemon) -> None:
    answer = litellm.completion(**asked(daemon, tools=[tool(Order, "Order", strict=True)], seed=1, temperature=0.7))
    for _, arguments in calls_of(answer):
        assert Order.model_validate(arguments, strict=True)


def test_a_round_trip_from_call_to_result_to_answer(litellm: Any, daemon: Daemon) -> None:
    fields = asked(daemon, tools=[tool(Weather, "get_weather")], temperature=0)
    first = litellm.completion(**fields, tool_choice="required")
    assert calls_of(first) == [("get_weather", {"city": "Rome"})]
    message = first.choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": '{"temperature": 21}'}
    second = litellm.completion(**{**fields, "messages": [QUESTION, message.model_dump(), result]})
    assert second.choices[0].finish_reason == "stop"
    assert "21" in second.choices[0].message.content
    assert second.usage.prompt_tokens_details.cached_tokens >= first.usage.total_tokens - 1


@pytest.mark.parametrize("seed", SEEDS)
def test_an_answer_in_json_of_a_schema(litellm: Any, daemon: Daemon, seed: int) -> None:
    schema = {"name": "Order", "strict": True, "schema": Order.model_json_schema()}
    form = {"type": "json_schema", "json_schema": schema}
    whole, built = whole_and_streamed(litellm, asked(daemon, response_format=form, seed=seed))
    for answer in (whole, built):
        assert answer.choices[0].finish_reason == "stop"
        assert Order.model_validate_json(answer.choices[0].message.content, strict=True)
    assert whole.choices[0].message.content == built.choices[0].message.content


def test_a_pydantic_model_is_a_form_too(litellm: Any, daemon: Daemon) -> None:
    answer = litellm.completion(**asked(daemon, response_format=Order, seed=1))
    assert Order.model_validate_json(answer.choices[0].message.content, strict=True)


def test_a_form_that_is_none_is_a_bad_request(litellm: Any, daemon: Daemon) -> None:
    with pytest.raises(litellm.BadRequestError, match=r"structured_outputs\.regex cannot be held to"):
        litellm.completion(**asked(daemon, extra_body={"structured_outputs": {"regex": "("}}))


def test_a_prompt_that_does_not_fit_is_named_as_such(litellm: Any, daemon: Daemon) -> None:
    """Agents shorten the conversation and try again on this error, and on no other."""
    long = {"role": "user", "content": "x " * 140_000}
    with pytest.raises(litellm.ContextWindowExceededError):
        litellm.completion(**asked(daemon, messages=[long]))


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault(refused=True), id="refused once"),
        pytest.param(Fault(in_pieces=True, num_pieces=5), id="cut once"),
        pytest.param(Fault(in_pieces=True), id="in pieces"),
        pytest.param(Fault(silent_seconds=60), id="a silent minute"),
    ],
)
def test_an_answer_comes_whatever_happens_on_the_way(litellm: Any, daemon: Daemon, fault: Fault) -> None:
    with fault_proxy(daemon.url, Chat(), lambda body: ("call", body), fault) as proxy:
        fields = asked(
            daemon,
            api_base=f"{proxy.url}/v1",
            num_retries=2,
            tools=[tool(Order, "Order")],
            tool_choice=named("Order"),
            stream=True,
            seed=1,
        )
        if fault.is_cut:
            with pytest.raises(litellm.exceptions.MidStreamFallbackError):
                list(litellm.completion(**fields))
        streamed = litellm.stream_chunk_builder(list(litellm.completion(**fields)), messages=fields["messages"])
    whole = litellm.completion(**{**fields, "api_base": f"{daemon.url}/v1", "stream": False})
    assert calls_of(streamed) == calls_of(whole)
    first, *again = proxy.exchanges
    assert first.harmed
    assert len(again) == (fault.is_cut or fault.refused)
    if fault.refused:
        assert again[0].began - first.began > RETRY_AFTER_SECONDS - 0.1


@pytest.mark.parametrize("dialect", ["ollama", "ollama_chat"])
def test_the_ollama_dialects(litellm: Any, daemon: Daemon, dialect: str) -> None:
    """Some of their requests come without a content type. In the first, litellm makes the prompt of the messages."""
    fields = asked(daemon, model=f"{dialect}/qwen3-coder-nano", api_base=daemon.url, max_tokens=30, seed=1)
    whole = litellm.completion(**fields)
    built = litellm.stream_chunk_builder(list(litellm.completion(**fields, stream=True)), messages=[QUESTION])
    assert whole.choices[0].message.content == built.choices[0].message.content != ""
    assert whole.usage.total_tokens > whole.usage.prompt_tokens > 0
    if dialect == "ollama_chat":
        plain = litellm.completion(**asked(daemon, max_tokens=30, seed=1))
        assert whole.choices[0].message.content == plain.choices[0].message.content


@pytest.mark.parametrize("stream", [False, True])
def test_calls_in_the_ollama_dialect(litellm: Any, daemon: Daemon, stream: bool) -> None:
    fields = asked(daemon, model="ollama_chat/qwen3-coder-nano", api_base=daemon.url, temperature=0)
    answer = litellm.completion(**fields, tools=[tool(Weather, "get_weather")], stream=stream)
    if stream:
        answer = litellm.stream_chunk_builder(list(answer), messages=[QUESTION])
    assert calls_of(answer) == [("get_weather", {"city": "Rome"})]


def test_what_the_ollama_dialect_tells_of_the_model(litellm: Any, daemon: Daemon) -> None:
    told = litellm.get_model_info("ollama_chat/qwen3-coder-nano", api_base=daemon.url)
    assert told["supports_function_calling"]
    assert told["max_input_tokens"] > 4096
