"""What each client is told, read back with the format's usual parser."""

import json
import shlex
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.connect.clients import CLIENTS
from server.connect.endpoint import Endpoint
from server.connect.recipe import Places, Recipe

URL = "http://127.0.0.1:9999"
MODEL = "qwen3-coder-test"
CONTEXT = 100_000
OUTPUT = 25_000
KEY = "sk-1234"
ENDPOINT = Endpoint(URL, MODEL, CONTEXT, KEY)


def variables(text: str) -> dict[str, str]:
    lines = [line.removeprefix("export ") for line in text.splitlines()]
    return {name: shlex.split(value)[0] for name, _, value in (line.partition("=") for line in lines)}


PARSERS: dict[str, Callable[[str], Any]] = {
    ".json": json.loads,
    ".yaml": yaml.safe_load,
    ".yml": yaml.safe_load,
    ".toml": tomllib.loads,
    ".sh": variables,
    "": variables,
}


def recipe_of(client: str, endpoint: Endpoint = ENDPOINT, **environment: str) -> Recipe:
    return CLIENTS[client](endpoint, Places(environment, Path("/home/me")))


def files_of(client: str, endpoint: Endpoint = ENDPOINT, **environment: str) -> dict[str, Any]:
    """What the client's files say, by their paths."""
    return {
        str(file.path): PARSERS[file.path.suffix](file.format.fresh(file.content))
        for file in recipe_of(client, endpoint, **environment).files
    }


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_learns_address_model_and_context(client: str) -> None:
    text = json.dumps(files_of(client)) + "".join(recipe_of(client).notes)
    assert f'"{URL}' in text
    assert MODEL in text
    if client not in ("llama-vscode", "mini-swe-agent"):  # one asks the server, the other goes on until it is told
        assert str(CONTEXT) in text
    assert KEY in text


@pytest.mark.parametrize("client", CLIENTS)
def test_no_client_needs_a_key_where_the_server_needs_none(client: str) -> None:
    text = json.dumps(files_of(client, Endpoint(URL, MODEL, CONTEXT)))
    assert "None" not in text
    assert "null" not in text
    assert '"api_key": ""' not in text


@pytest.mark.parametrize("client", CLIENTS)
def test_all_of_it_can_be_merged_into_itself(client: str) -> None:
    for file in recipe_of(client).files:
        text = file.format.fresh(file.content)
        assert file.format.merged(text, file.content) == text


def test_aider() -> None:
    files = files_of("aider")
    assert files["/home/me/.aider.conf.yml"] == {
        "model": f"openai/{MODEL}",
        "openai-api-base": f"{URL}/v1",
        "openai-api-key": KEY,
    }
    [behaviour] = files["/home/me/.aider.model.settings.yml"]
    assert (behaviour["name"], behaviour["edit_format"]) == (f"openai/{MODEL}", "diff")
    metadata = files["/home/me/.aider.model.metadata.json"][f"openai/{MODEL}"]
    assert (metadata["max_input_tokens"], metadata["max_output_tokens"]) == (CONTEXT, OUTPUT)


def test_claude_code() -> None:
    env = files_of("claude-code")["/home/me/.claude/settings.json"]["env"]
    assert env["ANTHROPIC_BASE_URL"] == URL  # to which it adds /v1 itself
    assert env["ANTHROPIC_AUTH_TOKEN"] == KEY
    models = {value for name, value in env.items() if name.endswith("_MODEL")}
    assert models == {MODEL}
    assert {f"ANTHROPIC_DEFAULT_{kind}_MODEL" for kind in ("OPUS", "SONNET", "HAIKU")} < set(env)
    assert env["CLAUDE_CODE_MAX_CONTEXT_TOKENS"] == str(CONTEXT)
    assert env["CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC"] == "1"
    assert all(isinstance(value, str) for value in env.values())
    assert list(files_of("claude-code", CLAUDE_CONFIG_DIR="/c")) == ["/c/settings.json"]


def test_cline() -> None:
    [said] = files_of("cline").values()
    settings = said["providers"][said["lastUsedProvider"]]["settings"]
    assert settings == {
        "provider": "openai-compatible",
        "model": MODEL,
        "baseUrl": f"{URL}/v1",
        "apiKey": KEY,
        "contextWindow": CONTEXT,
        "maxTokens": OUTPUT,
    }
    assert list(files_of("cline", CLINE_DIR="/c")) == ["/c/data/settings/providers.json"]
    assert list(files_of("cline", CLINE_DIR="/c", CLINE_DATA_DIR="/d")) == ["/d/settings/providers.json"]


def test_codex() -> None:
    settings = files_of("codex")["/home/me/.codex/config.toml"]
    assert (settings["model"], settings["model_context_window"]) == (MODEL, CONTEXT)
    provider = settings["model_providers"][settings["model_provider"]]
    assert (provider["base_url"], provider["wire_api"]) == (f"{URL}/v1", "responses")
    assert provider["http_headers"] == {"x-api-key": KEY}
    assert "env_key" not in provider  # with it, Codex would not start without a variable
    [path] = files_of("codex", CODEX_HOME="/c")
    assert path == "/c/config.toml"


def test_continue() -> None:
    settings = files_of("continue")["/home/me/.continue/config.yaml"]
    talk, completion = settings["models"]
    assert {"name", "version", "schema"} < set(settings)
    assert (talk["model"], completion["model"]) == (MODEL, MODEL)
    assert talk["defaultCompletionOptions"]["contextLength"] == CONTEXT
    assert completion["roles"] == ["autocomplete"]
    assert not recipe_of("continue").notes
    [note] = recipe_of("continue", Endpoint(URL, "qwen3-next", CONTEXT)).notes
    assert "--served-model-name" in note


def test_goose() -> None:
    provider, settings = files_of("goose", XDG_CONFIG_HOME="/x").values()
    assert settings["GOOSE_PROVIDER"] == settings["active_provider"] == provider["name"]
    assert provider["models"] == [{"name": MODEL, "context_limit": CONTEXT}]
    assert provider["base_url"] == f"{URL}/v1/chat/completions"
    assert list(files_of("goose")) == [
        "/home/me/.config/goose/custom_providers/deltaloop.json",
        "/home/me/.config/goose/config.yaml",
    ]


def test_litellm() -> None:
    [item] = files_of("litellm")["/home/me/.config/litellm/config.yaml"]["model_list"]
    assert item["litellm_params"] == {"model": f"openai/{MODEL}", "api_base": f"{URL}/v1", "api_key": KEY}
    assert item["model_info"]["max_input_tokens"] == CONTEXT


def test_llama_vscode() -> None:
    settings = files_of("llama-vscode")["/home/me/.config/Code/User/settings.json"]
    assert {settings[f"llama-vscode.endpoint{role}"] for role in ("", "_chat", "_tools")} == {URL}
    on_mac = CLIENTS["llama-vscode"](ENDPOINT, Places({}, Path("/Users/me"), is_mac=True))
    assert str(on_mac.files[0].path) == "/Users/me/Library/Application Support/Code/User/settings.json"


def test_mini_swe_agent() -> None:
    said = files_of("mini-swe-agent")["/home/me/.config/mini-swe-agent/.env"]
    assert said["MSWEA_MODEL_NAME"] == f"openai/{MODEL}"
    assert said["OPENAI_BASE_URL"] == f"{URL}/v1"
    assert said["MSWEA_COST_TRACKING"] == "ignore_errors"


def test_opencode(tmp_path: Path) -> None:
    settings = files_of("opencode")["/home/me/.config/opencode/opencode.json"]
    provider, model = settings["model"].split("/")
    assert settings["small_model"] == settings["model"]
    assert settings["provider"][provider]["models"][model]["limit"] == {"context": CONTEXT, "output": OUTPUT}
    assert settings["provider"][provider]["npm"] == "@ai-sdk/openai-compatible"
    assert list(files_of("opencode", OPENCODE_CONFIG="/c.json")) == ["/c.json"]
    (tmp_path / "opencode").mkdir()
    (tmp_path / "opencode" / "opencode.jsonc").touch()
    [file] = recipe_of("opencode", XDG_CONFIG_HOME=str(tmp_path)).files
    assert file.path.name == "opencode.jsonc"


def test_openhands() -> None:
    said = files_of("openhands")["/home/me/.config/deltaloop/openhands.sh"]
    assert (said["LLM_MODEL"], said["LLM_BASE_URL"]) == (f"openai/{MODEL}", f"{URL}/v1")
    assert said["LLM_MAX_INPUT_TOKENS"] == str(CONTEXT)


def test_qwen_code() -> None:
    settings = files_of("qwen-code")["/home/me/.qwen/settings.json"]
    [model] = settings["modelProviders"][settings["security"]["auth"]["selectedType"]]
    assert model["id"] == settings["model"]["name"] == MODEL
    assert settings["env"][model["envKey"]] == KEY
    assert model["generationConfig"] == {"contextWindowSize": CONTEXT, "streamIdleTimeoutMs": 0}


def test_zed() -> None:
    settings = files_of("zed")["/home/me/.config/zed/settings.json"]
    chosen = settings["agent"]["default_model"]
    [model] = settings["language_models"]["openai_compatible"][chosen["provider"]]["available_models"]
    assert (model["name"], model["max_tokens"]) == (chosen["model"], CONTEXT)
    assert all(isinstance(value, bool) for value in model["capabilities"].values())
    assert settings["edit_predictions"]["open_ai_compatible_api"]["prompt_format"] == "qwen"
    assert not any(KEY in json.dumps(said) for said in files_of("zed").values())


def test_a_relative_xdg_folder_is_none() -> None:
    assert Places({"XDG_CONFIG_HOME": "x"}, Path("/home/me")).config == Path("/home/me/.config")
