"""Writes a checkpoint as a model folder: safetensors under the hub's names, config.json and the tokenizer's files.

The folder's chat template and model card are written by hand and left alone.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from .model import NanoConfig
from .tokenizer import END, END_OF_TURN, token_id, tokenizer_config


def hub_tensors(state: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The training module's tensors under the names and shapes of a published checkpoint."""
    for name, tensor in state.items():
        layer, _, last = name.rpartition(".")
        if name.endswith("mlp.gate_up"):
            for part, label in enumerate(("gate_proj", "up_proj")):
                for expert, matrix in enumerate(tensor[part]):
                    yield f"model.{layer}.experts.{expert}.{label}.weight", matrix
        elif name.endswith("mlp.down"):
            for expert, matrix in enumerate(tensor):
                yield f"model.{layer}.experts.{expert}.down_proj.weight", matrix
        elif name.endswith("shared_gate_up.weight"):
            gate, up = tensor.chunk(2)
            base = name.removesuffix("shared_gate_up.weight")
            yield f"model.{base}shared_expert.gate_proj.weight", gate
            yield f"model.{base}shared_expert.up_proj.weight", up
        elif name.endswith("shared_down.weight"):
            yield f"model.{name.replace('shared_down', 'shared_expert.down_proj')}", tensor
        elif last == "conv1d":
            yield f"model.{name}.weight", tensor.t()[:, None, :]
        else:
            yield name if name.startswith("lm_head") else f"model.{name}", tensor


def hub_config(config: NanoConfig, tokenizer: Tokenizer) -> dict[str, object]:
    """The contents of config.json, flat as the hub has it."""
    return {
        "architectures": ["Qwen3NextForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": token_id(tokenizer, END),
        "decoder_sparse_step": 1,
        "eos_token_id": token_id(tokenizer, END_OF_TURN),
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "intermediate_size": 2 * config.hidden_size,
        "max_position_embeddings": 131072,
        "mlp_only_layers": [],
        "model_type": "qwen3_next",
        "norm_topk_prob": True,
        "output_router_logits": False,
        "rope_scaling": None,
        "router_aux_loss_coef": 0.001,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "use_sliding_window": False,
        **config.as_dict(),
    }


def generation_config(tokenizer: Tokenizer) -> dict[str, object]:
    """The contents of generation_config.json: cooler than the large model's, since a small one strays sooner."""
    return {
        "do_sample": True,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 20,
        "eos_token_id": [token_id(tokenizer, END_OF_TURN), token_id(tokenizer, END)],
        "pad_token_id": token_id(tokenizer, END),
    }


def export(checkpoint: Path, tokenizer_file: Path, out: Path) -> None:
    """Write the model folder."""
    state = torch.load(checkpoint)
    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tensors = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in hub_tensors(state["average"])}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(tokenizer_file, out / "tokenizer.json")
    for name, content in (
        ("config.json", hub_config(NanoConfig(**state["config"]), tokenizer)),
        ("generation_config.json", generation_config(tokenizer)),
        ("tokenizer_config.json", tokenizer_config(tokenizer)),
    ):
        (out / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", "utf-8")
    count = sum(tensor.numel() for tensor in tensors.values())
    print(f"{count:,} parameters in {len(tensors)} tensors after {state['step']} steps and {state['tokens']:,} tokens")


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description="Write a checkpoint as a model folder.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    export(arguments.checkpoint, arguments.tokenizer, arguments.out)


if __name__ == "__main__":
    main()
