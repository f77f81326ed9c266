"""A checkpoint of ours in hub layout as a GGUF file in bf16, read and written one tensor at a time.

    python -m benchmarks.slice_to_gguf CHECKPOINT OUT.gguf

Names and changes are those of llama.cpp's converter: norms become factors (one more than the hub's weight), decays
become rates, experts are stacked, and q, k, v and z of a DeltaNet are regrouped from heads to kinds.
"""

import argparse
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor

BF16 = gguf.GGMLQuantizationType.BF16
FILL_IN_THE_MIDDLE = {
    f"<|{n}|>" for n in ("fim_prefix", "fim_middle", "fim_suffix", "fim_pad", "repo_name", "file_sep")
}
ATTENTION = {"attn_q": "q_proj", "attn_k": "k_proj", "attn_v": "v_proj", "attn_output": "o_proj"}

Read = Callable[[str], Tensor]  # a tensor of the checkpoint by its name


def convert(folder: Path, out: Path) -> None:
    """Write the checkpoint in `folder` to the file `out`."""
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(out, "qwen3next")
    _add_keys(writer, config)
    _add_vocabulary(writer, folder, config["vocab_size"])
    with ExitStack() as stack:
        handles = [stack.enter_context(safe_open(path, "pt")) for path in sorted(folder.glob("*.safetensors"))]
        where = {name: handle for handle in handles for name in handle.keys()}  # noqa: SIM118 (no mapping)

        def shape_only(name: str) -> Tensor:
            return torch.empty(where[name].get_slice(name).get_shape(), dtype=torch.bfloat16, device="meta")

        def values(name: str) -> Tensor:
            tensor: Tensor = where[name].get_tensor(name)
            return tensor

        for name, tensor in gguf_tensors(config, where.keys(), shape_only):
            _add_info(writer, name, tensor)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for _, tensor in gguf_tensors(config, where.keys(), values):
            writer.write_tensor_data(_as_stored(tensor))
    writer.close()


def gguf_tensors(config: dict[str, Any], names: Collection[str], read: Read) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the file under its GGUF name, in bf16 or fp32 as it is to be stored.

    `names` are those of the checkpoint. Values are taken from `read` as they are needed; tensors on the meta device
    will do where only shapes matter.
    """
    yield "token_embd.weight", read("model.embed_tokens.weight")
    if not config.get("tie_word_embeddings"):
        yield "output.weight", read("lm_head.weight")
    yield "output_norm.weight", _factor(read("model.norm.weight"))
    for layer in range(config["num_hidden_layers"]):
        source, target = f"model.layers.{layer}.", f"blk.{layer}."
        yield target + "attn_norm.weight", _factor(read(source + "input_layernorm.weight"))
        yield target + "post_attention_norm.weight", _factor(read(source + "post_attention_layernorm.weight"))
        is_attention = source + "self_attn.q_proj.weight" in names
        mixer = _attention(source, read) if is_attention else _delta_net(source, config, read)
        for name, tensor in (*mixer, *_experts(source, config["num_experts"], read)):
            yield target + name, tensor


def _attention(source: str, read: Read) -> Iterator[tuple[str, Tensor]]:
    for ours, theirs in ATTENTION.items():
        yield f"{ours}.weight", read(f"{source}self_attn.{theirs}.weight")
    for which in ("q_norm", "k_norm"):
        yield f"attn_{which}.weight", _factor(read(f"{source}self_attn.{which}.weight"))


def _delta_net(source: str, config: dict[str, Any], read: Read) -> Iterator[tuple[str, Tensor]]:
    source += "linear_attn."
    qkv, gate = _by_kind(read(source + "in_proj_qkvz.weight"), config)
    yield "attn_qkv.weight", qkv
    yield "attn_gate.weight", gate
    yield "ssm_ba.weight", read(source + "in_proj_ba.weight")
    yield "ssm_conv1d.weight", read(source + "conv1d.weight").squeeze(1).float()
    yield "ssm_dt.bias", read(source + "dt_bias").float()
    yield "ssm_a", -torch.exp(read(source + "A_log").float())
    yield "ssm_norm.weight", read(source + "norm.weight").float()
    yield "ssm_out.weight", read(source + "out_proj.weight")


def _by_kind(weight: Tensor, config: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Rows [q | k | v | z of each key head] as [all q | all k | all v] and [all z]."""
    heads = config["linear_num_key_heads"]
    key, value = config["linear_key_head_dim"], config["linear_value_head_dim"]
    value *= config["linear_num_value_heads"] // heads
    q, k, v, z = (part.flatten(0, 1) for part in weight.unflatten(0, (heads, -1)).split([key, key, value, value], 1))
    return torch.cat([q, k, v]), z


def _experts(source: str, num_experts: int, read: Read) -> Iterator[tuple[str, Tensor]]:
    source += "mlp."
    yield "ffn_gate_inp.weight", read(source + "gate.weight").float()
    yield "ffn_gate_inp_shexp.weight", read(source + "shared_expert_gate.weight").squeeze(0).float()
    for which in ("gate", "up", "down"):
        yield f"ffn_{which}_shexp.weight", read(f"{source}shared_expert.{which}_proj.weight")
        stacked = [read(f"{source}experts.{expert}.{which}_proj.weight") for expert in range(num_experts)]
        yield f"ffn_{which}_exps.weight", torch.stack(stacked)


def _factor(weight: Tensor) -> Tensor:
    """What a zero-centred norm multiplies by."""
    return weight.float() + 1


def _add_info(writer: gguf.GGUFWriter, name: str, tensor: Tensor) -> None:
    if tensor.dtype == torch.float32:
        writer.add_tensor_info(name, tensor.shape, np.dtype(np.float32), tensor.nbytes)
    else:
        row_bytes = tensor.shape[-1] * tensor.itemsize
        writer.add_tensor_info(name, (*tensor.shape[:-1], row_bytes), np.dtype(np.uint8), tensor.nbytes, BF16)


def _as_stored(tensor: Tensor) -> NDArray[Any]:
    plain: NDArray[Any] = tensor.contiguous().view(torch.uint8).numpy()
    return plain


def _add_keys(writer: gguf.GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    rope = config.get("rope_parameters") or config
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    writer.add_rope_dimension_count(int(config["head_dim"] * rope["partial_rotary_factor"]))
    writer.add_expert_count(config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    writer.add_expert_shared_feed_forward_length(config["shared_expert_intermediate_size"])
    writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
    writer.add_ssm_state_size(config["linear_key_head_dim"])
    writer.add_ssm_group_count(config["linear_num_key_heads"])
    writer.add_ssm_time_step_rank(config["linear_num_value_heads"])
    writer.add_ssm_inner_size(config["linear_value_head_dim"] * config["linear_num_value_heads"])
    writer.add_uint32("qwen3next.full_attention_interval", config["full_attention_interval"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_vocabulary(writer: gguf.GGUFWriter, folder: Path, size: int) -> None:
    """The tokenizer and its template. Rows of the embedding without a token are called [PADn]."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    tokens, types = [f"[PAD{i}]" for i in range(size)], [gguf.TokenType.UNUSED] * size
    for text, i in tokenizer["model"]["vocab"].items():
        tokens[i], types[i] = text, gguf.TokenType.NORMAL
    for added in tokenizer["added_tokens"]:
        is_control = added["special"] or added["content"] in FILL_IN_THE_MIDDLE
        tokens[added["id"]] = added["content"]
        types[added["id"]] = gguf.TokenType.CONTROL if is_control else gguf.TokenType.USER_DEFINED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(tokens.index(settings["eos_token"]))
    writer.add_pad_token_id(tokens.index(settings["pad_token"]))
    writer.add_add_bos_token(False)
    writer.add_chat_template(settings["chat_template"])


def main() -> None:
    """Convert one checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    convert(args.checkpoint, args.out)


if __name__ == "__main__":
    main()
