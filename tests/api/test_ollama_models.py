"""What clients ask to know the model: version, lists, and all there is to tell; and LM Studio's list."""

import re
from datetime import datetime
from typing import Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict

from tests.support.api import Api, hello
from tests.support.scripted_engine import INFO, say
from tests.support.tiny_text_model import tiny_model

DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "qwen3next",
    "families": ["qwen3next"],
    "parameter_size": "79.7B",
    "quantization_level": "Q4_K",
}


def test_the_list_has_every_name_with_its_version() -> None:
    models = Api(model=tiny_model("qwen3-coder-next", "local/m:q4")).get("/api/tags").json()["models"]
    assert [(model["name"], model["model"]) for model in models] == [
        ("qwen3-coder-next:latest", "qwen3-coder-next:latest"),
        ("local/m:q4", "local/m:q4"),
    ]
    for model in models:
        assert model["details"] == DETAILS
        assert model["size"] == INFO.model.num_bytes
        assert re.fullmatch("[0-9a-f]{64}", model["digest"])
        assert datetime.fromisoformat(model["modified_at"]).timestamp() == INFO.model.modified


def test_the_model_is_loaded_and_stays_so() -> None:
    [model] = Api().get("/api/ps").json()["models"]
    assert model["name"] == model["model"] == "tiny-qwen-coder:latest"
    assert model["size"] > INFO.model.num_bytes
    assert (model["size_vram"], model["context_length"]) == (0, INFO.max_model_len)
    assert datetime.fromisoformat(model["expires_at"]).year > 2100


@pytest.mark.parametrize("body", [{"model": "m:latest"}, {"name": "m"}, {"model": "m", "verbose": True}, {}])
def test_all_there_is_to_tell(body: dict[str, Any]) -> None:
    model = tiny_model("m", temperature=0.7, top_k=20)
    shown = Api(model=model).post("/api/show", body).json()
    assert shown["details"] == DETAILS
    assert shown["capabilities"] == ["completion", "tools", "insert"]
    info = shown["model_info"]
    assert info["general.architecture"] == "qwen3next"
    assert (info["general.basename"], info["general.parameter_count"]) == ("m", INFO.model.num_parameters)
    assert info["qwen3next.context_length"] == INFO.max_model_len
    assert (info["qwen3next.embedding_length"], info["qwen3next.block_count"]) == (2048, 48)
    assert model.template is not None
    assert shown["template"] == model.template.source
    lines = [re.fullmatch(r"(\S+)\s+(\S+)", line) for line in shown["parameters"].splitlines()]
    parameters = {found[1]: found[2] for found in lines if found}
    assert len(parameters) == len(lines)
    assert (parameters["num_ctx"], parameters["temperature"], parameters["top_k"]) == ("4096", "0.7", "20")


@pytest.mark.parametrize("path", ["/api/version", "/api/tags"])
def test_heads(path: str) -> None:
    response = Api().request("HEAD", path)
    assert (response.status_code, response.content) == (200, b"")


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def test_the_probe_of_copilots_ollama_provider() -> None:
    """Version, list, each model's facts, then a conversation under the name of the list."""
    api = Api(say("Hello"))
    assert numbers(api.get("/api/version").json()["version"]) >= (0, 6, 4)
    [listed] = api.get("/api/tags").json()["models"]
    shown = api.post("/api/show", {"model": listed["model"]}).json()
    info = shown["model_info"]
    window = info[f"{info['general.architecture']}.context_length"]
    assert window == INFO.max_model_len
    assert info["general.basename"] == "tiny-qwen-coder"
    assert {"tools", "completion"} <= set(shown["capabilities"])
    assert shown["details"]["family"] == info["general.architecture"]
    answer = api.post("/v1/chat/completions", hello(model=listed["model"]))
    assert answer.json()["choices"][0]["message"]["content"] == "Hello"


def test_codex_with_its_own_provider_for_ollama() -> None:
    """It wants a version that has Responses, and pulls a name that the list does not have just so."""
    api = Api()
    assert numbers(api.get("/api/version").json()["version"]) >= (0, 13, 4)
    response = api.post("/api/pull", {"model": "tiny-qwen-coder", "stream": True})
    assert response.json() == {"status": "success"}
    response = api.post("/api/pull", {"model": "gpt-oss:20b", "stream": True})
    assert response.status_code == 501
    assert "the operator chooses" in response.json()["error"]
    assert api.post("/api/pull", {}).json() == {"error": "model is required"}


class Strict(BaseModel):
    """As serde reads it: no text for a number; unknown members pass."""

    model_config = ConfigDict(strict=True)


class ZedDetails(Strict):
    format: str
    family: str
    families: list[str] | None
    parameter_size: str
    quantization_level: str


class ZedListing(Strict):
    name: str
    modified_at: str
    size: int
    digest: str
    details: ZedDetails


class ZedEntry(Strict):
    id: str
    object: str
    type: Literal["llm", "embeddings", "vlm"]
    publisher: str
    arch: str | None
    compatibility_type: Literal["gguf", "mlx"]
    quantization: str | None
    state: Literal["loaded", "loading", "not-loaded"]
    max_context_length: int | None
    loaded_context_length: int | None
    capabilities: list[str]


def test_an_editor_that_decodes_strictly() -> None:
    [model] = Api().get("/api/tags").json()["models"]
    assert ZedListing.model_validate(model).size > 0


def test_lm_studios_list() -> None:
    api = Api(say("Hello"), model=tiny_model("m", "n"))
    entries = [ZedEntry.model_validate(entry) for entry in api.get("/api/v0/models").json()["data"]]
    assert [entry.id for entry in entries] == ["m", "n"]
    assert entries[0].loaded_context_length == INFO.max_model_len
    assert entries[0].max_context_length == INFO.model.num_trained_positions
    assert entries[0].capabilities == ["tool_use"]
    assert ZedEntry.model_validate(api.get("/api/v0/models/n").json()) == entries[1]
    answer = api.post("/api/v0/chat/completions", hello(model="m"))
    assert answer.json()["choices"][0]["message"]["content"] == "Hello"


def test_errors_below_lm_studios_path_are_openais() -> None:
    assert Api().get("/api/v0/models/x").json()["error"]["code"] == "model_not_found"
    assert Api().post("/api/v0/chat/completions", {}).json()["error"]["param"] == "messages"
