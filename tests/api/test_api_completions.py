"""POST /v1/completions."""

from typing import Any

import pytest

from tests.support.api import Api, chunks_of
from tests.support.scripted_engine import TOKENIZER, say


def ids(text: str) -> list[int]:
    return TOKENIZER.encode(text, parse_special=True)


def test_whole_answer() -> None:
    response = Api(say("oo():")).complete()
    body = response.json()
    assert body["object"] == "text_completion"
    assert body["id"] == f"cmpl-{response.headers['x-request-id']}"
    assert body["choices"] == [
        {"index": 0, "text": "oo():", "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    ]
    assert body["usage"]["prompt_tokens"] == 5


def test_stream() -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}}
    chunks = chunks_of(Api(say("oo():")).complete(**options).text)
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks[:-1]) == "oo():"
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"]["total_tokens"] == 11


def test_sixteen_tokens_unless_asked_for_more() -> None:
    body = Api(say("x" * 40)).post("/v1/completions", {"prompt": "a"}).json()
    assert body["choices"][0]["text"] == "x" * 16
    assert body["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("ab", ["ab"]),
        (["ab", "c"], ["ab", "c"]),
        ([97, 98], None),
        ([[97, 98], [99]], None),
        ("<|fim_prefix|>a<|fim_middle|>", ["<|fim_prefix|>a<|fim_middle|>"]),
    ],
)
def test_prompts_in_every_shape(prompt: Any, prompts: list[str] | None) -> None:
    api = Api()
    body = api.complete(prompt=prompt, n=2).json()
    if prompts is None:
        expected = prompt if isinstance(prompt[0], list) else [prompt]
    else:
        expected = [ids(text) for text in prompts]
    asked = [(list(request.prompt_ids), request.choice) for request in api.engine.requests]
    assert asked == [(row, choice) for row in expected for choice in (0, 1)]
    assert [choice["index"] for choice in body["choices"]] == list(range(2 * len(expected)))
    assert body["usage"]["prompt_tokens"] == sum(map(len, expected))


def test_many_prompts_that_are_long_together_are_encoded_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    async def to_thread(work: Any) -> Any:
        sizes.append(1)
        return work()

    monkeypatch.setattr("server.prompts.asyncio.to_thread", to_thread)
    assert Api().complete(prompt=["x" * 3000] * 30).status_code == 200
    assert len(sizes) == 1


def test_control_tokens_in_a_prompt_are_control_tokens() -> None:
    api = Api()
    api.complete(prompt="<|fim_prefix|>a")
    assert len(api.asked.prompt_ids) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("as_ids", [False, True])
def test_echo(stream: bool, as_ids: bool) -> None:
    prompt: Any = ids("def f") if as_ids else "def f"
    response = Api(say("oo")).complete(prompt=prompt, echo=True, stream=stream)
    if stream:
        text = "".join(chunk["choices"][0]["text"] for chunk in chunks_of(response.text))
    else:
        text = response.json()["choices"][0]["text"]
    assert text == "def foo"


def test_logprobs() -> None:
    logprobs = Api(say("hé!")).complete(logprobs=2).json()["choices"][0]["logprobs"]
    assert logprobs["tokens"] == ["h", "\ufffd", "\ufffd", "!"]
    assert logprobs["token_logprobs"] == [-0.25] * 4
    assert logprobs["text_offset"] == [0, 1, 1, 2]
    assert logprobs["top_logprobs"][0]["h"] == -0.25
    assert len(logprobs["top_logprobs"][0]) == 2


def test_streamed_logprobs_have_running_offsets() -> None:
    chunks = chunks_of(Api(say("abc")).complete(logprobs=0, stream=True).text)
    offsets = [
        offset for chunk in chunks for offset in (chunk["choices"][0]["logprobs"] or {"text_offset": []})["text_offset"]
    ]
    assert offsets == [0, 1, 2]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": ["a", 5]}, "prompt"),
        ({"prompt": ["a", ""]}, "prompt"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 4}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
    ],
)
def test_refusals(body: dict[str, Any], param: str) -> None:
    api = Api()
    response = api.complete(**body)
    assert response.status_code == 400, response.text
    assert response.json()["error"]["param"] == param
    assert api.engine.running == []


def test_more_sequences_than_the_line_can_hold_are_refused_for_good() -> None:
    response = Api().complete(n=128, prompt=["x"] * 100)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "n"
    assert "12800 sequences" in response.json()["error"]["message"]
