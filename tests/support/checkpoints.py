"""Checkpoints in hub layout, written from a list of names and shapes that knows nothing of the engine's own."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3NextForCausalLM"],
    "model_type": "qwen3_next",
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 4,
    "full_attention_interval": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "rope_theta": 5e6,
    "partial_rotary_factor": 0.25,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "linear_conv_kernel_dim": 4,
    "num_experts": 3,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 6,
    "shared_expert_intermediate_size": 5,
    "tie_word_embeddings": False,
    "eos_token_id": 1,
    "torch_dtype": "float32",
}


def shapes(config: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Every tensor of a checkpoint with one name an expert, and its shape."""
    hidden = config["hidden_size"]
    out: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (config["vocab_size"], hidden),
    }
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}."
        out[p + "input_layernorm.weight"] = out[p + "post_attention_layernorm.weight"] = (hidden,)
        attention = (i + 1) % config["full_attention_interval"] == 0
        out |= _attention(config, p + "self_attn.") if attention else _delta_net(config, p + "linear_attn.")
        out[p + "mlp.gate.weight"] = (config["num_experts"], hidden)
        out[p + "mlp.shared_expert_gate.weight"] = (1, hidden)
        out |= _mlp(p + "mlp.shared_expert.", hidden, config["shared_expert_intermediate_size"])
        for e in range(config["num_experts"]):
            out |= _mlp(f"{p}mlp.experts.{e}.", hidden, config["moe_intermediate_size"])
    return out


def _attention(config: Mapping[str, Any], p: str) -> dict[str, tuple[int, ...]]:
    hidden, dim = config["hidden_size"], config["head_dim"]
    query, kv = config["num_attention_heads"] * dim, config["num_key_value_heads"] * dim
    return {
        p + "q_proj.weight": (2 * query, hidden),
        p + "k_proj.weight": (kv, hidden),
        p + "v_proj.weight": (kv, hidden),
        p + "o_proj.weight": (hidden, query),
        p + "q_norm.weight": (dim,),
        p + "k_norm.weight": (dim,),
    }


def _delta_net(config: Mapping[str, Any], p: str) -> dict[str, tuple[int, ...]]:
    hidden, heads = config["hidden_size"], config["linear_num_value_heads"]
    keys = config["linear_num_key_heads"] * config["linear_key_head_dim"]
    values = heads * config["linear_value_head_dim"]
    return {
        p + "in_proj_qkvz.weight": (2 * keys + 2 * values, hidden),
        p + "in_proj_ba.weight": (2 * heads, hidden),
        p + "conv1d.weight": (2 * keys + values, 1, config["linear_conv_kernel_dim"]),
        p + "A_log": (heads,),
        p + "dt_bias": (heads,),
        p + "norm.weight": (config["linear_value_head_dim"],),
        p + "out_proj.weight": (hidden, values),
    }


def _mlp(p: str, hidden: int, size: int) -> dict[str, tuple[int, ...]]:
    return {
        p + "gate_proj.weight": (size, hidden),
        p + "up_proj.weight": (size, hidden),
        p + "down_proj.weight": (hidden, size),
    }


def random_tensors(config: Mapping[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """Tensors of these shapes, large enough that each matters."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * (0.3 if len(shape) == 1 else shape[-1] ** -0.5)
        for name, shape in shapes(config).items()
    }


def fused(tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> dict[str, Tensor]:
    """The same with all experts of a layer in two tensors, gate rows before up rows."""
    out = {name: tensor for name, tensor in tensors.items() if ".experts." not in name}
    for i in range(config["num_hidden_layers"]):
        p = f"model.layers.{i}.mlp.experts."
        parts = {
            kind: torch.stack([tensors[f"{p}{e}.{kind}_proj.weight"] for e in range(config["num_experts"])])
            for kind in ("gate", "up", "down")
        }
        out[p + "gate_up_proj"] = torch.cat([parts["gate"], parts["up"]], dim=1)
        out[p + "down_proj"] = parts["down"]
    return out


def write(folder: Path, tensors: Mapping[str, Tensor], config: Mapping[str, Any], num_shards: int = 1) -> Path:
    """A model folder; with more than one shard, tensors are dealt out in turn and an index lists them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if num_shards == 1:
        save_file(dict(tensors), folder / "model.safetensors")
        return folder
    weight_map = {}
    for i in range(num_shards):
        file = f"model-{i + 1:05}-of-{num_shards:05}.safetensors"
        names = list(tensors)[i::num_shards]
        save_file({name: tensors[name] for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return folder
