"""From a GGUF file's metadata to a `ModelConfig`. Standard library only.

The keys are translated to the words of a config.json, so that one parser reads and checks both.
"""

import math
from array import array
from pathlib import Path
from typing import Any

from engine.errors import LoadError
from engine.model.config import ARCHITECTURE, ModelConfig, parse_model_config
from engine.weights.gguf_file import GgufFile, read_gguf
from engine.weights.gguf_metadata import GgufMetadata

GGUF_ARCHITECTURE = "qwen3next"
FULL_ATTENTION_INTERVAL = 4  # of files from before there was a key for it
MAX_LAYERS, MAX_SIZE, MAX_CONTEXT = 2**10, 2**20, 2**32  # far from any model: a damaged file must not cost memory
END_OF_TEXT = b"<|endoftext|>"


def gguf_model_config(gguf: GgufFile) -> ModelConfig:
    """The configuration of the model in a file.

    Raises:
        LoadError: another architecture, or a key missing or out of place.
    """
    _check_architecture(gguf.metadata)
    keys = _Keys(gguf.metadata)
    embedding = gguf.tensors.get("token_embd.weight")
    if embedding is None:
        raise LoadError(f"{gguf.path} lacks token_embd.weight: it is incomplete, or holds no whole model")
    num_blocks = keys.integer("block_count", most=MAX_LAYERS)
    num_layers = num_blocks - num_nextn_layers(gguf.metadata)
    if not 1 <= num_layers <= num_blocks:
        raise LoadError(f"{gguf.path} has {num_layers} layers of {num_blocks} blocks: download it again")
    context = keys.integer("context_length", most=MAX_CONTEXT)
    value_heads, head_dim = keys.integer("ssm.time_step_rank"), keys.integer("attention.key_length")
    experts_size = keys.integer("expert_feed_forward_length")
    raw = {
        "architectures": [ARCHITECTURE],
        "vocab_size": embedding.shape[0],
        "hidden_size": keys.integer("embedding_length"),
        "num_hidden_layers": num_layers,
        "layer_types": _layer_types(keys, num_layers),
        "max_position_embeddings": context,
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
        "dtype": "bfloat16",
        "eos_token_id": list(gguf_end_tokens(gguf.metadata)),
        "rope_theta": keys.number("rope.freq_base"),
        "partial_rotary_factor": (keys.integer("rope.dimension_count") + 0.5) / head_dim,  # made whole again there
        "rope_scaling": _rope_scaling(keys, context),
        "num_attention_heads": keys.integer("attention.head_count"),
        "num_key_value_heads": keys.integer("attention.head_count_kv"),
        "head_dim": head_dim,
        "linear_num_key_heads": keys.integer("ssm.group_count"),
        "linear_num_value_heads": value_heads,
        "linear_key_head_dim": keys.integer("ssm.state_size"),
        "linear_value_head_dim": keys.integer("ssm.inner_size") // value_heads,
        "linear_conv_kernel_dim": keys.integer("ssm.conv_kernel"),
        "num_experts": keys.integer("expert_count"),
        "num_experts_per_tok": keys.integer("expert_used_count"),
        "norm_topk_prob": True,
        "moe_intermediate_size": experts_size,
        "shared_expert_intermediate_size": keys.integer("expert_shared_feed_forward_length", experts_size),
        "intermediate_size": keys.integer("feed_forward_length", experts_size),
        "mlp_only_layers": [i for i in range(num_layers) if f"blk.{i}.ffn_up.weight" in gguf.tensors],
    }
    try:
        return parse_model_config(raw, {})
    except LoadError as error:
        raise LoadError(f"{gguf.path}: {error}") from None


def read_gguf_metadata(path: Path) -> GgufMetadata:
    """The keys of a model of the served architecture in a GGUF file.

    Raises:
        LoadError: no GGUF file, a damaged one, or another architecture.
    """
    metadata = read_gguf(path).metadata
    _check_architecture(metadata)
    return metadata


def gguf_end_tokens(metadata: GgufMetadata) -> tuple[int, ...]:
    """The ids that end an answer: those the file names, and <|endoftext|>, which the model also ends with."""
    named = [metadata.integer(f"tokenizer.ggml.{kind}_token_id") for kind in ("eos", "eot")]
    tokens = metadata.strings("tokenizer.ggml.tokens") or ()
    named.append(next((i for i, token in enumerate(tokens) if token == END_OF_TEXT), None))
    return tuple(dict.fromkeys(i for i in named if i is not None))


def num_nextn_layers(metadata: GgufMetadata) -> int:
    """Layers at the end that predict further tokens; like a folder's `mtp.` they are left alone."""
    return metadata.integer(f"{GGUF_ARCHITECTURE}.nextn_predict_layers") or 0


class _Keys:
    """The architecture's own keys. All are positive."""

    def __init__(self, metadata: GgufMetadata) -> None:
        self.metadata = metadata

    def integer(self, name: str, default: int | None = None, most: int = MAX_SIZE) -> int:
        """A number, or one for each layer that are all the same; 0 stands for a layer that has none."""
        key = f"{GGUF_ARCHITECTURE}.{name}"
        if key not in self.metadata.values:
            if default is None:
                raise self.metadata.lacks(key)
            return default
        distinct = {value for value in self.per_layer(name) or [self.metadata.integer(key) or 0] if value}
        value = distinct.pop() if len(distinct) == 1 else 0
        if not 1 <= value <= most:
            raise LoadError(f"{self.metadata.path}: {key} should be a number from 1 to {most}; download the file again")
        return value

    def number(self, name: str) -> float:
        key = f"{GGUF_ARCHITECTURE}.{name}"
        value = self.metadata.number(key)
        if value is None:
            raise self.metadata.lacks(key)
        if not 0 < value < math.inf:
            raise LoadError(f"{self.metadata.path}: {key} is {value}, but must be positive; download the file again")
        return value

    def per_layer(self, name: str) -> list[int] | None:
        """The array under a key; None when there is a single value, or nothing."""
        key = f"{GGUF_ARCHITECTURE}.{name}"
        value = self.metadata.values.get(key)
        return self.metadata.integers(key) if isinstance(value, array) else None


def _check_architecture(metadata: GgufMetadata) -> None:
    architecture, kind = metadata.text("general.architecture"), metadata.text("general.type")
    if kind not in (None, "model"):
        raise LoadError(f"{metadata.path} holds no model, its type is {kind!r}: give the model's own file")
    if architecture != GGUF_ARCHITECTURE:
        raise LoadError(
            f"{metadata.path}: this is a GGUF file of architecture {architecture!r}; deltaloop serves"
            f" {GGUF_ARCHITECTURE!r}, that is Qwen3-Coder-Next and Qwen3-Next: point it at such a model"
        )
    if metadata.integer(f"{GGUF_ARCHITECTURE}.attention.value_length") != metadata.integer(
        f"{GGUF_ARCHITECTURE}.attention.key_length"
    ):
        raise LoadError(f"{metadata.path}: attention.key_length and attention.value_length should be the same")


def _layer_types(keys: _Keys, num_layers: int) -> list[str]:
    """By the list of recurrent layers, else by the layers without KV heads, else by the interval."""
    listed, kv_heads = keys.per_layer("attention.recurrent_layers"), keys.per_layer("attention.head_count_kv")
    if listed is not None:
        linear = [bool(i) for i in listed]
    elif kv_heads is not None and 0 in kv_heads:
        linear = [not i for i in kv_heads]
    else:
        interval = keys.integer("full_attention_interval", FULL_ATTENTION_INTERVAL)
        linear = [(i + 1) % interval != 0 for i in range(num_layers)]
    return ["linear_attention" if i else "full_attention" for i in linear[:num_layers]]


def _rope_scaling(keys: _Keys, context: int) -> dict[str, Any]:
    """As config.json writes it."""
    metadata, prefix = keys.metadata, f"{GGUF_ARCHITECTURE}.rope.scaling."
    kind = metadata.text(prefix + "type")
    if kind in (None, "none"):
        return {}
    for name in ("attn_factor", "yarn_attn_factor", "yarn_ext_factor"):
        value = metadata.number(prefix + name)
        if value not in (None, 1.0):
            raise LoadError(f"{metadata.path}: {prefix}{name} is {value}; deltaloop serves models with 1 only")
    return {
        "rope_type": kind,
        "factor": keys.number("rope.scaling.factor"),
        "original_max_position_embeddings": keys.integer("rope.scaling.original_context_length", context, MAX_CONTEXT),
        "beta_fast": metadata.number(prefix + "yarn_beta_fast"),
        "beta_slow": metadata.number(prefix + "yarn_beta_slow"),
    }
