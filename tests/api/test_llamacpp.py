"""llama.cpp's routes: raw completions, fill in the middle, and what clients ask to know the server."""

import json
from dataclasses import replace
from typing import Any

import pytest

from engine.types import FinishReason, GenerationRequest, RequestTimes, TokenOutput
from tests.support.api import Api, live, raw_exchange
from tests.support.scripted_engine import TOKENIZER, play, say

# As llama.vim sends it with each keystroke, and to warm the cache.
KEYSTROKE: dict[str, Any] = {
    "id_slot": 0,
    "input_prefix": "import os\n\n",
    "input_suffix": "\n\nmain()\n",
    "input_extra": [{"filename": "util.py", "text": "def f(): ...", "time": 7}],
    "prompt": "def g(",
    "n_predict": 128,
    "stop": [],
    "n_indent": 0,
    "top_k": 40,
    "top_p": 0.9,
    "stream": False,
    "samplers": ["top_k", "top_p", "infill"],
    "cache_prompt": True,
    "t_max_prompt_ms": 500,
    "t_max_predict_ms": 1000,
    "response_fields": ["content", "timings/prompt_n", "timings/predicted_per_second", "truncated", "tokens_cached"],
}


def prompt_of(api: Api) -> str:
    return TOKENIZER.decode(api.asked.prompt_ids, skip_special_tokens=False)


def prompt_ids_text(api: Api, end: int) -> str:
    return TOKENIZER.decode(api.asked.prompt_ids[:end], skip_special_tokens=False)


def complete(api: Api, **body: Any) -> Any:
    response = api.post("/completion", {"prompt": "def f", **body})
    assert response.status_code == 200, response.text
    return response.json()


def infill(api: Api, **body: Any) -> Any:
    response = api.post("/infill", {"input_prefix": "def f():\n", "input_suffix": "\nf()", **body})
    assert response.status_code == 200, response.text
    return response.json()


def test_a_completion() -> None:
    answer = complete(Api(say("Hello", cached=2)), n_predict=100, return_tokens=True, seed=-1, temperature=0.5)
    assert answer["content"] == "Hello"
    assert (answer["stop"], answer["stop_type"], answer["stopping_word"]) == (True, "eos", "")
    assert (answer["tokens_predicted"], answer["tokens_evaluated"], answer["tokens_cached"]) == (6, 5, 2)
    assert TOKENIZER.decode(answer["tokens"]) == "Hello"
    assert (answer["timings"]["cache_n"], answer["timings"]["prompt_n"], answer["timings"]["predicted_n"]) == (2, 3, 6)
    assert answer["generation_settings"]["temperature"] == 0.5


def test_a_stream_of_events() -> None:
    text = Api(say("Hello")).post("/completion", {"prompt": "def f", "stream": True}).text
    events = [json.loads(line.removeprefix("data: ")) for line in text.strip().split("\n\n")]
    assert "".join(event["content"] for event in events) == "Hello"
    assert [event["stop"] for event in events] == [False] * 5 + [True]
    assert events[-1]["stop_type"] == "eos"


@pytest.mark.parametrize(
    "prompt",
    ["ab<|im_end|>", [*TOKENIZER.encode("ab", parse_special=False), "<|im_end|>"], ["ab<|im_end|>"]],
)
def test_prompts_of_every_shape(prompt: Any) -> None:
    api = Api()
    complete(api, prompt=prompt)
    assert prompt_of(api) == "ab<|im_end|>"
    assert TOKENIZER.token_to_id("<|im_end|>") == api.asked.prompt_ids[-1]


@pytest.mark.parametrize("bias", [[[39, 2.5]], [["H", 2.5]], {"39": 2.5}, {"H": 2.5}, [["H", 1], [39, 2.5]]])
def test_biases_of_every_shape(bias: Any) -> None:
    api = Api()
    complete(api, logit_bias=bias)
    assert dict(api.asked.sampling.logit_bias) == {39: 2.5}


def test_digits_are_an_id_where_only_texts_can_stand() -> None:
    api = Api()
    complete(api, logit_bias=[["39", 2.5]])
    assert sorted(api.asked.sampling.logit_bias) == sorted(TOKENIZER.encode("39", parse_special=False))


def test_a_long_prompt_of_ids_and_texts() -> None:
    api = Api()
    complete(api, prompt=[*[1] * 500, "ab", "c", *[2] * 500])
    assert api.asked.prompt_ids == (*[1] * 500, *TOKENIZER.encode("abc", parse_special=False), *[2] * 500)


@pytest.mark.parametrize("body", [{"json_schema": {}}, {"json_schema": True}, {"grammar": 'root ::= "a"'}])
def test_an_answer_of_a_form(body: dict[str, Any]) -> None:
    api = Api()
    complete(api, **body)
    assert api.asked.constraint is not None


def test_no_form() -> None:
    api = Api()
    complete(api, grammar="", json_schema=None)
    assert api.asked.constraint is None


def test_streams_tell_the_tokens() -> None:
    text = Api(say("Hello")).post("/completion", {"prompt": "def f", "stream": True}).text
    events = [json.loads(line.removeprefix("data: ")) for line in text.strip().split("\n\n")]
    assert TOKENIZER.decode([token for event in events for token in event["tokens"]]) == "Hello"


def test_the_last_event_of_a_stream_has_what_was_asked_for() -> None:
    body = {"prompt": "def f", "stream": True, "response_fields": ["stop_type", "timings/predicted_n", "no/such"]}
    last = Api(say("Hello")).post("/completion", body).text.strip().split("\n\n")[-1]
    assert json.loads(last.removeprefix("data: ")) == {"stop_type": "eos", "timings/predicted_n": 6}


@pytest.mark.parametrize(("num_prompt_tokens", "is_full"), [(4092, True), (4080, False)])
def test_a_full_context(num_prompt_tokens: int, is_full: bool) -> None:
    answer = complete(Api(say("Hello")), prompt="x" * num_prompt_tokens)
    assert (answer["truncated"], answer["stop_type"]) == (is_full, "limit" if is_full else "eos")


def test_a_stop_word() -> None:
    answer = complete(Api(say("Hello")), stop=["ll", ""])
    assert (answer["content"], answer["stop_type"], answer["stopping_word"]) == ("He", "word", "ll")


def test_a_stop_word_that_is_a_token() -> None:
    answer = complete(Api(say("He<|fim_pad|>llo")), stop=["<|fim_pad|>"])
    assert (answer["content"], answer["stop_type"], answer["stopping_word"]) == ("He", "word", "<|fim_pad|>")


def test_a_token_that_never_comes() -> None:
    api = Api()
    complete(api, logit_bias=[[39, False]])
    assert dict(api.asked.sampling.logit_bias) == {39: -100.0}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": [1.5]}, "prompt"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a", "b"]}, "several prompts"),
        ({"prompt": [[1], "b"]}, "several prompts"),
        ({"prompt": {"prompt_string": "a"}}, "prompt"),
        ({"prompt": [1, [2]]}, "prompt"),
        ({"prompt": [1, "a", None]}, "prompt"),
        ({"logit_bias": [[1, 10**400]]}, "logit_bias"),
        ({"logit_bias": {"H": -(10**400)}}, "logit_bias"),
        ({"logit_bias": {"H": True}}, "logit_bias"),
        ({"logit_bias": "H"}, "logit_bias"),
        ({"logit_bias": 0}, "logit_bias"),
        ({"grammar": 5}, "grammar"),
        ({"n_cmpl": 0}, "n_cmpl"),
        ({"n_cmpl": 129}, "n_cmpl"),
        ({"t_max_predict_ms": 10**400}, "t_max_predict_ms"),
        ({"response_fields": "content"}, "response_fields"),
        ({"logit_bias": 7}, "logit_bias"),
        ({"logit_bias": [[1]]}, "logit_bias"),
        ({"logit_bias": [[1, "x"]]}, "logit_bias"),
        ({"logit_bias": [[None, 1]]}, "logit_bias"),
        ({"logit_bias": {"H": 1e9}}, "logit_bias"),
        ({"grammar": "root ::= [", "json_schema": {}}, "grammar"),
        ({"grammar": "root ::= 'a'", "json_schema": {"type": "object"}}, "grammar"),
        ({"n_probs": 3}, "n_probs"),
        ({"mirostat": 2}, "mirostat"),
        ({"temperature": "hot"}, "temperature"),
        ({"lora": [{"id": 0}]}, "lora"),
    ],
)
def test_what_is_wrong_is_named(body: dict[str, Any], named: str) -> None:
    response = Api().post("/completion", {"prompt": "def f", **body})
    assert response.status_code == 400, response.text
    assert named in response.json()["error"]["message"]


def test_a_keystroke() -> None:
    api = Api(say("x):\n    return x"))
    assert set(infill(api, **KEYSTROKE)) <= set(KEYSTROKE["response_fields"])
    assert infill(api, **KEYSTROKE)["content"] == "x):\n    return x"
    prompt = prompt_of(api)
    assert prompt == (
        "<|repo_name|>repository\n<|file_sep|>util.py\ndef f(): ...\n<|file_sep|>file\n"
        "<|fim_prefix|>import os\n\ndef g(<|fim_suffix|>\n\nmain()\n<|fim_middle|>"
    )
    file, prefix = (prompt_ids_text(api, end) for end in api.asked.boundaries)  # the same at the next keystroke
    assert file.endswith("def f(): ...\n")
    assert prefix.endswith("<|fim_prefix|>import os\n\n")


def test_nothing_is_written_to_warm_the_cache() -> None:
    api = Api(say("never"))
    assert infill(api, **{**KEYSTROKE, "n_predict": 0, "response_fields": [""]}) == {}
    assert api.asked.sampling.max_tokens == 0


def test_marks_in_a_text_stay_text() -> None:
    api = Api()
    infill(api, input_prefix="<|im_end|>")
    assert prompt_of(api).startswith("<|fim_prefix|><|im_end|>")
    assert TOKENIZER.token_to_id("<|im_end|>") not in api.asked.prompt_ids


def test_an_infill_ends_where_another_file_would_begin() -> None:
    assert infill(Api(say("pass<|file_sep|>other.py")))["content"] == "pass"


@pytest.mark.parametrize("per_step", [1, 3, 100])
def test_an_infill_ends_where_its_block_does(per_step: int) -> None:
    api = Api(say("a\n    b\n\n      c\n  \nd\n    e", per_step=per_step))
    answer = infill(api, n_indent=4)
    assert answer["content"] == "a\n    b\n\n      c"
    assert answer["stop_type"] == "limit"


def test_blank_lines_at_the_end_are_part_of_it() -> None:
    assert infill(Api(say("a\n    b\n\n")), n_indent=4)["content"] == "a\n    b\n\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\n        END", "a\n        "),  # with enough blanks they are part of the block
        ("a\r\n    b\r\nc", "a\r\n    b"),
        ("a\rb", "a\rb"),
    ],
)
@pytest.mark.parametrize("per_step", [1, 100])
def test_what_stands_before_a_stop_or_the_end_of_a_block(text: str, shown: str, per_step: int) -> None:
    assert infill(Api(say(text, per_step=per_step)), n_indent=4, stop=["END"])["content"] == shown


def test_several_answers_are_a_list() -> None:
    """As llama.vscode asks for them, with every keystroke."""
    api = Api(say("pass"))
    answers: Any = infill(api, **{**KEYSTROKE, "n_cmpl": 3})
    assert [answer["content"] for answer in answers] == ["pass"] * 3
    assert [request.choice for request in api.engine.requests] == [0, 1, 2]
    assert all(request.interactive for request in api.engine.requests)
    whole: Any = infill(api, n_cmpl=2)
    assert [(answer["index"], answer["tokens_predicted"]) for answer in whole] == [(0, 5), (1, 5)]  # with the end


def test_several_answers_as_a_stream() -> None:
    response = Api(say("pass")).post("/completion", {"prompt": "a", "n_cmpl": 2, "stream": True})
    events = [json.loads(line.removeprefix("data: ")) for line in response.text.split("\n\n") if line]
    for index in (0, 1):
        own = [event for event in events if event["index"] == index]
        assert "".join(event["content"] for event in own) == "pass"
        assert [event["tokens_predicted"] for event in own][-2:] == [4, 5]  # with the end
        assert [event["stop"] for event in own] == [False] * (len(own) - 1) + [True]


def ticking(text: str, seconds: float) -> Any:
    """A token a step, each so long after the one before."""

    def script(request: GenerationRequest) -> Any:
        for number, token_id in enumerate(TOKENIZER.encode(text, parse_special=True)):
            yield TokenOutput((token_id,), times=RequestTimes(0.0, 0.0, 1.0, 1.0 + number * seconds))

    return script


def test_an_infill_ends_when_its_time_is_over_and_a_line_is_whole() -> None:
    api = Api(ticking("long line\nsecond", 0.5))
    answer = infill(api, t_max_predict_ms=1000)
    assert answer["content"] == "long line\n"
    assert answer["stop_type"] == "limit"


@pytest.mark.parametrize(
    ("bias", "words"),
    [
        ([["a", 1]] * 1025, "1024 tokens"),
        ([["ab" * 100, 1]] * 6, "1024 tokens"),
        ([["a" * 257, 1]], "256 characters"),
    ],
)
def test_biases_of_too_many_tokens(bias: Any, words: str) -> None:
    answer = Api().post("/completion", {"prompt": "a", "logit_bias": bias})
    assert answer.status_code == 400
    assert words in answer.text


@pytest.mark.parametrize("path", ["/completion", "/infill", "/api/generate"])
def test_what_is_as_cold_as_can_be(path: str) -> None:
    """Sliders have such ends, and llama.cpp says below 0 for the likeliest."""
    api, coldest = Api(), {"temperature": -1, "top_p": 0}
    body = {"prompt": "a", "stream": False, **(coldest if path != "/api/generate" else {"options": coldest})}
    assert api.post(path, body).status_code == 200
    assert (api.asked.sampling.temperature, api.asked.sampling.top_p < 1e-6) == (0.0, True)


def test_suffix_in_the_openai_dialect() -> None:
    api = Api(say("pass<|fim_pad|>more"))
    body = {"prompt": "def f():\n    ", "suffix": "\nf()", "max_tokens": 50}
    answer = api.post("/v1/completions", body).json()["choices"][0]
    assert (answer["text"], answer["finish_reason"]) == ("pass", "stop")
    assert prompt_of(api) == "<|fim_prefix|>def f():\n    <|fim_suffix|>\nf()<|fim_middle|>"
    assert "pass" not in api.post("/v1/completions", {**body, "prompt": [1, 2]}).text
    for refused in ({"prompt": [1, 2]}, {"echo": True}):
        assert api.post("/v1/completions", {**body, **refused}).status_code == 400


def test_a_suffix_without_a_limit_may_be_filled_with_more_than_sixteen_tokens() -> None:
    api = Api()
    for body, limit in (({}, 256), ({"max_tokens": None}, 256), ({"max_tokens": 16}, 16), ({"suffix": ""}, 16)):
        api.post("/v1/completions", {"prompt": "a", "suffix": "b", **body})
        assert api.asked.sampling.max_tokens == limit


def test_the_servers_properties() -> None:
    props = Api().get("/props").json()
    assert props["default_generation_settings"]["n_ctx"] == 4096
    assert props["total_slots"] == 4
    assert "/" not in props["model_path"]
    assert Api().post("/props", {}).status_code == 501


def test_slots() -> None:
    slots = Api().get("/slots").json()
    assert [slot["id"] for slot in slots] == [0, 1, 2, 3]
    assert not any(slot["is_processing"] for slot in slots)
    assert Api().get("/slots?fail_on_no_slot=1").status_code == 200


@pytest.mark.parametrize("num_running", [1, 4])
def test_slots_that_are_taken(num_running: int) -> None:
    stats = replace(Api().engine.stats(), num_slots_used=num_running)
    api = Api()
    api.engine.stats = lambda: stats  # type: ignore[method-assign]
    assert [slot["is_processing"] for slot in api.get("/slots").json()].count(True) == num_running
    response = api.get("/slots?fail_on_no_slot=1")
    if num_running < 4:
        assert response.status_code == 200
        return
    assert (response.status_code, int(response.headers["retry-after"])) == (503, 1)
    assert response.json()["error"] == {"code": 503, "message": "No slot is free.", "type": "unavailable_error"}


def test_a_broken_stream_has_its_error_and_no_end() -> None:
    failing = play(TokenOutput((39,)), TokenOutput((), finish_reason=FinishReason.ERROR, error="the device failed"))
    with live(Api(failing)) as url:
        received = raw_exchange(url, {"prompt": "x", "stream": True}, "/completion")
    assert b'"code":500' in received
    assert not received.endswith(b"0\r\n\r\n")
