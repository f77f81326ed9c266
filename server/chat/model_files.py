"""What the server needs from a model's folder: tokenizer, chat template, sampling defaults, the named tokens.

Lives here: finding and checking those files. It may not know how they are used, nor anything of weights. The other
source of the same facts, a GGUF file's metadata, makes the same `ModelFiles`: see `server.chat.gguf_files`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers

from engine.errors import LoadError, RequestError
from engine.types import SamplingParams


@dataclass(frozen=True, slots=True)
class GenerationDefaults:
    """The model's own sampling values, used where a request is silent; the neutral ones where the model is silent."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_new_tokens: int | None = None
    eos_token_ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The texts of a model, read and checked.

    Attributes:
        tokenizer: as it is defined; `server.chat.tokenizer` has how it is used.
        chat_template: Jinja source; None when the model brings none, and then only plain completions work.
        bos_token, eos_token, pad_token: their texts, None when the model has no such token.
    """

    tokenizer: tokenizers.Tokenizer
    chat_template: str | None = None
    generation_defaults: GenerationDefaults = field(default_factory=GenerationDefaults)
    eos_token: str | None = None
    pad_token: str | None = None
    bos_token: str | None = None


def read_model_files(folder: Path) -> ModelFiles:
    """Read the texts of the model in `folder`. Raises `LoadError` for one that is missing or broken.

    Only tokenizer.json must be there: the other files have neutral stand-ins.
    """
    if not folder.is_dir():
        raise LoadError(
            f"{folder} is not a folder: give the folder that holds the model's config.json, or a .gguf file"
        )
    tokenizer_json = _read_text(folder / "tokenizer.json")
    if tokenizer_json is None:
        gguf = next(iter(sorted(folder.glob("*.gguf"))), None)
        if gguf is not None:
            raise LoadError(f"{folder} holds GGUF files: give the one you want, {gguf} for example")
        raise LoadError(f"{folder} has no tokenizer.json: download the model again, with its tokenizer files")
    tokenizer_config = _read_object(folder / "tokenizer_config.json")
    return ModelFiles(
        tokenizer=_parse_tokenizer(folder / "tokenizer.json", tokenizer_json),
        chat_template=_find_chat_template(folder, tokenizer_config),
        generation_defaults=_read_generation_defaults(folder),
        eos_token=_token_text(tokenizer_config, "eos_token"),
        pad_token=_token_text(tokenizer_config, "pad_token"),
        bos_token=_token_text(tokenizer_config, "bos_token"),
    )


def _parse_tokenizer(path: Path, tokenizer_json: str) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # the library raises nothing narrower
        raise LoadError(f"{path} defines no tokenizer ({error}): download it again") from error


def _find_chat_template(folder: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """The newest place first: a file of its own, its JSON predecessor, then the tokenizer's configuration."""
    source = _read_text(folder / "chat_template.jinja")
    if source is not None:
        return source
    template = _read_object(folder / "chat_template.json").get("chat_template")
    if template is None:
        template = tokenizer_config.get("chat_template")
    if isinstance(template, list):
        template = _default_of_named_templates(template)
    if template is not None and not isinstance(template, str):
        raise LoadError(f"the chat template in {folder} is not text: put it in {folder / 'chat_template.jinja'}")
    return template


def _default_of_named_templates(named: list[Any]) -> Any:
    by_name = {entry.get("name"): entry.get("template") for entry in named if isinstance(entry, dict)}
    return by_name.get("default")


def _read_generation_defaults(folder: Path) -> GenerationDefaults:
    path = folder / "generation_config.json"
    config = _read_object(path)
    eos = config.get("eos_token_id")
    if eos is None:  # older models name it in config.json only
        eos = _read_object(folder / "config.json").get("eos_token_id")
    temperature = _number(path, config, "temperature", 1.0)
    defaults = GenerationDefaults(
        temperature=0.0 if config.get("do_sample") is False else temperature,
        top_k=max(0, int(_number(path, config, "top_k", 0))),  # some write -1 for "off"
        top_p=_number(path, config, "top_p", 1.0),
        min_p=_number(path, config, "min_p", 0.0),
        repetition_penalty=_number(path, config, "repetition_penalty", 1.0),
        max_new_tokens=_max_new_tokens(path, config),
        eos_token_ids=_token_ids(path, eos),
    )
    check_ranges(path, defaults)
    return defaults


def check_ranges(path: Path, defaults: GenerationDefaults) -> None:
    """Hold the defaults against the engine's own limits, at load rather than at the first request.

    Raises:
        LoadError: one is outside; `path` is the file it stands in.
    """
    try:
        SamplingParams(
            max_tokens=defaults.max_new_tokens,
            temperature=defaults.temperature,
            top_k=defaults.top_k,
            top_p=defaults.top_p,
            min_p=defaults.min_p,
            repetition_penalty=defaults.repetition_penalty,
        )
    except RequestError as error:
        raise LoadError(f"{path}: {error.message}; correct the file or remove the entry") from error


def _max_new_tokens(path: Path, config: Mapping[str, Any]) -> int | None:
    if config.get("max_new_tokens") is None:
        return None
    number = int(_number(path, config, "max_new_tokens", 0))
    if number < 1:  # a request may ask for none, but not all of them
        raise LoadError(
            f"{path}: max_new_tokens is {number}, but must be at least 1; correct the file or remove the entry"
        )
    return number


def _number(path: Path, config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise LoadError(f"{path}: {key} is {value!r}, but must be a number; correct the file or remove the entry")
    return value


def _token_ids(path: Path, value: Any) -> tuple[int, ...]:
    if value is None:
        return ()
    ids = value if isinstance(value, list) else [value]
    if not all(isinstance(token_id, int) and not isinstance(token_id, bool) for token_id in ids):
        raise LoadError(
            f"{path}: eos_token_id is {value!r}, but must be a token id or a list of them; correct the file"
        )
    return tuple(ids)


def _token_text(tokenizer_config: Mapping[str, Any], key: str) -> str | None:
    """A token is written as its text, or as an object that has the text as `content`."""
    value = tokenizer_config.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def _read_object(path: Path) -> Mapping[str, Any]:
    """The JSON object in the file; empty when there is no file."""
    text = _read_text(path)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except ValueError as error:
        raise LoadError(f"{path} is not valid JSON ({error}): download it again") from error
    if not isinstance(value, dict):
        raise LoadError(f"{path} does not hold a JSON object: download it again")
    return value


def _read_text(path: Path) -> str | None:
    """The file's text; None when there is no file."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"{path} cannot be read ({error}): check its permissions or download it again") from error
