"""config.json in every spelling, the real model's numbers, and what is refused."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.errors import LoadError
from engine.kernels.table import reference_kernels
from engine.layers.rope import Rope
from engine.model.config import ModelConfig, RopeConfig, YarnConfig, parse_model_config, read_model_config
from engine.model.qwen3_next import Qwen3Next
from engine.quant.matrix import total_bytes
from engine.weights.conversion import Conversion
from engine.weights.hub import HubWeights
from engine.weights.safetensors import StoredTensor
from tests.support.checkpoints import CONFIG, shapes

REAL: dict[str, Any] = json.loads((Path(__file__).parent / "data/qwen3_coder_next_config.json").read_text())
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 262_144}


def _parse(changes: dict[str, Any] | None = None, without: tuple[str, ...] = ()) -> ModelConfig:
    raw = CONFIG | (changes or {})
    return parse_model_config({k: v for k, v in raw.items() if k not in without}, {})


def test_the_real_model() -> None:
    config = parse_model_config(REAL, {"eos_token_id": [151645, 151643]})
    assert config.num_layers == 48
    full = [i for i, kind in enumerate(config.layer_types) if kind == "full_attention"]
    assert full == [3, 7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 47]
    assert (config.num_full_attention_layers, config.num_linear_attention_layers) == (12, 36)
    assert config.rope == RopeConfig(theta=5e6, rotary_dim=64, yarn=None)
    assert config.eos_token_ids == (151645, 151643)
    assert (config.dtype, config.conv_dim, config.dense_layers) == ("bfloat16", 8192, frozenset())
    assert (config.num_experts, config.num_experts_per_tok, config.norm_topk_prob) == (512, 10, True)
    assert config.kv_bytes_per_token(2) == 24_576
    assert config.state_bytes == 72 * 2**20 + 884_736 * 4 == 79_036_416


def test_the_real_models_parameters() -> None:
    """Loaded without memory: it takes 74,391 tensors, all of them, and as many parameters as were published."""
    meta = torch.device("meta")
    tensors = [
        StoredTensor(name, "BF16", shape, torch.empty(shape, dtype=torch.bfloat16, device=meta))
        for name, shape in shapes(REAL).items()
    ]
    assert len(tensors) == 74_391
    assert sum(t.data.numel() for t in tensors) == 79_674_391_296
    config = parse_model_config(REAL, {})
    source = HubWeights(config, tensors, Path("the real model"), Conversion(torch.bfloat16, meta))
    model = Qwen3Next.load(config, source, reference_kernels())
    matrices = sum(len(matrix.parts) * matrix.rows * matrix.columns for matrix in model.matrices)
    small = sum(t.data.numel() for t in tensors if t.data.dim() != 2 or "shared_expert_gate" in t.name)
    assert matrices + small == config.num_parameters == 79_674_391_296
    assert total_bytes(model.matrices) == 2 * matrices


def test_parameters_are_counted() -> None:
    sizes = {name: math.prod(shape) for name, shape in shapes(CONFIG).items()}
    assert _parse().num_parameters == sum(sizes.values())
    assert _parse({"tie_word_embeddings": True}).num_parameters == sum(sizes.values()) - sizes["lm_head.weight"]
    experts = sum(size for name, size in sizes.items() if name.startswith("model.layers.1.mlp."))
    dense = _parse({"mlp_only_layers": [1], "intermediate_size": 24})
    assert dense.num_parameters == sum(sizes.values()) - experts + 3 * 16 * 24


def test_flat_and_nested_fields_mean_the_same() -> None:
    nested = {
        "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "partial_rotary_factor": 0.25},
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "dtype": "float32",
    }
    flat_only = ("rope_theta", "partial_rotary_factor", "full_attention_interval", "torch_dtype")
    assert _parse(nested, without=flat_only) == _parse({"rope_scaling": None})


def test_yarn_in_both_spellings() -> None:
    nested = _parse({"rope_parameters": YARN | {"rope_theta": 5e6, "partial_rotary_factor": 0.25}}, ("rope_theta",))
    old = {k: v for k, v in YARN.items() if k != "rope_type"} | {"type": "yarn"}
    assert nested == _parse({"rope_scaling": YARN}) == _parse({"rope_scaling": old})
    assert nested.rope.yarn == YarnConfig(factor=4.0, original_max_position_embeddings=262_144)
    assert _parse().rope == replace(nested.rope, yarn=None)


def test_yarn_takes_the_models_own_context_unless_told() -> None:
    config = _parse({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}})
    assert config.rope.yarn == YarnConfig(factor=2.0, original_max_position_embeddings=256)


def test_yarn_keeps_fast_frequencies_and_stretches_slow_ones() -> None:
    plain = Rope.of(RopeConfig(5e6, 64), torch.device("cpu"))
    yarn = Rope.of(RopeConfig(5e6, 64, YarnConfig(4.0, 262_144)), torch.device("cpu"))
    ratio = plain.inverse_frequencies / yarn.inverse_frequencies
    assert ratio[0] == 1.0
    assert ratio[-1] == 4.0
    assert (ratio[1:] >= ratio[:-1] - 1e-6).all()
    assert (plain.factor, yarn.factor) == (1.0, pytest.approx(1.1386294))


def test_end_tokens() -> None:
    def ends(config_value: object, *generation: object) -> tuple[int, ...]:
        given = {"eos_token_id": generation[0]} if generation else {}
        return parse_model_config(CONFIG | {"eos_token_id": config_value}, given).eos_token_ids

    assert ends(7) == (7,)
    assert ends([7, 8]) == (7, 8)
    assert ends(None) == ()
    assert ends(7, [3, 4]) == (3, 4)  # generation_config.json knows better
    assert ends(7, None) == (7,)


def test_dense_layers() -> None:
    assert _parse({"mlp_only_layers": [1, 3]}).dense_layers == {1, 3}
    assert _parse({"decoder_sparse_step": 2}).dense_layers == {0, 2}


@pytest.mark.parametrize("method", ["fp8", "gptq", "awq", "compressed-tensors"])
def test_quantised_weights_that_are_served(method: str) -> None:
    assert _parse({"quantization_config": {"quant_method": method}}) == _parse()


def test_gptq_comes_with_two_kinds_of_zero_points() -> None:
    def offset(**fields: object) -> int:
        return _parse({"quantization_config": {"quant_method": "gptq", "bits": 4} | fields}).gptq_zero_offset

    assert (offset(), offset(checkpoint_format="gptq"), offset(checkpoint_format="gptq_v2")) == (1, 1, 0)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": (
        {"architectures": ["LlamaForCausalLM"], "model_type": "llama"},
        r"this is LlamaForCausalLM \(model_type 'llama'\); deltaloop serves Qwen3NextForCausalLM",
    ),
    "quantised": (
        {"quantization_config": {"quant_method": "bitsandbytes"}},
        r"the weights are quantised \(bitsandbytes\); deltaloop serves",
    ),
    "quantised by nobody": ({"quantization_config": {"bits": 4}}, r"the weights are quantised \(unknown\); deltaloop"),
    "quantised to eight bits": (
        {"quantization_config": {"quant_method": "gptq", "bits": 8}},
        r"the weights are quantised \(gptq\) to 8 bits; deltaloop serves 4 bits",
    ),
    "another awq": (
        {"quantization_config": {"quant_method": "awq", "bits": 4, "version": "GEMV"}},
        r"the weights are quantised \(awq\) in version gemv; deltaloop serves version gemm",
    ),
    "another gptq": (
        {"quantization_config": {"quant_method": "gptq", "bits": 4, "checkpoint_format": "marlin"}},
        r"checkpoint_format is 'marlin'; deltaloop serves gptq, gptq_v2",
    ),
    "quantised somehow": ({"quantization_config": "int4"}, r"quantization_config should be an object"),
    "attention bias": ({"attention_bias": True}, r"attention_bias is True"),
    "sliding window": ({"use_sliding_window": True}, r"use_sliding_window is True"),
    "activation": ({"hidden_act": "gelu"}, r"hidden_act is 'gelu'"),
    "zero": ({"hidden_size": 0}, r"hidden_size should be a positive integer, found 0"),
    "fraction": ({"num_experts": 2.5}, r"num_experts should be a positive integer, found 2\.5"),
    "infinite": ({"vocab_size": float("inf")}, r"vocab_size should be a .*number, found inf"),
    "text": ({"vocab_size": "many"}, r"vocab_size should be a .*number, found 'many'"),
    "truth value": ({"head_dim": True}, r"head_dim should be a .*number, found True"),
    "layer types of another length": ({"layer_types": ["full_attention"]}, r"layer_types should list 4 times"),
    "unknown layer type": ({"layer_types": ["mamba"] * 4}, r"layer_types should list 4 times"),
    "layer types no list": ({"layer_types": 4}, r"layer_types should list 4 times"),
    "one kind of layer": ({"layer_types": ["full_attention"] * 4}, r"should have both"),
    "heads": ({"num_key_value_heads": 3}, r"num_attention_heads should be a multiple of num_key_value_heads"),
    "linear heads": ({"linear_num_key_heads": 3}, r"linear_num_value_heads should be a multiple"),
    "too few experts": ({"num_experts_per_tok": 4}, r"num_experts_per_tok is larger than num_experts"),
    "kernel": ({"linear_conv_kernel_dim": 1}, r"linear_conv_kernel_dim should be at least 2"),
    "odd rotation": ({"partial_rotary_factor": 0.375}, r"leaves 3 rotated dimensions"),
    "no rotation": ({"partial_rotary_factor": 0}, r"leaves 0 rotated dimensions"),
    "more rotation than there is": ({"partial_rotary_factor": 1.5}, r"leaves 12 rotated dimensions"),
    "another rope": ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, r"type 'llama3' is not served"),
    "rope no object": ({"rope_scaling": 3}, r"rope_scaling should be an object, found 3"),
    "yarn without factor": ({"rope_scaling": {"rope_type": "yarn"}}, r"factor should be a .*number, found None"),
    "yarn in words": ({"rope_scaling": YARN | {"beta_fast": "x"}}, r"beta_fast should be a .*number, found 'x'"),
    "end token outside the vocabulary": ({"eos_token_id": 50}, r"eos_token_id 50 is outside the vocabulary"),
    "end token in words": ({"eos_token_id": "</s>"}, r"eos_token_id should be a token id"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_served_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    changes, message = REFUSED[name]
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | changes))
    with pytest.raises(LoadError, match=message) as caught:
        read_model_config(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'config.json'}: ")


REQUIRED = sorted(
    set(CONFIG)
    - {"architectures", "model_type", "full_attention_interval", "partial_rotary_factor"}
    - {"tie_word_embeddings", "eos_token_id", "torch_dtype"}
)


@pytest.mark.parametrize("field", REQUIRED)
def test_a_field_that_is_missing_is_named(field: str) -> None:
    with pytest.raises(LoadError, match=rf"^{field} should be a .*number, found None$"):
        _parse(without=(field,))


@pytest.mark.parametrize("text", ["", "{", "[1]", "nothing", "\ud800"])
def test_a_file_that_is_no_json_object(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(LoadError, match=r"config\.json (cannot be read|should hold a JSON object)") as caught:
        read_model_config(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_broken_generation_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(LoadError, match=r"generation_config\.json cannot be read"):
        read_model_config(tmp_path)


def test_a_folder_that_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "file.gguf").write_text("GGUF")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file.gguf"):
        with pytest.raises(LoadError, match=r"give a folder with a model in Hugging Face layout$"):
            read_model_config(path)
