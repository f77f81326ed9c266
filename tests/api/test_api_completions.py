"""POST /v1/completions."""

from typing import Any

import pytest

from engine.types import FinishReason, TokenLogprobs, TokenOutput
from tests.support.api import Api, chunks_of
from tests.support.scripted_engine import TOKENIZER, play, say


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
    Api().chat(messages=[{"role": "user", "content": ""}] * 4000)  # rendering one takes time too
    assert len(sizes) == 2


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


# --- scores of the prompt -------------------------------------------------------------------------------------------


def joined(chunks: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """What the chunks of one choice say together."""
    parts = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    logprobs = [part["logprobs"] for part in parts if part["logprobs"]]
    return {
        "index": index,
        "text": "".join(part["text"] for part in parts),
        "logprobs": {name: [item for one in logprobs for item in one[name]] for name in logprobs[0]},
        "finish_reason": parts[-1]["finish_reason"],
        "stop_reason": parts[-1]["stop_reason"],
    }


def score(api: Api, stream: bool, **body: Any) -> list[dict[str, Any]]:
    """The choices, streamed or not."""
    response = api.complete(echo=True, stream=stream, **body)
    assert response.status_code == 200, response.text
    if not stream:
        return response.json()["choices"]
    chunks = chunks_of(response.text)
    return [joined(chunks, index) for index in sorted({c["index"] for chunk in chunks for c in chunk["choices"]})]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("as_ids", [False, True])
def test_prompt_and_answer_are_told_token_by_token(stream: bool, as_ids: bool) -> None:
    api = Api(say("oo"))
    [choice] = score(api, stream, prompt=ids("<|fim_prefix|>hé f") if as_ids else "<|fim_prefix|>hé f", logprobs=2)
    told = choice["logprobs"]
    assert choice["text"] == "<|fim_prefix|>hé foo"
    assert told["tokens"] == ["<|fim_prefix|>", "h", "\ufffd", "\ufffd", " ", "f", "o", "o", "<|im_end|>"]
    assert told["token_logprobs"] == [None, *[-0.25] * 8]
    assert told["text_offset"] == [0, 14, 15, 15, 16, 17, 18, 19, 20]
    assert told["top_logprobs"][0] is None
    assert [len(top) for top in told["top_logprobs"][1:2]] == [2]
    assert told["top_logprobs"][1]["h"] == -0.25
    assert (api.asked.sampling.prompt_logprobs, api.asked.sampling.logprobs) == (2, 2)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_is_only_scored(stream: bool) -> None:
    prompts = [ids("def f"), ids("x"), ids("<|im_end|>")]
    choices = score(Api(say("oo")), stream, prompt=prompts, logprobs=1, max_tokens=0, temperature=0)
    assert [choice["text"] for choice in choices] == ["def f", "x", "<|im_end|>"]
    assert [len(choice["logprobs"]["tokens"]) for choice in choices] == [len(prompt) for prompt in prompts]
    assert [choice["logprobs"]["token_logprobs"][0] for choice in choices] == [None, None, None]
    assert {choice["finish_reason"] for choice in choices} == {"length"}


def test_only_scoring_generates_nothing_that_counts() -> None:
    usage = Api(say("oo")).complete(echo=True, logprobs=1, max_tokens=0).json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"], usage["total_tokens"]) == (5, 0, 5)


@pytest.mark.parametrize("answer", ["", "oo", "<|fim_pad|>", "é"])
def test_a_harness_counts_on_one_entry_for_the_one_token_that_it_asks_for(answer: str) -> None:
    """It takes what stands between the context and the last entry, whatever was drawn: the end of the text too."""
    [choice] = score(Api(say(answer)), False, prompt=[ids("def f")], logprobs=1, max_tokens=1)
    assert len(choice["logprobs"]["token_logprobs"]) == len(choice["logprobs"]["top_logprobs"]) == 6


@pytest.mark.parametrize("stream", [False, True])
def test_every_choice_of_every_prompt_has_its_own(stream: bool) -> None:
    choices = score(Api(say("o")), stream, prompt=["ab", "cde"], logprobs=0, n=2, max_tokens=1)
    assert [choice["logprobs"]["tokens"] for choice in choices] == [[*"abo"]] * 2 + [[*"cdeo"]] * 2


def test_a_token_is_not_greedy_because_a_likelier_one_has_the_same_text() -> None:
    part_of_a_character, another = ids("é")
    scores = (TokenLogprobs(another, -3.0, ((part_of_a_character, -0.5), (another, -3.0))),)
    end = TokenOutput((), prompt_logprobs=scores, finish_reason=FinishReason.LENGTH)
    [choice] = score(Api(play(end)), False, prompt=[[*ids("a"), another]], logprobs=2, max_tokens=0)
    assert choice["logprobs"]["token_logprobs"][1] == -3.0
    assert max(choice["logprobs"]["top_logprobs"][1].values()) == -0.5


def test_an_echo_alone_scores_nothing() -> None:
    api = Api(say("oo"))
    choice = api.complete(echo=True, max_tokens=0).json()["choices"][0]
    assert (choice["text"], choice["logprobs"], choice["finish_reason"]) == ("def f", None, "length")
    assert api.asked.sampling.prompt_logprobs is None


def test_a_failure_after_some_of_the_scores_fails_the_request() -> None:
    failed = TokenOutput((), finish_reason=FinishReason.ERROR, error="the device failed")
    some = TokenOutput((), prompt_logprobs=(TokenLogprobs(ids("e")[0], -1.0),))
    response = Api(play(some, failed)).complete(echo=True, logprobs=1)
    assert response.status_code == 500
    assert "the device failed" in response.text


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
        ({"best_of": 4}, "best_of"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 0, "logprobs": 1}, "max_tokens"),
        ({"max_tokens": 0, "echo": True, "min_tokens": 1}, "min_tokens"),
        ({"echo": True, "logprobs": 21}, "logprobs"),
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
