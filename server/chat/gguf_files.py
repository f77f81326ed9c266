"""What the server needs from a model in a GGUF file: the same `ModelFiles` as from a folder.

Knows the metadata's keys for texts and sampling; nothing of weights.
"""

from importlib.resources import files
from pathlib import Path

from engine import GgufMetadata, gguf_end_tokens, read_gguf_metadata
from engine.errors import LoadError
from server.chat.gguf_tokenizer import gguf_tokenizer
from server.chat.model_files import GenerationDefaults, ModelFiles, check_ranges

_CODER_CALL = "<function="  # how Qwen3-Coder writes a tool call, and nobody else of its family


def read_gguf_files(path: Path) -> ModelFiles:
    """Read the texts of the model in the file. Raises `LoadError` where one is missing or broken."""
    metadata = read_gguf_metadata(path)
    return ModelFiles(
        tokenizer=gguf_tokenizer(metadata),
        chat_template=_chat_template(metadata),
        generation_defaults=_generation_defaults(metadata),
        eos_token=_token_text(metadata, "eos"),
        pad_token=_token_text(metadata, "padding"),
        bos_token=_token_text(metadata, "bos"),
    )


def _chat_template(metadata: GgufMetadata) -> str:
    """The file's own template, but for Qwen3-Coder's ours.

    Whoever makes GGUF files edits that one: to repair it, or for engines that know only a part of Jinja. Ours writes
    what the model was trained on. It also serves a file that has none.
    """
    source = metadata.text("tokenizer.chat_template")
    if source is None or _CODER_CALL in source:
        return (files("engine") / "nano" / "chat_template.jinja").read_text(encoding="utf-8")
    return source


def _generation_defaults(metadata: GgufMetadata) -> GenerationDefaults:
    def number(name: str, neutral: float) -> float:
        value = metadata.number(f"general.sampling.{name}")
        return neutral if value is None else value

    top_k = metadata.integer("general.sampling.top_k")
    defaults = GenerationDefaults(
        temperature=number("temp", 1.0),
        top_k=max(0, top_k or 0),  # some write -1 for "off"
        top_p=number("top_p", 1.0),
        min_p=number("min_p", 0.0),
        repetition_penalty=number("penalty_repeat", 1.0),
        eos_token_ids=gguf_end_tokens(metadata),
    )
    check_ranges(metadata.path, defaults)
    return defaults


def _token_text(metadata: GgufMetadata, kind: str) -> str | None:
    """The text of a token that the metadata name by its id."""
    token_id = metadata.integer(f"tokenizer.ggml.{kind}_token_id")
    if token_id is None:
        return None
    tokens = metadata.strings("tokenizer.ggml.tokens") or ()
    if 0 <= token_id < len(tokens):
        return tokens[token_id].decode("utf-8", errors="replace")
    raise LoadError(f"{metadata.path}: tokenizer.ggml.{kind}_token_id is {token_id}, which is no token; correct it")
