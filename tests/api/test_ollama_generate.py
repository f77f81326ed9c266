"""POST /api/generate: a prompt as the user's message, as it stands, or with a gap to fill."""

from typing import Any

import pytest
import tokenizers
from tokenizers import AddedToken

from server.chat.model_files import ModelFiles
from server.model import served_model
from tests.support.api import Api
from tests.support.ollama import GENERATE, lines_of, prompt_of
from tests.support.scripted_engine import say


def ask(api: Api, **body: Any) -> Any:
    return api.post(GENERATE, {"stream": False, **body})


def test_a_prompt_is_the_users_message() -> None:
    api = Api(say("Hello"))
    answer = ask(api, prompt="Hi", system="Be brief.").json()
    assert (answer["response"], answer["done"], answer["done_reason"]) == ("Hello", True, "stop")
    assert (answer["eval_count"], "message" in answer, "context" in answer) == (6, False, False)
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert prompt_of(api) == expected


def test_a_stream() -> None:
    *chunks, last = lines_of(Api(say("Hello")).post(GENERATE, {"prompt": "Hi"}).text)
    assert "".join(chunk["response"] for chunk in chunks) == "Hello"
    assert (last["response"], last["done"], last["done_reason"]) == ("", True, "stop")
    assert last["total_duration"] > 0


def test_a_raw_prompt_stands_as_it_is() -> None:
    """As Continue's autocomplete sends it: marks written out, and some of them as stops."""
    api = Api(say("x\n<|endoftext|>y"))
    stops = ["<|endoftext|>", "<|fim_prefix|>", "\n\n"]
    options = {"num_predict": 50, "stop": stops, "num_ctx": 4096, "temperature": 0.01}
    prompt = "<|fim_prefix|>a<|fim_suffix|>b<|fim_middle|>"
    answer = ask(api, prompt=prompt, raw=True, options=options, keep_alive=1800).json()
    assert (answer["response"], answer["done_reason"]) == ("x\n", "stop")
    assert prompt_of(api) == prompt
    tokenizer = api.app.state.service.model.tokenizer
    assert set(api.asked.sampling.stop_token_ids) == {tokenizer.token_to_id(stop) for stop in stops[:2]}
    assert tuple(api.asked.prompt_ids) == tuple(tokenizer.encode(prompt, parse_special=True))


def test_a_suffix_makes_a_gap_to_fill() -> None:
    api = Api(say("pass<|fim_prefix|>more"))
    answer = ask(api, prompt="def f():\n    ", suffix="\n# <|im_end|>").json()
    assert (answer["response"], answer["done_reason"]) == ("pass", "stop")
    assert prompt_of(api) == "<|fim_prefix|>def f():\n    <|fim_suffix|>\n# <|im_end|><|fim_middle|>"
    tokenizer = api.app.state.service.model.tokenizer
    assert tokenizer.token_to_id("<|im_end|>") not in api.asked.prompt_ids  # a text cannot end the prompt
    assert tokenizer.token_to_id("<|im_end|>") in api.asked.sampling.stop_token_ids


def test_a_suffix_with_nothing_before_it() -> None:
    api = Api()
    assert ask(api, suffix="b").json()["response"] == "Hello"
    assert prompt_of(api) == "<|fim_prefix|><|fim_suffix|>b<|fim_middle|>"


def test_a_model_that_fills_no_gaps() -> None:
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens([AddedToken("<|im_end|>", special=True)])
    api = Api(model=served_model(ModelFiles(inner), ("m",)))
    assert "does not fill in the middle" in ask(api, prompt="a", suffix="b").json()["error"]
    assert "no chat template" in ask(api, prompt="a").json()["error"]
    assert api.post("/api/show", {"model": "m"}).json()["capabilities"] == ["completion"]
    assert ask(api, prompt="a", raw=True).status_code == 200


@pytest.mark.parametrize("extra", [{"raw": True}, {"suffix": "b"}, {}])
def test_answers_of_a_form(extra: dict[str, Any]) -> None:
    api = Api()
    assert ask(api, prompt="a", format="json", **extra).status_code == 200
    assert api.asked.constraint is not None


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"raw": True, "system": "s"}, "system"),
        ({"raw": True, "suffix": "s"}, "suffix"),
        ({"suffix": "s", "system": "s"}, "system"),
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"context": [1, 2, 3]}, "context"),
        ({"images": ["aGk="]}, "images"),
        ({"width": 64}, "width"),
    ],
)
def test_what_cannot_be_done_is_named(body: dict[str, Any], named: str) -> None:
    response = ask(Api(), prompt="a", **body)
    assert response.status_code == 400
    assert named in response.json()["error"]


def test_what_asks_for_nothing_passes() -> None:
    nothing = {"template": "", "context": [], "images": [], "system": "", "suffix": None, "format": "", "raw": None}
    assert ask(Api(), prompt="a", **nothing).status_code == 200


@pytest.mark.parametrize("extra", [{"raw": True}, {"suffix": "b"}, {}])
def test_a_prompt_that_does_not_fit(extra: dict[str, Any]) -> None:
    response = ask(Api(), prompt="x" * 5000, **extra)
    assert response.status_code == 400
    assert "maximum context length is 4096 tokens. However, your prompt resulted in 50" in response.json()["error"]
