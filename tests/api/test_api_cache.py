"""What the engine is told about sharing: where messages end, whose prompts may meet, which conversation it is."""

import json
from typing import Any

import pytest

from engine.client import KeptState
from engine.types import CacheTier
from tests.support.api import WEATHER, Api, chunks_of, hello
from tests.support.scripted_engine import EOS, TOKENIZER, say
from tests.support.tiny_text_model import tiny_model

KEYS = ("first-key", "second-key")


def salt(api: Api, key: str | None = None, path: str = "/v1/chat/completions", **body: Any) -> str:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    fields = body if "prompt" in body else hello(**body)
    assert api.post(path, fields, headers=headers).status_code == 200
    found: str = api.asked.cache_salt
    return found


def session(api: Api, headers: dict[str, str] | None = None, **body: Any) -> str | None:
    assert api.post("/v1/chat/completions", hello(**body), headers=headers or {}).status_code == 200
    found: str | None = api.asked.session
    return found


def test_boundaries_are_the_ends_of_messages() -> None:
    api = Api()
    messages = [{"role": role, "content": text} for role, text in (("system", "be"), ("user", "hi"))]
    assert api.post("/v1/chat/completions", {"messages": messages}).status_code == 200
    tokenizer = tiny_model().tokenizer
    ends = [tokenizer.decode(api.asked.prompt_ids[:end], skip_special_tokens=False) for end in api.asked.boundaries]
    system = "<|im_start|>system\nbe<|im_end|>\n"
    assert ends == [system, f"{system}<|im_start|>user\nhi<|im_end|>\n"]


def test_a_raw_prompt_has_none() -> None:
    api = Api()
    api.complete(prompt="a<|im_start|>b")
    assert api.asked.boundaries == ()


def test_salts_and_keys_keep_prompts_apart() -> None:
    api = Api(keys=KEYS)
    salts = [salt(api, key, cache_salt=given) for key in KEYS for given in (None, "a", "b")]
    assert len(set(salts)) == 6
    assert salt(api, KEYS[0], cache_salt="a") == salts[1]
    assert salt(api, KEYS[0], "/v1/completions", prompt="x", cache_salt="a") == salts[1]
    assert not any(key in text for key in KEYS for text in salts)


def test_keys_may_share() -> None:
    api = Api(keys=KEYS, share_cache_across_keys=True)
    assert salt(api, KEYS[0]) == salt(api, KEYS[1])
    assert salt(api, KEYS[0], cache_salt="a") != salt(api, KEYS[0])


def test_without_keys_all_are_one() -> None:
    api = Api()
    assert salt(api) == salt(api, "whatever")


@pytest.mark.parametrize(
    "header",
    ["X-Claude-Code-Session-Id", "x-session-id", "x-session-affinity", "session-id", "x-litellm-session-id"],
)
def test_sessions_by_header(header: str) -> None:
    api = Api()
    assert session(api) is None
    named = session(api, {header: "abc"})
    assert named is not None
    assert "abc" in named
    assert session(api, {header: "abd"}) != named


def test_sessions_by_field_come_first() -> None:
    api = Api()
    by_field = session(api, prompt_cache_key="key")
    assert by_field == session(api, {"x-session-id": "other"}, prompt_cache_key="key")
    assert by_field == session(api, session_id="key")


def test_sessions_of_two_keys_are_two() -> None:
    api = Api(keys=KEYS)
    found = [session(api, {"Authorization": f"Bearer {key}", "x-session-id": "s"}) for key in KEYS]
    assert found[0] != found[1]


@pytest.mark.parametrize("fields", [{"cache_salt": ""}, {"cache_salt": 5}, {"cache_salt": "x" * 1025}])
def test_what_is_no_salt_is_refused(fields: dict[str, Any]) -> None:
    response = Api().chat(**fields)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "cache_salt"


# --- what operators see ---------------------------------------------------------------------------------------------


def test_what_is_kept_is_listed_and_forgotten_by_key() -> None:
    api = Api(keys=KEYS)
    for key in KEYS:
        api.engine.kept.append(KeptState(salt(api, key), 100, 40, True, 2, 1, 3.5, CacheTier.MEMORY))
    headers = {"Authorization": f"Bearer {KEYS[0]}"}
    state = {"num_tokens": 100, "num_beyond": 40, "is_answer": True, "num_turns": 2, "num_hits": 1, "idle_seconds": 3.5}
    state["tier"] = "memory"
    empty = {"bytes": 0, "max_bytes": 0}
    shown = {"room": 0, "host": empty, "disk": empty, "kept": [state]}
    assert api.get("/cache", headers=headers).json() == shown
    assert api.request("DELETE", "/cache", headers=headers).json() == {"num_forgotten": 1}
    assert api.get("/cache", headers=headers).json()["kept"] == []
    assert len(api.engine.kept) == 1
    assert api.get("/cache").status_code == 401


def test_a_report_for_those_who_ask() -> None:
    api = Api(say("Hello", cached=21))
    assert "cache_report" not in api.chat().json()["usage"]
    messages = [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]
    body = {"messages": messages, "cache_report": True}
    expected = {
        "cached_tokens": 21,
        "known_tokens": 21,
        "tier": "memory",
        "miss": "differs",
        "first_different_message": 1,
    }
    assert api.post("/v1/chat/completions", body).json()["usage"]["cache_report"] == [expected]
    streamed = api.post("/v1/chat/completions", {**body, "stream": True, "stream_options": {"include_usage": True}})
    assert chunks_of(streamed.text)[-1]["usage"]["cache_report"] == [expected]
    plain = Api(say("Hello")).complete(prompt=["a", "b"], cache_report=True).json()["usage"]["cache_report"]
    assert [report["miss"] for report in plain] == ["new", "new"]


# --- answers that come back -----------------------------------------------------------------------------------------

CALL = "Let me see.\n\n<tool_call>\n<function=weather>\n<parameter=city>\nOslo\n</parameter>\n</function>\n</tool_call>"


def second_turn(api: Api, **first: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ask, and send the answer back in other words with one more question: the ids of both prompts."""
    response = api.chat(**first)
    assert response.status_code == 200
    prompt = api.asked.prompt_ids
    said = response.json()["choices"][0]["message"]
    back = {"role": "assistant", "content": f" {said['content'] or ''} "}
    if said.get("tool_calls"):
        back["tool_calls"] = [
            {"id": call["id"], "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
            for call in said["tool_calls"]
        ]
    more = {name: value for name, value in first.items() if name == "tools"}
    messages = [*hello()["messages"], back, {"role": "user", "content": "and?"}]
    assert api.post("/v1/chat/completions", {"messages": messages, **more}).status_code == 200
    return prompt, api.asked.prompt_ids


@pytest.mark.parametrize(
    ("text", "fields"), [("  two words\n", {}), (CALL, {"tools": [WEATHER]}), ("cut off", {"max_tokens": 3})]
)
def test_an_answer_comes_back_as_it_was_generated(text: str, fields: dict[str, Any]) -> None:
    api = Api(say(text))
    prompt, second = second_turn(api, **fields)
    generated = tuple(TOKENIZER.encode(text, parse_special=True))[: fields.get("max_tokens")]
    assert second[: len(prompt) + len(generated) + 1] == (*prompt, *generated, EOS)
    plain = Api(say(text), replay=False)
    assert second_turn(plain, **fields)[1][: len(prompt) + len(generated) + 1] != (*prompt, *generated, EOS)


def test_what_a_stop_string_cut_is_text() -> None:
    api = Api(say("one two three"))
    prompt, second = second_turn(api, stop="two")
    assert second[len(prompt) :][: len("one ") + 2] != tuple(TOKENIZER.encode("one tw", parse_special=False))


def test_another_salt_knows_nothing_of_an_answer() -> None:
    api = Api(say(" a"))
    assert api.chat(cache_salt="x").status_code == 200
    prompt = api.asked.prompt_ids
    messages = [*hello()["messages"], {"role": "assistant", "content": "a"}, {"role": "user", "content": "and?"}]
    found = {}
    for salt_name in ("x", "y"):
        assert api.post("/v1/chat/completions", {"messages": messages, "cache_salt": salt_name}).status_code == 200
        found[salt_name] = api.asked.prompt_ids[len(prompt) :]
    assert TOKENIZER.decode(found["x"]).startswith(" a")
    assert TOKENIZER.decode(found["y"]).startswith("a")


@pytest.mark.parametrize("salt", [{}, {"cache_salt": "x"}])
def test_what_counts_a_prompt_knows_the_answers_in_it(salt: dict[str, str]) -> None:
    api = Api(say(" a"))
    assert api.chat(**salt).status_code == 200
    messages = [*hello()["messages"], {"role": "assistant", "content": "a"}, {"role": "user", "content": "and?"}]
    body = {"messages": messages, **salt}
    counted = api.post("/v1/chat/completions/input_tokens", body).json()["input_tokens"]
    tokenized = api.post("/tokenize", body).json()["tokens"]
    rendered = api.post("/apply-template", body).json()["prompt"]
    assert api.post("/v1/chat/completions", body).status_code == 200
    asked = api.asked.prompt_ids
    assert (counted, tokenized) == (len(asked), list(asked))
    assert rendered == TOKENIZER.decode(asked, skip_special_tokens=False)
