"""GGUF files of tiny models, written with the `gguf` package from tensors under their hub names.

What a converter does to the tensors and the configuration is written out here and knows nothing of the engine's reader.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType
from gguf.constants import GGML_QUANT_SIZES
from gguf.quants import quantize
from numpy.typing import NDArray
from torch import Tensor

ARCHITECTURE = "qwen3next"
LAYER_NAMES = {
    "input_layernorm.weight": "attn_norm.weight",
    "post_attention_layernorm.weight": "post_attention_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight",
    "self_attn.k_norm.weight": "attn_k_norm.weight",
    "linear_attn.in_proj_ba.weight": "ssm_ba.weight",
    "linear_attn.conv1d.weight": "ssm_conv1d.weight",
    "linear_attn.A_log": "ssm_a",
    "linear_attn.dt_bias": "ssm_dt.bias",
    "linear_attn.norm.weight": "ssm_norm.weight",
    "linear_attn.out_proj.weight": "ssm_out.weight",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.shared_expert_gate.weight": "ffn_gate_inp_shexp.weight",
    "mlp.shared_expert.gate_proj.weight": "ffn_gate_shexp.weight",
    "mlp.shared_expert.up_proj.weight": "ffn_up_shexp.weight",
    "mlp.shared_expert.down_proj.weight": "ffn_down_shexp.weight",
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
KEPT = (".ssm_conv1d.weight", ".ffn_gate_inp.weight", ".ffn_gate_inp_shexp.weight", ".ssm_a", ".bias", "norm.weight")


@dataclass(frozen=True)
class Layout:
    """What converters do in more than one way: the DeltaNet's input in one tensor, gate and up of experts in one."""

    old_projections: bool = False
    fused_experts: bool = False


def converted(
    tensors: Mapping[str, Tensor], config: Mapping[str, Any], layout: Layout | None = None
) -> dict[str, NDArray[np.float32]]:
    """Tensors as a converter names and changes them, in fp32."""
    layout = layout or Layout()
    out: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        tensor = tensor.float()
        if name.startswith("model.layers."):
            _, _, index, rest = name.split(".", 3)
            prefix = f"blk.{index}."
            if rest.endswith("in_proj_qkvz.weight"):
                out |= _projections(tensor, config, prefix, layout.old_projections)
            elif ".experts." not in rest:
                out[prefix + LAYER_NAMES[rest]] = _changed(rest, tensor)
    for i in range(config["num_hidden_layers"]):
        out |= _experts(tensors, config, i, layout.fused_experts)
    out["token_embd.weight"] = tensors["model.embed_tokens.weight"].float()
    out["output_norm.weight"] = 1 + tensors["model.norm.weight"].float()
    if "lm_head.weight" in tensors:
        out["output.weight"] = tensors["lm_head.weight"].float()
    return {name: tensor.numpy() for name, tensor in out.items()}


def _changed(name: str, tensor: Tensor) -> Tensor:
    if name == "linear_attn.A_log":
        return -torch.exp(tensor)
    if name.endswith("norm.weight") and name != "linear_attn.norm.weight":
        return 1 + tensor
    if name in ("linear_attn.conv1d.weight", "mlp.shared_expert_gate.weight"):
        return tensor.squeeze()
    return tensor


def _projections(tensor: Tensor, config: Mapping[str, Any], prefix: str, old: bool) -> dict[str, Tensor]:
    if old:
        return {prefix + "ssm_in.weight": tensor}
    heads, key = config["linear_num_key_heads"], config["linear_key_head_dim"]
    value = config["linear_num_value_heads"] // heads * config["linear_value_head_dim"]
    q, k, v, z = (
        part.flatten(0, 1) for part in tensor.unflatten(0, (heads, -1)).split([key, key, value, value], dim=1)
    )
    return {prefix + "attn_qkv.weight": torch.cat([q, k, v]), prefix + "attn_gate.weight": z}


def _experts(tensors: Mapping[str, Tensor], config: Mapping[str, Any], layer: int, fused: bool) -> dict[str, Tensor]:
    names = [f"model.layers.{layer}.mlp.experts.{e}." for e in range(config["num_experts"])]
    if names[0] + "gate_proj.weight" not in tensors:
        return {}
    gate, up, down = (
        torch.stack([tensors[f"{name}{kind}_proj.weight"].float() for name in names]) for kind in ("gate", "up", "down")
    )
    prefix = f"blk.{layer}.ffn_"
    if fused:
        return {prefix + "gate_up_exps.weight": torch.cat([gate, up], dim=1), prefix + "down_exps.weight": down}
    return {
        prefix + "gate_exps.weight": gate,
        prefix + "up_exps.weight": up,
        prefix + "down_exps.weight": down,
    }


def metadata(config: Mapping[str, Any]) -> dict[str, Any]:
    """The architecture's keys, as a converter makes them of a flat config.json."""
    value_heads = config["linear_num_value_heads"]
    return {
        "general.type": "model",
        "general.sampling.temp": 1.0,
        "general.sampling.top_p": 0.95,
        "general.sampling.top_k": 40,
    } | {
        f"{ARCHITECTURE}.{key}": value
        for key, value in {
            "block_count": config["num_hidden_layers"],
            "context_length": config["max_position_embeddings"],
            "embedding_length": config["hidden_size"],
            "feed_forward_length": config["intermediate_size"],
            "attention.head_count": config["num_attention_heads"],
            "attention.head_count_kv": config["num_key_value_heads"],
            "attention.key_length": config["head_dim"],
            "attention.value_length": config["head_dim"],
            "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
            "rope.freq_base": float(config["rope_theta"]),
            "rope.dimension_count": int(config["head_dim"] * config["partial_rotary_factor"]),
            "expert_count": config["num_experts"],
            "expert_used_count": config["num_experts_per_tok"],
            "expert_feed_forward_length": config["moe_intermediate_size"],
            "expert_shared_feed_forward_length": config["shared_expert_intermediate_size"],
            "ssm.conv_kernel": config["linear_conv_kernel_dim"],
            "ssm.state_size": config["linear_key_head_dim"],
            "ssm.group_count": config["linear_num_key_heads"],
            "ssm.time_step_rank": value_heads,
            "ssm.inner_size": value_heads * config["linear_value_head_dim"],
            "full_attention_interval": config["full_attention_interval"],
        }.items()
    }


def vocabulary(tokenizer_json: str, num_rows: int) -> dict[str, Any]:
    """The tokenizer's keys, as a converter makes them: rows of the embedding without a token are called [PADn]."""
    definition = json.loads(tokenizer_json)
    tokens = [f"[PAD{i}]" for i in range(num_rows)]
    types = [5] * num_rows
    for token, i in definition["model"]["vocab"].items():
        tokens[i], types[i] = token, 1
    for added in definition["added_tokens"]:
        text, i = added["content"], added["id"]
        looks_special = text.startswith("<|") and text.endswith("|>")
        tokens[i], types[i] = text, 3 if added["special"] or looks_special else 4
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in definition["model"]["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": tokens.index("<|im_end|>"),
        "tokenizer.ggml.padding_token_id": tokens.index("<|endoftext|>"),
    }


def with_one_merge(tokenizer_json: str) -> str:
    """A tokenizer with one token more, "ab": the writer takes no empty lists of merges."""
    definition = json.loads(tokenizer_json)
    vocab = definition["model"]["vocab"]
    vocab["ab"] = len(vocab) + len(definition["added_tokens"])
    definition["model"]["merges"] = [["a", "b"]]
    return json.dumps(definition)


def in_one_type(kind: Type) -> Callable[[str], Type]:
    """Matrices in one type; what the usual tools never quantise stays as it is."""
    return lambda name: Type.F32 if name.endswith(KEPT) else kind


def in_turn(kinds: Sequence[Type]) -> Callable[[str], Type]:
    """Every matrix in another type."""
    names: list[str] = []

    def choose(name: str) -> Type:
        if name.endswith(KEPT):
            return Type.F32
        names.append(name)
        return kinds[len(names) % len(kinds)]

    return choose


def encoded(values: NDArray[np.float32], kind: Type) -> NDArray[np.uint8]:
    """Bytes [..., row bytes]. Types the package cannot quantise to get random bits: only what is read back matters."""
    if kind == Type.F32:
        return np.ascontiguousarray(values).view(np.uint8)
    try:
        return quantize(np.ascontiguousarray(values), kind).view(np.uint8)
    except NotImplementedError:
        block, block_bytes = GGML_QUANT_SIZES[kind]
        shape = (*values.shape[:-1], values.shape[-1] // block * block_bytes)
        assert values.shape[-1] % block == 0
        random = np.random.default_rng(math.prod(shape))
        return random.integers(0, 256, shape, dtype=np.uint8)


def write(
    path: Path,
    tensors: Mapping[str, NDArray[np.float32]],
    keys: Mapping[str, Any],
    kind: Callable[[str], Type] = in_one_type(Type.BF16),  # noqa: B008 (a function)
    **options: Any,
) -> dict[str, NDArray[np.uint8]]:
    """Write a file, or with `split_max_tensors` several; returns the bytes of every tensor [..., row bytes].

    Floats become 32-bit, integers unsigned 32-bit ones where they fit.
    """
    options = {"arch": ARCHITECTURE} | options
    alignment = options.pop("alignment", None)
    writer = gguf.GGUFWriter(path, **options)
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for key, value in keys.items():
        _add(writer, key, value)
    written = {}
    for name, values in tensors.items():
        chosen = kind(name)
        written[name] = encoded(values, chosen)
        if chosen == Type.F32:
            writer.add_tensor(name, written[name].view(np.float32))
        else:
            writer.add_tensor(name, written[name], raw_dtype=chosen)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return written


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    if isinstance(value, str | list):
        writer.add_key_value(key, value, GGUFValueType.ARRAY if isinstance(value, list) else GGUFValueType.STRING)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value) if 0 <= value < 2**32 else writer.add_int64(key, value)
    else:
        writer.add_float32(key, value)
