"""What the engine is told about sharing: where messages end, whose prompts may meet, which conversation it is."""

from typing import Any

import pytest

from tests.support.api import Api, hello
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
