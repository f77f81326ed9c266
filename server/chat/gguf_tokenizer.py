"""A GGUF file's vocabulary as the tokenizer.json it was once made from.

A file names its kind of tokenizer in two words, "gpt2" (byte-level BPE) and "qwen2" (how text is cut into words); what
these mean stands here. Knows the metadata's keys for tokens; nothing of templates or weights.
"""

import json
from collections.abc import Mapping
from typing import Any

from engine import GgufMetadata
from engine.errors import LoadError

MODEL, WORDS = "gpt2", "qwen2"
NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5

# Files call every `<|…|>` a control token. These are not for steering a conversation: they count wherever they stand.
_MARKS = frozenset(
    {"<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"}
)
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}


def gguf_tokenizer_json(metadata: GgufMetadata) -> str:
    """The definition of the tokenizer. Raises `LoadError` for another kind, or where something does not fit."""
    for key, served in (("tokenizer.ggml.model", MODEL), ("tokenizer.ggml.pre", WORDS)):
        if metadata.text(key) != served:
            raise LoadError(f"{metadata.path}: {key} is {metadata.text(key)!r}; deltaloop serves {served!r} only")
    vocab, added = _vocabulary(metadata)
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": {"type": "NFC"},
            "pre_tokenizer": {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": _QWEN2_WORDS}, "behavior": "Isolated", "invert": False},
                    _BYTE_LEVEL,
                ],
            },
            "post_processor": _BYTE_LEVEL,
            "decoder": _BYTE_LEVEL,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": "",
                "end_of_word_suffix": "",
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": False,
                "vocab": vocab,
                "merges": _merges(metadata, vocab),
            },
        },
        ensure_ascii=False,
    )


def _vocabulary(metadata: GgufMetadata) -> tuple[dict[str, int], list[dict[str, Any]]]:
    """All tokens in use with their ids, and those that stand beside the ordinary ones.

    The latter are in both: the library would else number them itself, and a file's ids may have gaps.
    """
    tokens = metadata.texts("tokenizer.ggml.tokens")
    if tokens is None:
        raise metadata.lacks("tokenizer.ggml.tokens")
    types = metadata.integers("tokenizer.ggml.token_type")
    if types is None:
        raise metadata.lacks("tokenizer.ggml.token_type")
    if len(types) != len(tokens) or not {NORMAL, CONTROL, USER_DEFINED, UNUSED}.issuperset(types):
        raise LoadError(f"{metadata.path}: tokenizer.ggml.token_type does not fit the tokens; download the file again")
    used = [i for i, kind in enumerate(types) if kind != UNUSED]
    vocab = {tokens[i]: i for i in used}
    if len(vocab) != len(used):
        raise LoadError(f"{metadata.path}: tokenizer.ggml.tokens has a token twice; download the file again")
    added = [_added(i, tokens[i], types[i] == CONTROL) for i in used if types[i] != NORMAL]
    return vocab, added


def _added(token_id: int, text: str, is_control: bool) -> dict[str, Any]:
    return {
        "id": token_id,
        "content": text,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": is_control and text not in _MARKS,
    }


def _merges(metadata: GgufMetadata, vocab: Mapping[str, int]) -> list[list[str]]:
    """Pairs of tokens that become one, the first before the others. No token has a space in it."""
    merges = metadata.texts("tokenizer.ggml.merges")
    if merges is None:
        raise metadata.lacks("tokenizer.ggml.merges")
    pairs = [merge.split(" ") for merge in merges]
    for pair in pairs:
        if len(pair) != 2 or pair[0] not in vocab or pair[1] not in vocab or pair[0] + pair[1] not in vocab:
            raise LoadError(
                f"{metadata.path}: tokenizer.ggml.merges joins {' '.join(pair)!r}, which are not two tokens that make a"
                " third; download the file again"
            )
    return pairs
