"""What the dialect's clients ask to know the model: the lists of models, and all there is to tell of one.

Facts only, as objects for JSON; no HTTP.
"""

from datetime import UTC, datetime, timedelta
from typing import Any

from engine.client import EngineInfo, ModelFacts
from server.chat.model_files import GenerationDefaults
from server.dialects.ollama.answers import timestamp
from server.model import LATEST, ServedModel

API_VERSION = "0.14.0"  # the release of Ollama whose API this follows; clients want to know how new it is
_KEPT = timedelta(days=36525)  # the model stays loaded; a hundred years are never
_UNITS = ((10**9, "B", 1), (10**6, "M", 2), (10**3, "K", 0))


def tag_of(name: str) -> str:
    """A served name as Ollama lists it. Some clients add the version themselves and then look it up in the list."""
    return name if ":" in name else name + LATEST


def listed(model: ServedModel, info: EngineInfo) -> list[dict[str, Any]]:
    """Every name, for /api/tags."""
    return [
        {**_entry(name, info.model), "modified_at": _written(info.model), "size": info.model.num_bytes}
        for name in model.names
    ]


def running(model: ServedModel, info: EngineInfo) -> list[dict[str, Any]]:
    """The one model, for /api/ps: it is always loaded."""
    size = info.model.num_bytes + info.kv_cache_bytes
    return [
        {
            **_entry(model.name, info.model),
            "size": size,
            "size_vram": 0 if info.device == "cpu" else size,
            "expires_at": timestamp(datetime.now(UTC) + _KEPT),
            "context_length": info.max_model_len,
        }
    ]


def shown(model: ServedModel, info: EngineInfo, name: str) -> dict[str, Any]:
    """All there is to tell of the model under one of its names, for /api/show."""
    return {
        "parameters": _parameters(model.defaults, info.max_model_len),
        "template": model.template.source if model.template else "",
        "details": _details(info.model),
        "model_info": _model_info(info, name),
        "capabilities": _capabilities(model),
        "modified_at": _written(info.model),
    }


def _entry(name: str, facts: ModelFacts) -> dict[str, Any]:
    return {"name": tag_of(name), "model": tag_of(name), "digest": facts.fingerprint, "details": _details(facts)}


def _details(facts: ModelFacts) -> dict[str, Any]:
    return {
        "parent_model": "",
        "format": facts.container,
        "family": facts.architecture,
        "families": [facts.architecture],
        "parameter_size": _readable(facts.num_parameters),
        "quantization_level": facts.weight_format,
    }


def _model_info(info: EngineInfo, name: str) -> dict[str, Any]:
    """By GGUF's keys. Clients take the context's length for what a conversation may have: that is the server's limit,
    not the model's. They show `basename` to people, who know the model by the name it is served under."""
    facts, prefix = info.model, info.model.architecture
    return {
        "general.architecture": facts.architecture,
        "general.basename": name,
        "general.parameter_count": facts.num_parameters,
        f"{prefix}.context_length": info.max_model_len,
        f"{prefix}.embedding_length": facts.hidden_size,
        f"{prefix}.block_count": facts.num_layers,
        f"{prefix}.attention.head_count": facts.num_attention_heads,
        f"{prefix}.attention.head_count_kv": facts.num_key_value_heads,
        f"{prefix}.expert_count": facts.num_experts,
        f"{prefix}.expert_used_count": facts.num_experts_per_tok,
        f"{prefix}.vocab_size": info.vocab_size,
    }


def _parameters(defaults: GenerationDefaults, max_model_len: int) -> str:
    """What a request has that says nothing, as lines of a Modelfile: some clients take their limits from these."""
    values = {
        "num_ctx": max_model_len,
        "temperature": defaults.temperature,
        "top_k": defaults.top_k,
        "top_p": defaults.top_p,
        "min_p": defaults.min_p,
        "repeat_penalty": defaults.repetition_penalty,
    }
    return "\n".join(f"{name:<30} {value}" for name, value in values.items())


def _capabilities(model: ServedModel) -> list[str]:
    optional = (("tools", model.takes_tools), ("insert", model.fim is not None))
    return ["completion", *(name for name, has in optional if has)]


def _written(facts: ModelFacts) -> str:
    return timestamp(datetime.fromtimestamp(facts.modified, UTC))


def _readable(number: int) -> str:
    """79.7B, 11.34M."""
    for size, unit, digits in _UNITS:
        if number >= size:
            return f"{number / size:.{digits}f}{unit}"
    return str(number)
