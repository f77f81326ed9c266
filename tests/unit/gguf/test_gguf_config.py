"""Metadata to configuration: the same as from the model's folder, whatever the converter left out or wrote by layer."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType as Type

from engine.errors import LoadError
from engine.model.config import ModelConfig, YarnConfig, parse_model_config
from engine.model.gguf_config import gguf_end_tokens, gguf_model_config, read_gguf_metadata
from engine.weights.gguf_file import read_gguf
from tests.support.checkpoints import CONFIG
from tests.support.gguf_files import metadata, write
from tests.support.refusals import refused

REAL: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "model" / "data" / "qwen3_coder_next_config.json").read_text()
)
TOKENS = {"tokenizer.ggml.tokens": ["a", "<|im_end|>", "<|endoftext|>"], "tokenizer.ggml.eos_token_id": 1}
Q = "qwen3next."


def _read(
    folder: Path,
    changes: dict[str, Any] | None = None,
    without: tuple[str, ...] = (),
    config: dict[str, Any] = CONFIG,
    tensors: tuple[str, ...] = ("token_embd.weight", "output.weight"),
) -> ModelConfig:
    keys = {k: v for k, v in (metadata(config) | TOKENS | (changes or {})).items() if k not in without}
    values = np.zeros((config["vocab_size"], 1), dtype=np.float32)
    arch = keys.pop("general.architecture", "qwen3next")
    write(folder / "m.gguf", dict.fromkeys(tensors, values), keys, lambda name: Type.F32, arch=arch)
    return gguf_model_config(read_gguf(folder / "m.gguf"))


def test_the_real_model(tmp_path: Path) -> None:
    expected = parse_model_config(REAL, {"eos_token_id": [1, 2]})
    assert _read(tmp_path, config=REAL) == expected


@pytest.mark.parametrize(
    ("changes", "without"),
    [
        ({}, (Q + "full_attention_interval",)),  # files of early 2026
        ({Q + "attention.recurrent_layers": [True, True, True, False] * 12}, (Q + "full_attention_interval",)),
        ({Q + "attention.recurrent_layers": [True, True, True, False] * 12, Q + "full_attention_interval": 2}, ()),
        ({Q + "attention.head_count_kv": [0, 0, 0, 2] * 12}, (Q + "full_attention_interval",)),
        ({Q + "attention.head_count_kv": [2] * 48, Q + "feed_forward_length": [5120] * 48}, ()),
        ({Q + "block_count": 49, Q + "nextn_predict_layers": 1}, ()),
        (
            {
                Q + "block_count": 49,
                Q + "nextn_predict_layers": 1,
                Q + "attention.recurrent_layers": [True, True, True, False] * 12 + [False],
            },
            (),
        ),
        ({}, (Q + "expert_shared_feed_forward_length",)),
        ({Q + "rope.scaling.type": "none"}, ("general.type",)),
    ],
)
def test_spellings_of_the_same(tmp_path: Path, changes: dict[str, Any], without: tuple[str, ...]) -> None:
    assert _read(tmp_path, changes, without, REAL) == parse_model_config(REAL, {"eos_token_id": [1, 2]})


def test_layers_by_number_of_their_kv_heads(tmp_path: Path) -> None:
    config = _read(tmp_path, {Q + "attention.head_count_kv": [2, 0, 0, 2]})
    assert [kind == "full_attention" for kind in config.layer_types] == [True, False, False, True]
    assert config.num_key_value_heads == 2


def test_yarn(tmp_path: Path) -> None:
    yarn = {
        Q + "rope.scaling.type": "yarn",
        Q + "rope.scaling.factor": 4.0,
        Q + "rope.scaling.original_context_length": 128,
    }
    assert _read(tmp_path, yarn).rope.yarn == YarnConfig(4.0, 128)
    betas = {Q + "rope.scaling.yarn_beta_fast": 16.0, Q + "rope.scaling.yarn_beta_slow": 2.0}
    config = _read(tmp_path, yarn | betas | {Q + "rope.scaling.attn_factor": 1.0})
    assert config.rope.yarn == YarnConfig(4.0, 128, beta_fast=16.0, beta_slow=2.0)
    with pytest.raises(LoadError, match=r"rope\.scaling\.attn_factor is 0\.5; deltaloop serves models with 1 only"):
        _read(tmp_path, yarn | {Q + "rope.scaling.attn_factor": 0.5})


def test_every_rotary_size_survives(tmp_path: Path) -> None:
    """As a share of the head's it would be rounded: 30 of 44 came out as 29."""
    config = CONFIG | {"head_dim": 44, "partial_rotary_factor": 30 / 44 + 1e-9}
    assert _read(tmp_path, config=config).rope.rotary_dim == 30


def test_a_missing_head_is_the_embedding(tmp_path: Path) -> None:
    assert _read(tmp_path, tensors=("token_embd.weight",)).tie_word_embeddings
    assert not _read(tmp_path).tie_word_embeddings


def test_dense_layers_are_those_with_a_plain_mlp(tmp_path: Path) -> None:
    assert _read(tmp_path, tensors=("token_embd.weight", "blk.2.ffn_up.weight")).dense_layers == {2}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (TOKENS, (1, 2)),
        (TOKENS | {"tokenizer.ggml.eos_token_id": 2}, (2,)),
        (TOKENS | {"tokenizer.ggml.eot_token_id": 0}, (1, 0, 2)),
        ({"tokenizer.ggml.eos_token_id": 7}, (7,)),
        ({}, ()),
    ],
)
def test_end_tokens(tmp_path: Path, keys: dict[str, Any], expected: tuple[int, ...]) -> None:
    write(tmp_path / "m.gguf", {}, keys)
    assert gguf_end_tokens(read_gguf_metadata(tmp_path / "m.gguf")) == expected


REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "another architecture": (
        {"general.architecture": "qwen35moe"},
        (),
        "of architecture 'qwen35moe'; deltaloop serves 'qwen3next', that is Qwen3-Coder-Next and Qwen3-Next: point it",
    ),
    "an adapter": ({"general.type": "adapter"}, (), "holds no model, its type is 'adapter'"),
    "no layers": ({Q + "nextn_predict_layers": 4}, (), "has 0 layers of 4 blocks"),
    "fewer than no layers": ({Q + "nextn_predict_layers": -1}, (), "has 5 layers of 4 blocks"),
    "endless layers": ({Q + "block_count": 2**32 - 1}, (), "qwen3next.block_count should be a number from 1 to 1024"),
    "endless size": (
        {Q + "ssm.state_size": 2**31},
        (),
        "qwen3next.ssm.state_size should be a number from 1 to 1048576",
    ),
    "a number is not finite": ({Q + "rope.freq_base": float("inf")}, (), "qwen3next.rope.freq_base is inf, but must"),
    "a key is missing": ({}, (Q + "ssm.state_size",), "lacks the key qwen3next.ssm.state_size"),
    "a number is missing": ({}, (Q + "rope.freq_base",), "lacks the key qwen3next.rope.freq_base"),
    "a number is text": ({Q + "rope.freq_base": "x"}, (), "qwen3next.rope.freq_base should be a number"),
    "zero": ({Q + "expert_count": 0}, (), "qwen3next.expert_count should be a number from 1 to"),
    "negative": ({Q + "expert_count": -3}, (), "qwen3next.expert_count should be a number from 1 to"),
    "differs by layer": (
        {Q + "feed_forward_length": [1, 2, 1, 2]},
        (),
        "qwen3next.feed_forward_length should be a number from 1 to",
    ),
    "too short a list": ({Q + "attention.recurrent_layers": [True]}, (), "layer_types should list 4 times"),
    "values unlike keys": ({Q + "attention.value_length": 4}, (), "should be the same"),
    "other heads": ({Q + "ssm.time_step_rank": 3}, (), "linear_num_value_heads should be a multiple of"),
    "other rope": (
        {Q + "rope.scaling.type": "linear", Q + "rope.scaling.factor": 2.0},
        (),
        "rope scaling of type 'linear' is not served",
    ),
    "an end token outside": ({"tokenizer.ggml.eos_token_id": 50}, (), "eos_token_id 50 is outside the vocabulary"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, tmp_path: Path) -> None:
    changes, without, message = REFUSED[name]
    with refused(tmp_path / "m.gguf", re.escape(message)):
        _read(tmp_path, changes, without)


def test_a_file_without_an_embedding(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match=r"lacks token_embd\.weight"):
        _read(tmp_path, tensors=("output.weight",))
