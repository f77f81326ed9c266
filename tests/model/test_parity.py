"""Our model against transformers' and against the equations in fp64, on tiny random checkpoints."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.equations import Equations
from tests.support.forward import Forward
from tests.support.tiny_models import random_model, save

NUM_TOKENS = 150  # more than two chunks of 64, transformers' own
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "partial_rotary_factor": 0.5,
}
CASES: dict[str, dict[str, Any]] = {
    "head ratio 1, one expert": {"linear_num_value_heads": 2, "num_experts_per_tok": 1},
    "head ratio 2, all experts": {"num_experts": 8, "num_experts_per_tok": 8},
    "head ratio 3, six layers": {"linear_num_value_heads": 6, "num_hidden_layers": 6},
    "head ratio 4, tied": {"linear_num_value_heads": 8, "tie_word_embeddings": True},
    "yarn": {"rope_parameters": YARN},
    "weights not normalised, dense layers": {
        "norm_topk_prob": False,
        "mlp_only_layers": [1, 3],
        "num_hidden_layers": 4,
    },
    "other dimensions": {"linear_value_head_dim": 24, "linear_conv_kernel_dim": 3, "partial_rotary_factor": 1.0},
    "one KV head, odd pattern": {
        "num_key_value_heads": 1,
        "num_hidden_layers": 5,
        "layer_types": ["full_attention", "linear_attention", "linear_attention", "full_attention", "linear_attention"],
    },
}
CHUNKS = {"whole": [NUM_TOKENS], "chunked": [7, 64, 1, 63, 15], "step by step": [1] * NUM_TOKENS}


def _error(logits: Tensor, truth: Tensor) -> float:
    return float((logits.double() - truth).square().mean().sqrt())


def _case(overrides: dict[str, Any], dtype: torch.dtype, folder: Path) -> tuple[list[int], Tensor, Tensor, Forward]:
    """Token ids, the truth in fp64, transformers' logits and our model, all from the same weights."""
    model = random_model(seed=1, **copy.deepcopy(overrides)).to(dtype)
    save(model, folder, dtype)
    ids = torch.randint(0, model.config.vocab_size, (NUM_TOKENS,), generator=torch.Generator().manual_seed(2)).tolist()
    with torch.inference_mode():
        theirs = model(torch.tensor([ids])).logits[0]
        truth = Equations(model.state_dict(), model.config).logits(ids)
    return ids, truth, theirs, Forward(folder, dtype, num_slots=2)


@pytest.mark.parametrize("name", CASES)
def test_fp32_error_is_at_most_three_times_transformers(name: str, tmp_path: Path) -> None:
    ids, truth, theirs, ours = _case(CASES[name], torch.float32, tmp_path)
    limit = 3 * _error(theirs, truth)
    assert 0 < limit < 0.01 * float(truth.abs().max())
    for chunks in CHUNKS.values():
        assert _error(ours.logits(ids, chunks), truth) <= limit


@pytest.mark.parametrize("name", CASES)
def test_bf16_error_is_at_most_one_and_a_half_times_transformers(name: str, tmp_path: Path) -> None:
    ids, truth, theirs, ours = _case(CASES[name], torch.bfloat16, tmp_path)
    limit = 1.5 * _error(theirs, truth)
    for chunks in CHUNKS.values():
        assert _error(ours.logits(ids, chunks), truth) <= limit
