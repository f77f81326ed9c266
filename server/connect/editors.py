"""Editors and their extensions, and what each must be told. They complete text at the cursor as well as talking.

The place of the cursor is told in the model's own tokens; some editors choose these by the model's name.
"""

from server.connect.agents import PROVIDER
from server.connect.endpoint import Endpoint
from server.connect.formats import JSON, YAML_FILE
from server.connect.recipe import ConfigFile, Places, Recipe
from server.connect.tree import Unless


def continue_dev(endpoint: Endpoint, places: Places) -> Recipe:
    """Continue, the extensions and `cn`. A model without a context counts as one of 32,768 tokens."""
    model = {"provider": "openai", "model": endpoint.model, "apiBase": endpoint.openai_url, "apiKey": endpoint.key}
    options = {"contextLength": endpoint.context, "maxTokens": endpoint.max_output}
    models = [
        {
            "name": PROVIDER,
            **model,
            "roles": ["chat", "edit", "apply"],
            "capabilities": ["tool_use"],
            "defaultCompletionOptions": options,
        },
        {
            "name": f"{PROVIDER} autocomplete",
            **model,
            "roles": ["autocomplete"],
            "useLegacyCompletionsEndpoint": True,
            "defaultCompletionOptions": {"contextLength": endpoint.context},
        },
    ]
    settings = {
        "name": Unless("Local"),
        "version": Unless("1.0.0"),
        "schema": Unless("v1"),
        "models": models,
    }
    folder = places.named("CONTINUE_GLOBAL_DIR", places.home / ".continue")
    path = folder / "config.yaml"
    notes = []
    if not all(word in endpoint.model.lower() for word in ("qwen", "coder")):
        notes.append(
            'Autocomplete goes by the name: it knows this model by "qwen" and "coder" in it. Give it such a name with '
            "deltaloop serve --served-model-name."
        )
    if (folder / "config.json").exists() and not path.exists():
        notes.append(f"Once there is a config.yaml, Continue no longer reads {folder / 'config.json'}.")
    return Recipe((ConfigFile(path, YAML_FILE, settings),), "cn", tuple(notes))


def zed(endpoint: Endpoint, places: Places) -> Recipe:
    """Zed asks no server for its models. It insists on a key, and takes it from a variable named after the provider."""
    model = {
        "name": endpoint.model,
        "display_name": endpoint.model,
        "max_tokens": endpoint.context,
        "max_output_tokens": endpoint.max_output,
        "capabilities": {
            "tools": True,
            "images": False,
            "parallel_tool_calls": True,
            "prompt_cache_key": True,
            "chat_completions": True,
        },
    }
    completion = {
        "api_url": f"{endpoint.openai_url}/completions",
        "model": endpoint.model,
        "prompt_format": "qwen",
        "max_output_tokens": 128,
    }
    settings = {
        "language_models": {
            "openai_compatible": {PROVIDER: {"api_url": endpoint.openai_url, "available_models": [model]}}
        },
        "agent": {"default_model": {"provider": PROVIDER, "model": endpoint.model}},
        "edit_predictions": {"provider": "open_ai_compatible_api", "open_ai_compatible_api": completion},
    }
    notes = (
        f"Zed keeps keys elsewhere: enter {endpoint.key} in its settings under LLM Providers, {PROVIDER}, or start it "
        f"with DELTALOOP_API_KEY={endpoint.key}; for predictions also "
        f"ZED_OPEN_AI_COMPATIBLE_EDIT_PREDICTION_API_KEY={endpoint.key}.",
    )
    return Recipe((ConfigFile(places.config / "zed" / "settings.json", JSON, settings),), "zed", notes)


def llama_vscode(endpoint: Endpoint, places: Places) -> Recipe:
    """llama.vscode speaks llama.cpp's own dialect for completions; the context it asks from the server."""
    roles = ("", "_chat", "_tools")
    settings = {
        **{f"endpoint{role}": endpoint.url for role in roles},
        **{f"api_key{role}": endpoint.key for role in roles},
        "ai_model": endpoint.model,
        "ai_api_version": "v1",
        "ask_install_llamacpp": False,
    }
    content = {f"llama-vscode.{name}": value for name, value in settings.items()}
    path = places.support / "Code" / "User" / "settings.json"
    note = "These are VS Code's own user settings; another editor made from it has a folder of its own beside Code."
    return Recipe((ConfigFile(path, JSON, content),), "code", (note,))
