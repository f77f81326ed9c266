"""Models, health, metrics, tokenizing, keys, CORS, ids and log lines."""

import json
import logging
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.client import StepStats
from engine.errors import Overloaded
from engine.types import ErrorReason, FinishReason, TokenOutput
from server.logs import JsonFormatter
from tests.support.api import CHAT, Api, hello
from tests.support.scripted_engine import TOKENIZER, ScriptedEngine, play, say
from tests.support.tiny_text_model import tiny_model


@pytest.mark.parametrize("path", ["/v1/models", "/models"])
def test_models(path: str) -> None:
    body = Api(model=tiny_model("qwen3-coder", "alias/with-slash")).get(path).json()
    assert body["object"] == "list"
    assert [card["id"] for card in body["data"]] == ["qwen3-coder", "alias/with-slash"]
    card = body["data"][1]
    assert card["root"] == "qwen3-coder"
    assert card["max_model_len"] == 4096
    assert card["object"] == "model"
    assert card["owned_by"] == "deltaloop"


def test_one_model() -> None:
    api = Api(model=tiny_model("a", "b/c"))
    assert api.get("/v1/models/b/c").json()["id"] == "b/c"
    response = api.get("/v1/models/gone")
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_an_alias_answers_under_its_own_name() -> None:
    assert Api(model=tiny_model("a", "b")).chat(model="b").json()["model"] == "b"


def test_root() -> None:
    assert Api().get("/").status_code == 200
    assert Api().request("HEAD", "/").status_code == 200


def test_health() -> None:
    api = Api()
    assert api.get("/health").json() == {"status": "ok"}
    api.engine.alive = False
    response = api.get("/health")
    assert response.status_code == 503
    assert response.json()["reason"] == "the engine stopped"
    assert api.get("/ready").status_code == 503


def test_a_draining_server_is_healthy_but_not_ready() -> None:
    api = Api()
    assert api.get("/ready").status_code == 200
    api.engine.accepting = False
    assert api.get("/health").status_code == 200
    assert api.get("/ready").status_code == 503
    response = api.chat()
    assert response.status_code == 503
    assert response.headers["retry-after"] == "2"


def test_version() -> None:
    assert set(Api().get("/version").json()) == {"version"}


def test_tokenize_a_prompt() -> None:
    body = Api().post("/tokenize", {"prompt": "ab<|im_end|>", "return_token_strs": True}).json()
    assert body["tokens"] == TOKENIZER.encode("ab<|im_end|>", parse_special=True)
    assert body["token_strs"] == ["a", "b", "<|im_end|>"]
    assert body["count"] == 3
    assert body["max_model_len"] == 4096


def test_tokenize_messages_as_a_chat_would() -> None:
    api = Api()
    body = api.post("/tokenize", hello()).json()
    api.chat()
    assert tuple(body["tokens"]) == api.asked.prompt_ids
    assert body["token_strs"] is None


@pytest.mark.parametrize("body", [{}, {"prompt": "x", **hello()}])
def test_tokenize_wants_one_of_the_two(body: dict[str, Any]) -> None:
    assert Api().post("/tokenize", body).status_code == 400


def test_detokenize() -> None:
    tokens = TOKENIZER.encode("wörld<|im_end|>", parse_special=True)
    text = Api().post("/detokenize", {"tokens": tokens}).json()
    assert text == {"prompt": "wörld<|im_end|>", "content": "wörld<|im_end|>"}  # vLLM's name and llama.cpp's
    assert Api().post("/detokenize", {"tokens": [-1]}).json()["error"]["param"] == "tokens[0]"


def test_abort_of_nothing() -> None:
    response = Api().post("/abort/nobody", {})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "request_not_found"


# --- keys and origins ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"x-api-key": ""}, {"authorization": "k1"}])
def test_a_closed_door(headers: dict[str, str]) -> None:
    api = Api(keys=("k1", "k2"))
    response = api.post(CHAT, hello(), headers=headers)
    assert response.status_code == 401
    assert response.json()["error"]["type"] == "authentication_error"
    assert response.headers["x-request-id"]
    assert api.engine.requests == []


@pytest.mark.parametrize(
    "headers", [{"authorization": "Bearer k2"}, {"x-api-key": "k1"}, {"authorization": "bearer k1"}]
)
def test_an_open_door(headers: dict[str, str]) -> None:
    assert Api(keys=("k1", "k2")).post(CHAT, hello(), headers=headers).status_code == 200


def test_a_key_is_the_bytes_that_are_sent() -> None:
    headers = {b"authorization": "Bearer schlüssel".encode()}
    assert Api(keys=("schlüssel",)).post(CHAT, hello(), headers=headers).status_code == 200


def test_what_operators_need_is_open_unless_protected() -> None:
    paths = ("/health", "/ready", "/metrics", "/")
    assert [Api(keys=("k",)).get(path).status_code for path in paths] == [200] * 4
    assert [Api(keys=("k",), protect_metrics=True).get(path).status_code for path in paths] == [401] * 4
    assert Api(keys=("k",)).get("/v1/models").status_code == 401
    assert Api(keys=("k",)).get("/nowhere").status_code == 401


def test_no_cors_by_default() -> None:
    response = Api().get("/v1/models", headers={"origin": "http://evil.example"})
    assert "access-control-allow-origin" not in response.headers


def test_cors_for_named_origins() -> None:
    api = Api(keys=("k",), allowed_origins=("http://app.example",))
    preflight = {"origin": "http://app.example", "access-control-request-method": "POST"}
    response = api.request("OPTIONS", CHAT, headers=preflight)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "http://app.example"
    other = api.request("OPTIONS", CHAT, headers={**preflight, "origin": "http://evil.example"})
    assert "access-control-allow-origin" not in other.headers


# --- ids and log lines --------------------------------------------------------------------------------------------


def test_the_clients_request_id_is_kept() -> None:
    api = Api()
    response = api.post(CHAT, hello(), headers={"x-request-id": "trace-1"})
    assert response.headers["x-request-id"] == "trace-1"
    assert api.asked.request_id == "trace-1"
    assert api.chat(request_id="body-1").headers["x-request-id"] == "body-1"


@pytest.mark.parametrize("bad", ["x" * 200, "a b", "a\nb", ""])
def test_an_id_that_cannot_stand_in_a_header_is_replaced(bad: str) -> None:
    assert Api().chat(request_id=bad).headers["x-request-id"] not in {bad, ""}


def test_one_log_line_a_request_without_content(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Api(say("secret answer"), keys=("secret-key",)).post(
            CHAT,
            hello(messages=[{"role": "user", "content": "secret question"}]),
            headers={"x-api-key": "secret-key", "x-request-id": "r1"},
        )
    [record] = [record for record in caplog.records if record.name == "server.access"]
    line = json.loads(JsonFormatter().format(record))
    assert line["request_id"] == "r1"
    assert line["route"] == CHAT
    assert line["status"] == 200
    assert line["finish_reason"] == "stop"
    assert line["num_generated_tokens"] == len("secret answer") + 1
    assert line["num_prompt_tokens"] > 0
    assert line["seconds"] >= line["first_token_seconds"] >= 0
    assert "secret" not in json.dumps(line)


def test_the_log_line_of_a_refusal_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        Api().chat(model="other")
    [record] = [record for record in caplog.records if record.name == "server.access"]
    line = json.loads(JsonFormatter().format(record))
    assert (line["status"], line["error"]) == (404, "model_not_found")


# --- metrics ------------------------------------------------------------------------------------------------------

DASHBOARD = {
    "vllm:e2e_request_latency_seconds": "histogram",
    "vllm:time_to_first_token_seconds": "histogram",
    "vllm:inter_token_latency_seconds": "histogram",
    "vllm:prompt_tokens": "counter",
    "vllm:generation_tokens": "counter",
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:request_prompt_tokens": "histogram",
    "vllm:request_generation_tokens": "histogram",
    "vllm:request_success": "counter",
    "vllm:request_queue_time_seconds": "histogram",
    "vllm:request_prefill_time_seconds": "histogram",
    "vllm:request_decode_time_seconds": "histogram",
    "vllm:request_max_num_generation_tokens": "histogram",
}


def samples(api: Api) -> dict[str, float]:
    """Every sample as `name{label=value,…}`, the two labels that all have left out."""
    found = {}
    for family in text_string_to_metric_families(api.get("/metrics").text):
        for sample in family.samples:
            labels = {k: v for k, v in sorted(sample.labels.items()) if k not in {"model_name", "engine"}}
            found[f"{sample.name}{labels or ''}"] = sample.value
    return found


def test_every_panel_of_the_classic_dashboard_has_its_metric() -> None:
    families = {f.name: f for f in text_string_to_metric_families(Api().get("/metrics").text)}
    for name, kind in DASHBOARD.items():
        assert families[name].type == kind, name
        labels = families[name].samples[0].labels
        assert (labels["model_name"], labels["engine"]) == ("tiny-qwen-coder", "0")


def test_metrics_of_a_prompt_that_is_only_scored() -> None:
    api = Api()
    api.complete(echo=True, logprobs=1, max_tokens=0)
    after = samples(api)
    assert after["vllm:request_success_total{'finished_reason': 'length'}"] == 1
    assert (after["vllm:request_prompt_tokens_sum"], after["vllm:request_generation_tokens_sum"]) == (5, 0)
    assert (after["vllm:generation_tokens_total"], after["vllm:time_to_first_token_seconds_count"]) == (0, 0)


def test_metrics_of_a_request() -> None:
    api = Api(say("Hello", cached=5))
    before = samples(api)
    assert before["vllm:request_success_total{'finished_reason': 'length'}"] == 0
    api.chat(max_tokens=3)
    api.chat(stream=True, stop="ll")
    after = samples(api)
    assert after["vllm:request_success_total{'finished_reason': 'length'}"] == 1
    assert after["vllm:request_success_total{'finished_reason': 'stop'}"] == 1
    assert after["vllm:time_to_first_token_seconds_count"] == 2
    assert after["vllm:inter_token_latency_seconds_count"] == 2 + 3
    assert after["vllm:e2e_request_latency_seconds_count"] == 2
    assert after["vllm:request_queue_time_seconds_count"] == 1  # the engine told of one end, the other was ours
    assert after["vllm:request_prompt_tokens_sum"] == 42
    assert after["vllm:request_generation_tokens_sum"] == 3 + 4
    assert after["vllm:generation_tokens_total"] == 3 + 4
    assert after["vllm:prefix_cache_queries_total"] == 42
    assert after["vllm:prefix_cache_hits_total"] == 10
    assert after["http_requests_total{'handler': '/v1/chat/completions', 'method': 'POST', 'status': '2xx'}"] == 2


def test_a_prompt_that_is_only_read_was_looked_up_too() -> None:
    api = Api()
    api.post("/infill", {"input_prefix": "abc", "n_predict": 0})
    after = samples(api)
    assert after["vllm:prefix_cache_queries_total"] == len(api.asked.prompt_ids)
    assert after["vllm:request_prefill_kv_computed_tokens_count"] == 1
    assert after["vllm:time_to_first_token_seconds_count"] == 0


def test_choices_of_one_prompt_count_as_one_request() -> None:
    api = Api(say("Hello"))
    api.chat(n=3)
    api.complete(prompt=["a", "b"], n=2)
    found = samples(api)
    assert (found["vllm:request_params_n_count"], found["vllm:request_params_n_sum"]) == (3, 3 + 2 + 2)
    assert found["vllm:request_max_num_generation_tokens_sum"] == 3 * len("Hello.")
    assert found["vllm:request_generation_tokens_count"] == 7


def test_metrics_of_steps_and_the_engine() -> None:
    api = Api()
    for listener in api.engine.listeners:
        listener(StepStats(300, 298, 2, 1, 0.02))
    found = samples(api)
    assert found["vllm:prompt_tokens_total"] == 298
    assert found["vllm:num_preemptions_total"] == 1
    assert found["vllm:iteration_tokens_total_sum"] == 300
    assert found["deltaloop:step_seconds_count"] == 1
    assert found["deltaloop:state_slots_total"] == 4
    assert found["deltaloop:state_slots_used"] == 0
    assert found["deltaloop:checkpoints_total"] == 0
    assert found["deltaloop:checkpoints_evicted"] == 5
    assert found["vllm:kv_cache_usage_perc"] == 0.5


def test_metrics_of_an_answer_that_repeats_itself() -> None:
    api = Api(play(TokenOutput((65, 65), finish_reason=FinishReason.REPETITION)))
    assert samples(api)["vllm:request_success_total{'finished_reason': 'repetition'}"] == 0
    api.chat()
    assert samples(api)["vllm:request_success_total{'finished_reason': 'repetition'}"] == 1


@pytest.mark.parametrize("reason", list(ErrorReason))
def test_metrics_of_errors_say_what_kind(reason: ErrorReason) -> None:
    failed = TokenOutput((), finish_reason=FinishReason.ERROR, error="it failed", error_reason=reason)
    api = Api(play(TokenOutput((65,)), failed))
    name = f"deltaloop:errors_total{{'reason': '{reason}'}}"
    assert samples(api)[name] == 0
    response = api.chat()
    assert (response.status_code, response.json()["error"]["message"]) == (500, "it failed")
    found = samples(api)
    assert found[name] == found["vllm:request_success_total{'finished_reason': 'error'}"] == 1
    assert sum(value for key, value in found.items() if key.startswith("deltaloop:errors_total")) == 1


def test_metrics_of_an_error_of_our_own() -> None:
    api = Api(play(TokenOutput((65,)), ValueError("a bug")))
    api.chat()
    assert samples(api)["deltaloop:errors_total{'reason': 'other'}"] == 1


def test_metrics_of_refusals() -> None:
    api = Api(engine=ScriptedEngine(refusal=Overloaded("full", "max_num_queued_tokens", 1)))
    api.chat()
    api.get("/made/up/path")
    found = samples(api)
    assert found["vllm:admission_rejections_total{'reason': 'max_num_queued_tokens'}"] == 1
    assert found["http_requests_total{'handler': '/v1/chat/completions', 'method': 'POST', 'status': '5xx'}"] == 1
    assert found["http_requests_total{'handler': 'none', 'method': 'GET', 'status': '4xx'}"] == 1
