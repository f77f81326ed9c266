"""Agents of the command line, and what each must be told. Facts about clients live here and in `editors`, nowhere else.

An agent that does not know how long a context is guesses, and then compacts too late or not at all; most ask for all of
their answers' tokens beforehand. So every recipe that can says both.
"""

from datetime import UTC, datetime

from server.connect.endpoint import Endpoint
from server.connect.formats import EXPORTS, JSON, TOML, VARIABLES, YAML_FILE
from server.connect.recipe import ConfigFile, Places, Recipe
from server.connect.tree import Unless

PROVIDER = "deltaloop"  # our name in files that name their providers


def aider(endpoint: Endpoint, places: Places) -> Recipe:
    """Aider rewrites whole files for a model it does not know, and reads its settings from files of fixed names."""
    model = f"openai/{endpoint.model}"
    settings = {"model": model, "openai-api-base": endpoint.openai_url, "openai-api-key": endpoint.key}
    behaviour = {"name": model, "edit_format": "diff", "weak_model_name": model, "use_repo_map": True}
    metadata = {
        "litellm_provider": "openai",
        "mode": "chat",
        "max_input_tokens": endpoint.context,
        "max_output_tokens": endpoint.max_output,
        "max_tokens": endpoint.max_output,
        "input_cost_per_token": 0,
        "output_cost_per_token": 0,
    }
    files = (
        ConfigFile(places.home / ".aider.conf.yml", YAML_FILE, settings),
        ConfigFile(places.home / ".aider.model.settings.yml", YAML_FILE, [behaviour]),
        ConfigFile(places.home / ".aider.model.metadata.json", JSON, {model: metadata}),
    )
    return Recipe(files, "aider")


def openhands(endpoint: Endpoint, places: Places) -> Recipe:
    """OpenHands takes variables where it is told to; the SDK's `LLM.load_from_env()` reads the same."""
    variables = {
        "LLM_MODEL": f"openai/{endpoint.model}",
        "LLM_BASE_URL": endpoint.openai_url,
        "LLM_API_KEY": endpoint.key,
        "LLM_MAX_INPUT_TOKENS": str(endpoint.context),
        "LLM_MAX_OUTPUT_TOKENS": str(endpoint.max_output),
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    path = places.config / "deltaloop" / "openhands.sh"
    note = "In a program: LLM.load_from_env() reads these variables."
    return Recipe((ConfigFile(path, EXPORTS, variables),), f". {path} && openhands --override-with-envs", (note,))


def codex(endpoint: Endpoint, places: Places) -> Recipe:
    """Codex speaks Responses only. A key in the file spares a variable in every shell."""
    provider = {
        "name": PROVIDER,
        "base_url": endpoint.openai_url,
        "wire_api": "responses",
        "http_headers": {"x-api-key": endpoint.key},
    }
    settings = {
        "model": endpoint.model,
        "model_provider": PROVIDER,
        "model_context_window": endpoint.context,
        "model_providers": {PROVIDER: provider},
    }
    folder = places.named("CODEX_HOME", places.home / ".codex")
    note = 'Codex warns "Model metadata not found"; that is harmless.'
    return Recipe((ConfigFile(folder / "config.toml", TOML, settings),), "codex", (note,))


def claude_code(endpoint: Endpoint, places: Places) -> Recipe:
    """Claude Code takes an unknown model's context for a million tokens, and asks several models of its own."""
    variables = {
        "ANTHROPIC_BASE_URL": endpoint.url,
        "ANTHROPIC_AUTH_TOKEN": endpoint.key,
        "ANTHROPIC_MODEL": endpoint.model,
        "ANTHROPIC_DEFAULT_OPUS_MODEL": endpoint.model,
        "ANTHROPIC_DEFAULT_SONNET_MODEL": endpoint.model,
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": endpoint.model,
        "CLAUDE_CODE_MAX_CONTEXT_TOKENS": str(endpoint.context),
        "CLAUDE_CODE_MAX_OUTPUT_TOKENS": str(min(32_000, endpoint.max_output)),
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        # Some versions send a prompt again without streaming when a stream breaks, and time out on the silence.
        "CLAUDE_CODE_DISABLE_NONSTREAMING_FALLBACK": "1",
    }
    folder = places.named("CLAUDE_CONFIG_DIR", places.home / ".claude")
    return Recipe((ConfigFile(folder / "settings.json", JSON, {"env": variables}),), "claude")


def qwen_code(endpoint: Endpoint, places: Places) -> Recipe:
    """Qwen Code gives up on streams without new text, and on any after a quarter of an hour, unless told not to."""
    model = {
        "id": endpoint.model,
        "name": f"{endpoint.model} ({PROVIDER})",
        "envKey": "DELTALOOP_API_KEY",
        "baseUrl": endpoint.openai_url,
        "generationConfig": {"contextWindowSize": endpoint.context, "streamIdleTimeoutMs": 0},
    }
    settings = {
        "env": {"DELTALOOP_API_KEY": endpoint.key, "QWEN_STREAM_MAX_LIFETIME_MS": "0"},
        "modelProviders": {"openai": [model]},
        "security": {"auth": {"selectedType": "openai"}},
        "model": {"name": endpoint.model},
    }
    folder = places.named("QWEN_HOME", places.home / ".qwen")
    return Recipe((ConfigFile(folder / "settings.json", JSON, settings),), "qwen")


def opencode(endpoint: Endpoint, places: Places) -> Recipe:
    """Opencode lists models itself; `limit` is all it knows of one. Titles come from the small model."""
    model = {
        "name": endpoint.model,
        "limit": {"context": endpoint.context, "output": min(32_000, endpoint.max_output)},
    }
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": PROVIDER,
        "options": {"baseURL": endpoint.openai_url, "apiKey": endpoint.key},
        "models": {endpoint.model: model},
    }
    settings = {
        "$schema": Unless("https://opencode.ai/config.json"),
        "model": f"{PROVIDER}/{endpoint.model}",
        "small_model": f"{PROVIDER}/{endpoint.model}",
        "provider": {PROVIDER: provider},
    }
    folder = places.config / "opencode"
    with_comments = folder / "opencode.jsonc"
    path = places.named("OPENCODE_CONFIG", with_comments if with_comments.exists() else folder / "opencode.json")
    return Recipe((ConfigFile(path, JSON, settings),), "opencode")


def cline(endpoint: Endpoint, places: Places) -> Recipe:
    """Cline's command keeps what `cline auth` would write; its editor extension keeps keys where no file reaches."""
    settings = {
        "provider": "openai-compatible",
        "model": endpoint.model,
        "baseUrl": endpoint.openai_url,
        "apiKey": endpoint.key,
        "contextWindow": endpoint.context,
        "maxTokens": endpoint.max_output,
    }
    provider = {
        "settings": settings,
        "updatedAt": Unless(f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%S.000Z}"),
        "tokenSource": Unless("manual"),
    }
    content = {
        "version": Unless(1),
        "lastUsedProvider": "openai-compatible",
        "modes": Unless({}),
        "providers": {"openai-compatible": provider},
    }
    data = places.named("CLINE_DATA_DIR", places.named("CLINE_DIR", places.home / ".cline") / "data")
    path = places.named("CLINE_PROVIDER_SETTINGS_PATH", data / "settings" / "providers.json")
    note = (
        f"In the editor extension's settings: API Provider OpenAI Compatible, Base URL {endpoint.openai_url}, "
        f"Model ID {endpoint.model}, Context Window Size {endpoint.context}."
    )
    return Recipe((ConfigFile(path, JSON, content),), "cline", (note,))


def mini_swe_agent(endpoint: Endpoint, places: Places) -> Recipe:
    """mini-swe-agent reads variables from a file of its own; without prices it refuses to run."""
    variables = {
        "MSWEA_CONFIGURED": "true",
        "MSWEA_MODEL_NAME": f"openai/{endpoint.model}",
        "MSWEA_COST_TRACKING": "ignore_errors",
        "OPENAI_BASE_URL": endpoint.openai_url,
        "OPENAI_API_KEY": endpoint.key,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    }
    folder = places.named("MSWEA_GLOBAL_CONFIG_DIR", places.support / "mini-swe-agent")
    notes = ("Variables of your shell go before this file's: OPENAI_API_KEY and OPENAI_BASE_URL should not be set.",)
    return Recipe((ConfigFile(folder / ".env", VARIABLES, variables),), "mini", notes)


def goose(endpoint: Endpoint, places: Places) -> Recipe:
    """Goose reads no keys from its own file; a provider of one's own can bring one in a header, and its context."""
    provider = {
        "name": PROVIDER,
        "engine": "openai",
        "display_name": PROVIDER,
        "description": "A model on this machine",
        "base_url": f"{endpoint.openai_url}/chat/completions",
        "models": [{"name": endpoint.model, "context_limit": endpoint.context}],
        "headers": {"x-api-key": endpoint.key},
        "requires_auth": False,
        "supports_streaming": True,
        "timeout_seconds": 3600,
    }
    settings = {
        "GOOSE_PROVIDER": PROVIDER,
        "GOOSE_MODEL": endpoint.model,
        "active_provider": PROVIDER,
        "providers": {PROVIDER: {"enabled": True, "model": endpoint.model, "configured": True}},
    }
    folder = places.config / "goose"
    files = (
        ConfigFile(folder / "custom_providers" / f"{PROVIDER}.json", JSON, provider),
        ConfigFile(folder / "config.yaml", YAML_FILE, settings),
    )
    return Recipe(files, "goose session")


def litellm(endpoint: Endpoint, places: Places) -> Recipe:
    """litellm as a proxy; as a library it takes the same parameters in every call.

    The item is known by an id of its own: several of one name share the load, and the others are the user's.
    """
    item = {
        "model_info": {
            "id": PROVIDER,
            "mode": "chat",
            "max_input_tokens": endpoint.context,
            "max_output_tokens": endpoint.max_output,
            "supports_function_calling": True,
            "input_cost_per_token": 0,
            "output_cost_per_token": 0,
        },
        "model_name": endpoint.model,
        "litellm_params": {
            "model": f"openai/{endpoint.model}",
            "api_base": endpoint.openai_url,
            "api_key": endpoint.key,
        },
    }
    path = places.config / "litellm" / "config.yaml"
    note = "In a program: litellm.completion(...) with the parameters of litellm_params."
    start = f"LITELLM_LOCAL_MODEL_COST_MAP=True litellm --config {path}"
    return Recipe((ConfigFile(path, YAML_FILE, {"model_list": [item]}),), start, (note,))
