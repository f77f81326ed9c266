"""`ModelConfig`: every dimension of a `qwen3_next` checkpoint, read from its config.json. Standard library only.

Hub files are flat (`rope_theta`, `full_attention_interval`); files written by transformers ≥ 5 nest the rope fields
and list `layer_types`. Both are read. Nothing is taken from class defaults where the file should say it.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from engine.errors import LoadError

ARCHITECTURE = "Qwen3NextForCausalLM"
MODEL_TYPE = "qwen3_next"

QUANTISED_BY = ("fp8", "gptq", "awq", "compressed-tensors")
GPTQ_ZERO_OFFSETS = {"gptq": 1, "gptq_v2": 0}

LayerType = Literal["linear_attention", "full_attention"]


@dataclass(frozen=True, slots=True)
class YarnConfig:
    """YaRN context extension (arXiv 2309.00071): frequencies between the two betas are interpolated by `factor`."""

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    truncate: bool = True


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding of the first `rotary_dim` of a head's dimensions, half-split."""

    theta: float
    rotary_dim: int
    yarn: YarnConfig | None = None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Dimensions of the model, in elements; `dtype` is the one the checkpoint names.

    `gptq_zero_offset` is what a GPTQ checkpoint's zero points are stored too low by; its tensors do not tell.
    """

    vocab_size: int
    hidden_size: int
    layer_types: tuple[LayerType, ...]
    max_position_embeddings: int
    rms_norm_eps: float
    tie_word_embeddings: bool
    dtype: str
    eos_token_ids: tuple[int, ...]
    rope: RopeConfig
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    linear_num_key_heads: int
    linear_num_value_heads: int
    linear_key_head_dim: int
    linear_value_head_dim: int
    linear_conv_kernel_dim: int
    num_experts: int
    num_experts_per_tok: int
    norm_topk_prob: bool
    moe_intermediate_size: int
    shared_expert_intermediate_size: int
    intermediate_size: int
    dense_layers: frozenset[int]
    gptq_zero_offset: int = 1

    @property
    def num_layers(self) -> int:
        return len(self.layer_types)

    @property
    def num_full_attention_layers(self) -> int:
        return self.layer_types.count("full_attention")

    @property
    def num_linear_attention_layers(self) -> int:
        return self.layer_types.count("linear_attention")

    @property
    def conv_dim(self) -> int:
        """Channels that pass through the causal convolution: all q, all k, all v."""
        keys = self.linear_num_key_heads * self.linear_key_head_dim
        return 2 * keys + self.linear_num_value_heads * self.linear_value_head_dim

    @property
    def num_parameters(self) -> int:
        """Of all tensors together, norms and gates too."""
        hidden = self.hidden_size
        heads, kv_heads, dim = self.num_attention_heads, self.num_key_value_heads, self.head_dim
        attention = hidden * dim * (3 * heads + 2 * kv_heads) + 2 * dim  # the query's projection has a gate beside it
        value_heads, value_dim = self.linear_num_value_heads, self.linear_value_head_dim
        values = value_heads * value_dim
        delta_net = (
            hidden * (self.conv_dim + 2 * values + 2 * value_heads)  # q, k, v; gate and output; beta and decay
            + self.conv_dim * self.linear_conv_kernel_dim
            + 2 * value_heads
            + value_dim
        )
        experts = self.num_experts * (hidden + 3 * hidden * self.moe_intermediate_size)
        shared = hidden + 3 * hidden * self.shared_expert_intermediate_size
        num_dense = len(self.dense_layers)
        return (
            hidden * (self.vocab_size * (1 if self.tie_word_embeddings else 2) + 1 + 2 * self.num_layers)
            + self.num_full_attention_layers * attention
            + self.num_linear_attention_layers * delta_net
            + (self.num_layers - num_dense) * (experts + shared)
            + num_dense * 3 * hidden * self.intermediate_size
        )

    def kv_bytes_per_token(self, itemsize: int) -> int:
        """K and V of one token in every full-attention layer."""
        return 2 * self.num_full_attention_layers * self.num_key_value_heads * self.head_dim * itemsize

    @property
    def state_bytes(self) -> int:
        """One state slot: S and the convolution's last columns in fp32, over all layers."""
        heads = self.linear_num_value_heads * self.linear_key_head_dim * self.linear_value_head_dim
        columns = (self.linear_conv_kernel_dim - 1) * self.conv_dim
        return self.num_linear_attention_layers * 4 * (heads + columns)


def read_model_config(folder: Path) -> ModelConfig:
    """Read `config.json` of a model folder, and the end tokens of its `generation_config.json`.

    Raises:
        LoadError: no such file, not JSON, another architecture, or a field missing or out of place.
    """
    raw = _read_json(folder / "config.json")
    generation_path = folder / "generation_config.json"
    generation = _read_json(generation_path) if generation_path.exists() else {}
    try:
        return parse_model_config(raw, generation)
    except LoadError as error:
        raise LoadError(f"{folder / 'config.json'}: {error}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise LoadError(
            f"{path.parent} has no {path.name}: give a folder with a model in Hugging Face layout"
        ) from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LoadError(f"{path} cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise LoadError(f"{path} should hold a JSON object")
    return value


def parse_model_config(raw: Mapping[str, Any], generation: Mapping[str, Any]) -> ModelConfig:
    """Build the configuration from the parsed files; raises `LoadError` without a path in it."""
    _check_architecture(raw)
    fields = _Fields(raw)
    layer_types = _layer_types(fields)
    config = ModelConfig(
        vocab_size=fields.positive("vocab_size"),
        hidden_size=fields.positive("hidden_size"),
        layer_types=layer_types,
        max_position_embeddings=fields.positive("max_position_embeddings"),
        rms_norm_eps=fields.number("rms_norm_eps"),
        tie_word_embeddings=bool(raw.get("tie_word_embeddings", False)),
        dtype=str(raw.get("dtype") or raw.get("torch_dtype") or "bfloat16"),
        eos_token_ids=_end_tokens(generation.get("eos_token_id"), raw.get("eos_token_id")),
        rope=_rope(fields),
        num_attention_heads=fields.positive("num_attention_heads"),
        num_key_value_heads=fields.positive("num_key_value_heads"),
        head_dim=fields.positive("head_dim"),
        linear_num_key_heads=fields.positive("linear_num_key_heads"),
        linear_num_value_heads=fields.positive("linear_num_value_heads"),
        linear_key_head_dim=fields.positive("linear_key_head_dim"),
        linear_value_head_dim=fields.positive("linear_value_head_dim"),
        linear_conv_kernel_dim=fields.positive("linear_conv_kernel_dim"),
        num_experts=fields.positive("num_experts"),
        num_experts_per_tok=fields.positive("num_experts_per_tok"),
        norm_topk_prob=bool(raw.get("norm_topk_prob", True)),
        moe_intermediate_size=fields.positive("moe_intermediate_size"),
        shared_expert_intermediate_size=fields.positive("shared_expert_intermediate_size"),
        intermediate_size=fields.positive("intermediate_size"),
        dense_layers=_dense_layers(raw, len(layer_types)),
        gptq_zero_offset=_gptq_zero_offset(fields.nested("quantization_config")),
    )
    _check(config)
    return config


class _Fields:
    """Typed access with errors that name the field."""

    def __init__(self, raw: Mapping[str, Any]) -> None:
        self.raw = raw

    def number(self, name: str) -> float:
        value = self.raw.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise LoadError(f"{name} should be a number, found {value!r}")
        return value

    def number_or(self, name: str, default: float) -> float:
        return default if self.raw.get(name) is None else self.number(name)

    def nested(self, name: str) -> dict[str, Any]:
        """An object inside; empty when absent."""
        value = self.raw.get(name) or {}
        if not isinstance(value, dict):
            raise LoadError(f"{name} should be an object, found {value!r}")
        return value

    def positive(self, name: str) -> int:
        value = self.number(name)
        if value != int(value) or value < 1:
            raise LoadError(f"{name} should be a positive integer, found {value!r}")
        return int(value)


def _check_architecture(raw: Mapping[str, Any]) -> None:
    architectures = raw.get("architectures") or []
    model_type = raw.get("model_type")
    if model_type != MODEL_TYPE and ARCHITECTURE not in architectures:
        found = ", ".join(map(str, architectures)) or "no architecture"
        raise LoadError(
            f"this is {found} (model_type {model_type!r}); deltaloop serves {ARCHITECTURE} (model_type {MODEL_TYPE!r}),"
            " that is Qwen3-Coder-Next and Qwen3-Next: point it at such a model"
        )
    for name, served in (("attention_bias", False), ("use_sliding_window", False), ("hidden_act", "silu")):
        if raw.get(name, served) != served:
            raise LoadError(f"{name} is {raw[name]!r}; deltaloop serves models with {served!r} only")
    _check_quantization(_Fields(raw).nested("quantization_config"))


def _check_quantization(quantization: Mapping[str, Any]) -> None:
    """What the tensors themselves do not tell; the rest is decided by them."""
    if not quantization:
        return
    method = quantization.get("quant_method", "unknown")
    if method not in QUANTISED_BY:
        raise LoadError(
            f"the weights are quantised ({method}); deltaloop serves bf16, fp16 and fp32 weights, and those quantised"
            f" by {', '.join(QUANTISED_BY)}"
        )
    if method in ("gptq", "awq"):
        bits, version = quantization.get("bits", 4), str(quantization.get("version") or "gemm").lower()
        if bits != 4:
            raise LoadError(f"the weights are quantised ({method}) to {bits} bits; deltaloop serves 4 bits")
        if method == "awq" and version != "gemm":
            raise LoadError(f"the weights are quantised (awq) in version {version}; deltaloop serves version gemm")


def _gptq_zero_offset(quantization: Mapping[str, Any]) -> int:
    written = str(quantization.get("checkpoint_format") or "gptq")
    if quantization.get("quant_method") == "gptq" and written not in GPTQ_ZERO_OFFSETS:
        raise LoadError(f"checkpoint_format is {written!r}; deltaloop serves {', '.join(GPTQ_ZERO_OFFSETS)}")
    return GPTQ_ZERO_OFFSETS.get(written, 1)


def _layer_types(fields: _Fields) -> tuple[LayerType, ...]:
    num_layers = fields.positive("num_hidden_layers")
    listed = fields.raw.get("layer_types")
    if listed is None:
        interval = fields.positive("full_attention_interval") if "full_attention_interval" in fields.raw else 4
        return tuple("linear_attention" if (i + 1) % interval else "full_attention" for i in range(num_layers))
    known = ("linear_attention", "full_attention")
    if not isinstance(listed, list) or len(listed) != num_layers or any(kind not in known for kind in listed):
        raise LoadError(f"layer_types should list {num_layers} times linear_attention or full_attention")
    return tuple(listed)


def _dense_layers(raw: Mapping[str, Any], num_layers: int) -> frozenset[int]:
    """Layers with a plain SwiGLU in place of the MoE; none in the released models."""
    step, only = raw.get("decoder_sparse_step") or 1, raw.get("mlp_only_layers") or []
    return frozenset(i for i in range(num_layers) if i in only or (i + 1) % step)


def _rope(fields: _Fields) -> RopeConfig:
    nested, scaling = fields.nested("rope_parameters"), fields.nested("rope_scaling")
    rope = _Fields({**fields.raw, **scaling, **nested})
    partial = rope.number_or("partial_rotary_factor", 0.25)  # what the released models leave unsaid in old files
    head_dim = fields.positive("head_dim")
    rotary_dim = int(head_dim * partial)
    if not 2 <= rotary_dim <= head_dim or rotary_dim % 2:
        raise LoadError(
            f"partial_rotary_factor {partial} leaves {rotary_dim} rotated dimensions of {head_dim}; an even number is"
            " needed"
        )
    return RopeConfig(rope.number("rope_theta"), rotary_dim, _yarn(_Fields({**scaling, **nested}), fields))


def _yarn(scaling: _Fields, fields: _Fields) -> YarnConfig | None:
    kind = scaling.raw.get("rope_type") or scaling.raw.get("type") or "default"
    if kind == "default":
        return None
    if kind != "yarn":
        raise LoadError(f"rope scaling of type {kind!r} is not served; deltaloop serves 'yarn'")
    original = scaling.number_or("original_max_position_embeddings", fields.positive("max_position_embeddings"))
    has_factor = scaling.raw.get("attention_factor") is not None
    return YarnConfig(
        factor=scaling.number("factor"),
        original_max_position_embeddings=int(original),
        beta_fast=scaling.number_or("beta_fast", 32.0),
        beta_slow=scaling.number_or("beta_slow", 1.0),
        attention_factor=scaling.number("attention_factor") if has_factor else None,
        truncate=bool(scaling.raw.get("truncate", True)),
    )


def _end_tokens(*places: Any) -> tuple[int, ...]:
    """The first place that names end tokens: one id or a list of them."""
    named: Any = next((place for place in places if place is not None), [])
    ids = named if isinstance(named, list) else [named]
    if any(isinstance(i, bool) or not isinstance(i, int) for i in ids):
        raise LoadError(f"eos_token_id should be a token id or a list of them, found {named!r}")
    return tuple(ids)


def _check(config: ModelConfig) -> None:
    for many, few in (
        ("num_attention_heads", "num_key_value_heads"),
        ("linear_num_value_heads", "linear_num_key_heads"),
    ):
        if getattr(config, many) % getattr(config, few):
            raise LoadError(f"{many} should be a multiple of {few}")
    outside = [i for i in config.eos_token_ids if not 0 <= i < config.vocab_size]
    if outside:
        raise LoadError(f"eos_token_id {outside[0]} is outside the vocabulary, vocab_size is {config.vocab_size}")
    if config.num_experts_per_tok > config.num_experts:
        raise LoadError("num_experts_per_tok is larger than num_experts")
    if config.linear_conv_kernel_dim < 2:
        raise LoadError("linear_conv_kernel_dim should be at least 2")
    if not config.num_full_attention_layers or not config.num_linear_attention_layers:
        raise LoadError("the model should have both full_attention and linear_attention layers")
