"""Responses that are kept: fetching them, going on from them, ending and forgetting them, and who may."""

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import openai.types.responses as sdk
import pytest
from pydantic import TypeAdapter

from tests.support.api import Api, eventually, live
from tests.support.event_streams import events_of
from tests.support.fake_clock import post, run
from tests.support.responses import CALL, PATH, WEATHER, answered, ask, last_prompt, streamed
from tests.support.scripted_engine import TOKENIZER, fail_after, say

KEYS = ("first-key", "second-key")
FIRST, SECOND = ({"headers": {"Authorization": f"Bearer {key}"}} for key in KEYS)


def error_of(response: httpx.Response, status: int) -> Any:
    assert response.status_code == status, response.text
    return response.json()["error"]


def test_a_response_is_kept_as_it_was() -> None:
    api = Api(say(f"I look. {CALL}"))
    whole = answered(api, tools=[WEATHER], metadata={"a": "b"})
    of_stream = streamed(api, tools=[WEATHER])[-1]["response"]
    for response in (whole, of_stream):
        for prefix in (PATH, "/responses"):
            assert api.get(f"{prefix}/{response['id']}").json() == response


def test_an_incomplete_one_too() -> None:
    api = Api()
    response = answered(api, max_output_tokens=2)
    assert api.get(f"{PATH}/{response['id']}").json()["status"] == "incomplete"


@pytest.mark.parametrize("stream", [False, True])
def test_nothing_is_kept_of_one_that_is_not_to_be(stream: bool) -> None:
    api = Api()
    response = streamed(api, store=False)[-1]["response"] if stream else answered(api, store=False)
    assert response["store"] is False
    for path in ("", "/input_items"):
        error = error_of(api.get(f"{PATH}/{response['id']}{path}"), 404)
        assert error["param"] == "response_id"
    assert error_of(ask(api, previous_response_id=response["id"]), 400)["code"] == "previous_response_not_found"


def test_nor_of_one_that_fails() -> None:
    api = Api(fail_after("Hel"))
    sent = run(post(api.app, PATH, json.dumps({"input": "Hi", "stream": True}).encode()))
    failed = events_of(b"".join(message.get("body", b"") for _, message in sent).decode())[-1]["response"]
    assert failed["status"] == "failed"
    assert api.get(f"{PATH}/{failed['id']}").status_code == 404


def test_a_conversation_goes_on() -> None:
    api = Api(say(f"I look. {CALL}"))
    first = answered(api, "Rain?", instructions="Be kind.", tools=[WEATHER])
    result = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "rain"}
    second = answered(api, [result], previous_response_id=first["id"], tools=[WEATHER])
    third = answered(api, "So?", previous_response_id=second["id"], instructions="Be brief.")
    turn = "I look.[weather city=Oslo days=3]<|im_end|>\n"
    assert last_prompt(api) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nRain?<|im_end|>\n"
        f"<|im_start|>assistant\n{turn}<|im_start|>tool\nrain<|im_end|>\n<|im_start|>assistant\n{turn}"
        "<|im_start|>user\nSo?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert third["previous_response_id"] == second["id"]


def test_going_on_reads_the_tokens_that_were_generated() -> None:
    api = Api(say("  Hello \n"))
    first = answered(api)
    read = [*api.asked.prompt_ids, *TOKENIZER.encode("  Hello \n", parse_special=True)]
    answered(api, "So?", previous_response_id=first["id"])
    assert list(api.asked.prompt_ids[: len(read)]) == read


def test_two_may_go_on_from_one() -> None:
    api = Api()
    first = answered(api, "one")
    for more in ("two", "three"):
        answered(api, more, previous_response_id=first["id"])
        assert last_prompt(api).count("<|im_start|>user") == 2
        assert more in last_prompt(api)


def test_a_conversation_goes_on_when_its_beginning_is_forgotten() -> None:
    api = Api()
    first = answered(api, "one")
    second = answered(api, "two", previous_response_id=first["id"])
    api.request("DELETE", f"{PATH}/{first['id']}")
    answered(api, "three", previous_response_id=second["id"])
    assert "one" in last_prompt(api)
    assert error_of(ask(api, previous_response_id=first["id"]), 400)["param"] == "previous_response_id"


def test_counting_goes_on_too() -> None:
    api = Api()
    first = answered(api, "one")
    counted = api.post(f"{PATH}/input_tokens", {"input": "two", "previous_response_id": first["id"]}).json()
    second = answered(api, "two", previous_response_id=first["id"])
    assert counted["input_tokens"] == second["usage"]["input_tokens"]


def test_items_can_be_referred_to() -> None:
    api = Api()
    first = answered(api, "one")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    answered(api, [{"role": "user", "content": "x"}, reference, {"role": "user", "content": "y"}], store=False)
    assert "x<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n<|im_start|>user\ny" in last_prompt(api)
    api.request("DELETE", f"{PATH}/{first['id']}")
    assert error_of(ask(api, [reference]), 400)["code"] == "item_not_found"


def test_what_was_answered_is_listed() -> None:
    api = Api()
    given = [{"role": "user", "content": f"{n}"} for n in range(25)]
    response = answered(api, [*given, {"role": "assistant", "content": "a"}, {"role": "user", "content": ["z"]}])
    path = f"{PATH}/{response['id']}/input_items"
    newest = api.get(path).json()
    assert (newest["object"], len(newest["data"]), newest["has_more"]) == ("list", 20, True)
    assert newest["data"][0]["content"] == ["z"]
    assert newest["data"][1]["content"] == [{"type": "output_text", "text": "a", "annotations": []}]
    assert newest["data"][2]["content"] == [{"type": "input_text", "text": "24"}]
    rest = api.get(path, params={"after": newest["last_id"], "limit": 100}).json()
    assert (len(rest["data"]), rest["has_more"]) == (7, False)
    assert rest["data"][-1]["content"][0]["text"] == "0"
    oldest = api.get(path, params={"order": "asc", "limit": 2}).json()
    assert [item["content"][0]["text"] for item in oldest["data"]] == ["0", "1"]
    assert (oldest["first_id"], oldest["last_id"]) == tuple(item["id"] for item in oldest["data"])
    for name, value in (("order", "up"), ("limit", "0"), ("limit", "101"), ("limit", "x"), ("after", "msg_0")):
        assert error_of(api.get(path, params={name: value}), 400)["param"] == name


def test_items_fit_what_the_official_client_declares() -> None:
    api = Api(say(f"I look. {CALL}"))
    first = answered(api, "Rain?", tools=[WEATHER])
    result = {"type": "function_call_output", "call_id": first["output"][1]["call_id"], "output": "rain"}
    second = answered(api, [*first["output"], result], previous_response_id=first["id"], tools=[WEATHER])
    for response in (first, second):
        sdk.Response.model_validate(response)
        TypeAdapter(list[sdk.ResponseOutputItem]).validate_python(response["output"])
        page = api.get(f"{PATH}/{response['id']}/input_items").json()
        sdk.ResponseItemList.model_validate(page)


def test_a_response_can_be_forgotten() -> None:
    api = Api()
    response = answered(api)
    path = f"{PATH}/{response['id']}"
    assert api.request("DELETE", path).json() == {"id": response["id"], "object": "response", "deleted": True}
    assert api.get(path).status_code == api.request("DELETE", path).status_code == 404


def test_each_key_has_its_own() -> None:
    api = Api(keys=KEYS)
    response = api.post(PATH, {"input": "Hi"}, **FIRST).json()
    path = f"{PATH}/{response['id']}"
    for method, rest in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
        assert api.request(method, path + rest, **SECOND).status_code == 404
    following = {"input": "Hi", "previous_response_id": response["id"]}
    assert api.post(PATH, following, **SECOND).status_code == 400
    reference = {"input": [{"type": "item_reference", "id": response["output"][0]["id"]}]}
    assert api.post(PATH, reference, **SECOND).status_code == 400
    assert api.post(PATH, following, **FIRST).status_code == api.post(PATH, reference, **FIRST).status_code == 200
    assert api.get(path, **FIRST).status_code == 200


def test_events_are_not_sent_again() -> None:
    api = Api()
    path = f"{PATH}/{answered(api)['id']}"
    assert error_of(api.get(path, params={"stream": "true"}), 400)["param"] == "stream"
    assert api.get(path, params={"stream": "false", "include": "x"}).status_code == 200


def test_a_finished_one_cannot_be_cancelled() -> None:
    api = Api()
    response = answered(api)
    error = error_of(api.post(f"{PATH}/{response['id']}/cancel", None), 400)
    assert "completed" in error["message"]
    assert error_of(api.post(f"{PATH}/resp_0/cancel", None), 404)["param"] == "response_id"


@pytest.mark.parametrize("store", [False, True])
def test_a_stream_is_cancelled(store: bool) -> None:
    api = Api(say("x" * 2000, delay=0.01))
    with live(api) as url, httpx.Client(base_url=url) as client:
        with httpx.stream("POST", f"{url}{PATH}", json={"input": "Hi", "stream": True, "store": store}) as stream:
            lines = stream.iter_lines()
            name = id_in([next(lines) for _ in range(9)])
            running = client.get(f"{PATH}/{name}")
            assert running.status_code == (200 if store else 404)
            assert not store or running.json()["status"] == "in_progress"
            cancelled = client.post(f"{PATH}/{name}/cancel").json()
            assert (cancelled["id"], cancelled["status"]) == (name, "cancelled")
            told: list[str] = []
            with pytest.raises(httpx.RemoteProtocolError):
                told.extend(lines)
        assert "event: response.failed" in told
        assert eventually(lambda: not api.engine.running)
        kept = client.get(f"{PATH}/{name}")
        assert kept.status_code == (200 if store else 404)
        if store:
            assert kept.json()["status"] == "cancelled"
            again = client.post(f"{PATH}/{name}/cancel")
            assert "cancelled" in error_of(again, 400)["message"]
            going_on = client.post(PATH, json={"input": "Hi", "previous_response_id": name})
            assert error_of(going_on, 400)["param"] == "previous_response_id"


def test_text_that_was_told_is_there_before_the_end() -> None:
    api = Api(say("x" * 2000, delay=0.01))
    with live(api) as url, httpx.Client(base_url=url) as client:
        with httpx.stream("POST", f"{url}{PATH}", json={"input": "Hi", "stream": True}) as stream:
            lines = stream.iter_lines()
            name = id_in([next(lines) for _ in range(60)])
            for response, status in (
                (client.get(f"{PATH}/{name}").json(), "in_progress"),
                (client.post(f"{PATH}/{name}/cancel").json(), "incomplete"),
                (client.get(f"{PATH}/{name}").json(), "incomplete"),
            ):
                [message] = response["output"]
                assert message["status"] == status
                assert message["content"][0]["text"].startswith("xxxxx")
            [told] = [line for line in lines_of(lines) if '"response.failed"' in line]
        failed = json.loads(told.removeprefix("data: "))
        assert failed["response"]["output"][0]["content"][0]["text"].startswith("xxxxx")


def lines_of(lines: Iterator[str]) -> list[str]:
    """The rest of a stream that breaks off."""
    told: list[str] = []
    with pytest.raises(httpx.RemoteProtocolError):
        told.extend(lines)
    return told


@pytest.mark.parametrize("is_cancelled", [False, True])
def test_one_that_is_deleted_while_it_is_answered(is_cancelled: bool) -> None:
    api = Api(say("x" * 100, delay=0.01))
    with live(api) as url, httpx.Client(base_url=url) as client:
        with httpx.stream("POST", f"{url}{PATH}", json={"input": "Hi", "stream": True}) as stream:
            lines = stream.iter_lines()
            path = f"{PATH}/{id_in([next(lines) for _ in range(9)])}"
            [item] = client.get(f"{path}/input_items").json()["data"]
            assert item["content"] == [{"type": "input_text", "text": "Hi"}]
            if is_cancelled:
                client.post(f"{path}/cancel")
            assert client.delete(path).json()["deleted"] is True
            for method, rest in (("GET", ""), ("DELETE", ""), ("GET", "/input_items"), ("POST", "/cancel")):
                assert client.request(method, path + rest).status_code == 404
            if not is_cancelled:
                assert "event: response.completed" in list(lines)
        assert eventually(lambda: not api.engine.running)
        assert client.get(path).status_code == 404


def test_cancelling_ends_no_other_of_the_same_name() -> None:
    """Gateways give all requests of one trace one id."""
    api = Api(say("x" * 60, delay=0.02), keys=KEYS)
    trace = {"X-Request-Id": "trace-1"}
    body = {"input": "Hi", "stream": True}
    with live(api) as url, httpx.Client(base_url=url) as client:
        one, other = ({**trace, **who["headers"]} for who in (FIRST, SECOND))
        with (
            httpx.stream("POST", f"{url}{PATH}", json=body, headers=one) as first,
            httpx.stream("POST", f"{url}{PATH}", json=body, headers=one) as second,
            httpx.stream("POST", f"{url}{PATH}", json=body, headers=other) as third,
        ):
            assert eventually(lambda: len(api.engine.running) == 3)
            lines = first.iter_lines()
            name = id_in([next(lines) for _ in range(9)])
            assert client.post(f"{PATH}/{name}/cancel", headers=one).json()["status"] == "cancelled"
            for stream in (second, third):
                assert "event: response.completed" in list(stream.iter_lines())
            assert "event: response.failed" in lines_of(lines)


def test_aborting_ends_nothing_of_another_key() -> None:
    api = Api(say("x" * 2000, delay=0.01), keys=KEYS)
    with live(api) as url, httpx.Client(base_url=url) as client:
        headers = {"X-Request-Id": "trace-1", **FIRST["headers"]}
        with httpx.stream("POST", f"{url}{PATH}", json={"input": "Hi", "stream": True}, headers=headers) as stream:
            assert eventually(lambda: bool(api.engine.running))
            assert client.post("/abort/trace-1", headers=SECOND["headers"]).status_code == 404
            assert client.post("/abort/trace-1", headers=FIRST["headers"]).status_code == 200
            assert "event: response.failed" in lines_of(stream.iter_lines())


def test_a_page_of_no_number() -> None:
    api = Api()
    path = f"{PATH}/{answered(api)['id']}/input_items"
    for limit in ("000000001" + "0" * 5000, "00000000199", "0", "101", "x", ""):
        assert error_of(api.get(path, params={"limit": limit}), 400)["param"] == "limit"


def id_in(lines: list[str]) -> str:
    """The response's id, in the first events of a stream."""
    return lines[1].partition('"id":"')[2].partition('"')[0]


def test_a_whole_answer_is_cancelled() -> None:
    """Its id is known to nobody yet; who looks the engine's requests up may end it by those."""
    api = Api(say("Hello", before=30.0))
    with live(api) as url:
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(httpx.post(f"{url}{PATH}", json={"input": "Hi"})))
        asking.start()
        assert eventually(lambda: api.engine.running)
        httpx.post(f"{url}/abort/{api.asked.request_id}")
        asking.join(5)
    assert error_of(answers[0], 503)["code"] == "request_aborted"


def test_who_leaves_is_not_waited_for() -> None:
    api = Api(say("x" * 2000, delay=0.01))
    with live(api) as url, httpx.Client(base_url=url) as client:
        with client.stream("POST", PATH, json={"input": "Hi", "stream": True}) as stream:
            lines = [line for line, _ in zip(stream.iter_lines(), range(9), strict=False)]
        assert eventually(lambda: not api.engine.running, 1.0)
        assert client.get(f"{PATH}/{id_in(lines)}").status_code == 404


def test_what_lies_beside_is_refused_by_name() -> None:
    for path in (f"{PATH}/compact", "/v1/conversations", "/v1/conversations/conv_1/items"):
        assert error_of(Api().post(path, {}), 501)["code"] == "unsupported_feature"
