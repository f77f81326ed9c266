"""Tiny random qwen3_next checkpoints in hub layout, made with transformers' own model class."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3NextConfig, Qwen3NextForCausalLM

BASE: dict[str, Any] = {
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "num_experts": 16,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 24,
    "shared_expert_intermediate_size": 32,
    "rope_theta": 5e6,
    "partial_rotary_factor": 0.25,
    "max_position_embeddings": 4096,
    "norm_topk_prob": True,
    "eos_token_id": 1,
}


def random_model(seed: int = 0, **overrides: Any) -> Qwen3NextForCausalLM:
    """A model whose weights are large enough that every part matters, in fp32."""
    torch.manual_seed(seed)
    model = Qwen3NextForCausalLM(Qwen3NextConfig(**{**BASE, **overrides})).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("A_log"):
                parameter.uniform_(-1, 2)
            elif name.endswith("dt_bias"):
                parameter.normal_(0, 1)
            elif "linear_attn.norm" in name:
                parameter.normal_(1, 0.3)
            elif parameter.dim() == 1:
                parameter.normal_(0, 0.3)
            elif "conv1d" in name:
                parameter.normal_(0, 0.5)
            else:
                parameter.normal_(0, parameter.shape[-1] ** -0.5)
    return model


def save(model: Qwen3NextForCausalLM, folder: Path, dtype: torch.dtype = torch.float32) -> Path:
    """Write the model as transformers does: per-expert names, nested rope fields."""
    model.to(dtype).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config["dtype"] = str(dtype).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config))
    return folder
