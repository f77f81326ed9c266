"""Quantised hub checkpoints of every kind compute what their dequantised twins do; and quantising while loading."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.config import Quantization
from engine.loading import load_model
from engine.model.qwen3_next import Qwen3Next
from engine.quant.formats import BF16, int4_format
from engine.quant.matrix import Matrix
from engine.weights.checkpoint import open_checkpoint
from engine.weights.conversion import Conversion, Role
from tests.support.checkpoints import CONFIG, fused, random_tensors, write
from tests.support.forward import Forward
from tests.support.quantised import CONFIG_32, KINDS, Quantiser, fp8_blocks, fp8_channels, gptq, quantised
from tests.support.refusals import refused


@pytest.fixture(autouse=True)
def plain_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The references compute with exactly the dequantised values; the compiled kernels round inputs by format."""
    monkeypatch.setenv("DELTALOOP_KERNELS", "reference")


CPU = torch.device("cpu")
TENSORS = random_tensors(CONFIG_32)
IDS = [3, 14, 15, 9, 26, 5, 35, 8, 9]
AS_STORED = torch.float16  # with it nothing dense is converted: what is there in bf16 or fp32 stays so


def _load(folder: Path, quantization: Quantization = "none", dtype: torch.dtype = torch.bfloat16) -> Qwen3Next:
    return load_model(open_checkpoint(folder), dtype, CPU, quantization)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_as_its_dequantised_twin(kind: str, tmp_path: Path) -> None:
    quantise, fields = KINDS[kind]
    stored, twin = quantised(TENSORS, quantise)
    ours = Forward(write(tmp_path / "quantised", stored, CONFIG_32 | {"quantization_config": fields}), AS_STORED)
    theirs = Forward(write(tmp_path / "dense", twin, CONFIG_32), AS_STORED)
    for mine, other in zip(ours.model.matrices, theirs.model.matrices, strict=True):
        assert len(mine.parts) == len(other.parts)
        assert all(torch.equal(mine.dense(i).float(), other.dense(i).float()) for i in range(len(other.parts)))
    assert ours.model.layers[1].mixer.out.format != theirs.model.layers[1].mixer.out.format
    assert torch.equal(ours.logits(IDS, [len(IDS)]), theirs.logits(IDS, [len(IDS)]))


def test_what_is_packed_while_loading() -> None:
    """What is made, where it is made; nothing that is mapped, and no embedding, whose rows are read one by one."""
    conversion = Conversion(torch.bfloat16, CPU, pack=lambda matrix: replace(matrix, packed=True))
    format = int4_format(32)
    stack = Matrix(format, 16, 64, (torch.zeros(16, format.row_bytes(64), dtype=torch.uint8),))
    assert conversion.matrix(stack, Role.OTHER, is_mapped=False).packed
    assert not conversion.matrix(stack, Role.OTHER, is_mapped=True).packed
    assert not conversion.matrix(stack, Role.EMBEDDING, is_mapped=False).packed


def test_fp8_stays_mapped_and_its_scales_are_wide(tmp_path: Path) -> None:
    stored, _ = quantised(TENSORS, fp8_blocks)
    model = _load(write(tmp_path, stored, CONFIG_32 | {"quantization_config": {"quant_method": "fp8"}}))
    query = model.layers[1].mixer.projections[0]
    assert query.format.name == "FP8_E4M3"
    assert query.scales is not None
    assert (query.scales.rows, query.scales.columns) == (128, 128)
    assert query.scales.parts[0].dtype == torch.float32
    assert query.scales.parts[0].shape == (2, 2)  # 256 × 192
    assert model.lm_head.format == BF16


def _mixed(stored: dict[str, Tensor], name: str, other: Quantiser) -> None:
    for left in [key for key in stored if key.startswith(f"{name}.")]:
        del stored[left]
    stored |= other(name, TENSORS[f"{name}.weight"])[0]


EXPERT = "model.layers.2.mlp.experts.1.up_proj"
OUT = "model.layers.0.linear_attn.out_proj"


def _without_scales(stored: dict[str, Tensor]) -> None:
    del stored[f"{OUT}.weight_scale_inv"]


def _odd_scales(stored: dict[str, Tensor]) -> None:
    stored[f"{OUT}.weight_scale_inv"] = torch.ones(3, 1)


def _one_expert_dense(stored: dict[str, Tensor]) -> None:
    _mixed(stored, EXPERT, lambda name, values: ({f"{name}.weight": values.bfloat16()}, values))


def _one_expert_otherwise(stored: dict[str, Tensor]) -> None:
    _mixed(stored, EXPERT, fp8_channels)


def _activation_order(stored: dict[str, Tensor]) -> None:
    _mixed(stored, OUT, gptq)
    stored[f"{OUT}.g_idx"] = stored[f"{OUT}.g_idx"].flip(0)


def _packed_otherwise(stored: dict[str, Tensor]) -> None:
    _mixed(stored, OUT, gptq)
    stored[f"{OUT}.qweight"] = torch.zeros(7, 192, dtype=torch.int32)


def _without_zeros(stored: dict[str, Tensor]) -> None:
    _mixed(stored, OUT, gptq)
    del stored[f"{OUT}.qzeros"]


def _left_over(stored: dict[str, Tensor]) -> None:
    stored[f"{OUT}.weight_zero_point"] = torch.zeros(1)


BROKEN: dict[str, tuple[Callable[[dict[str, Tensor]], None], str]] = {
    "no scales": (_without_scales, r"lacks model\.layers\.0\.linear_attn\.out_proj\.weight_scale_inv"),
    "odd scales": (_odd_scales, r"weight_scale_inv has shape \[3, 1\].* asks for .*\[2, 1\]"),
    "one expert dense": (_one_expert_dense, r"experts\.0\.up_proj is stored as FP8_E4M3.*1\.up_proj as BF16; all"),
    "one expert otherwise": (_one_expert_otherwise, r"up_proj as FP8_E4M3 with a scale for 1 × 192 values; all"),
    "activation order": (_activation_order, r"out_proj: its groups .*desc_act"),
    "packed otherwise": (_packed_otherwise, r"qweight has shape \[7, 192\].* asks for \[8, 192\] or \[64, 24\]"),
    "no zero points": (_without_zeros, r"lacks model\.layers\.0\.linear_attn\.out_proj\.qzeros"),
    "left over": (_left_over, r"does not know: model\.layers\.0\.linear_attn\.out_proj\.weight_zero_point"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_does_not_fit_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    break_it, message = BROKEN[name]
    stored, _ = quantised(TENSORS, fp8_blocks)
    break_it(stored)
    with refused(tmp_path, message):
        _load(write(tmp_path, stored, CONFIG_32))


FUSED = "model.layers.2.mlp.experts."


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("gate_up_proj", torch.float8_e4m3fn),
        ("down_proj", torch.float8_e4m3fn),
        ("gate_up_proj_packed", torch.int32),
        ("down_proj.weight_packed", torch.int32),
        ("gate_up_proj_scale_inv", torch.bfloat16),
    ],
)
def test_quantised_experts_in_one_tensor_are_refused_by_name(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """No release of this model has them; those that a tool made so by mistake hold other numbers than they should."""
    stored = fused(TENSORS, CONFIG_32) | {FUSED + name: torch.zeros(3, 64, 64).to(dtype)}
    with refused(
        tmp_path, rf"{FUSED}{name} holds the quantised experts .* in one tensor; .* --quantization int8 or int4$"
    ):
        _load(write(tmp_path, stored, CONFIG_32))


# What each matrix becomes, by the part of its name that tells: (int8, int4).
QUANTISED = {
    "embed_tokens": ("BF16", "BF16"),
    "mlp.gate.": ("BF16", "BF16"),
    "in_proj_ba": ("Q8_0", "BF16"),
    ".experts.": ("Q8_0", "INT4_32"),
    "": ("Q8_0", "Q8_0"),
}


def _names(model: Qwen3Next) -> list[tuple[str, str]]:
    """Every matrix's name in a checkpoint, as far as `QUANTISED` asks, and its format's."""
    out = [("embed_tokens", model.embedding.format.name), ("lm_head", model.lm_head.format.name)]
    for layer in model.layers:
        router, *rest = layer.feed_forward.matrices
        out.append(("mlp.gate.", router.format.name))
        out += [(".experts.", matrix.format.name) for matrix in rest[:3]]
        out += [("shared_expert", matrix.format.name) for matrix in rest[3:]]
        linear = len(layer.mixer.projections) == 2
        names = ("in_proj_qkvz", "in_proj_ba") if linear else ("q_proj", "k_proj", "v_proj")
        out += [(name, m.format.name) for name, m in zip(names, layer.mixer.projections, strict=True)]
        out.append(("out", layer.mixer.out.format.name))
    return out


@pytest.mark.parametrize("experts", ["one each", "fused"])
@pytest.mark.parametrize(("index", "quantization", "limit"), [(0, "int8", 0.02), (1, "int4", 0.2)])
def test_quantising_while_loading(
    index: int, quantization: Quantization, limit: float, experts: str, tmp_path: Path
) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in TENSORS.items()}
    folder = write(tmp_path, tensors if experts == "one each" else fused(tensors, CONFIG_32), CONFIG_32)
    dense, model = _load(folder), _load(folder, quantization)
    for name, format in _names(model):
        assert format == next(formats[index] for part, formats in QUANTISED.items() if part in name), name
    for before, after in zip(dense.matrices, model.matrices, strict=True):
        for i in range(len(before.parts)):
            truth = before.dense(i).float()
            assert (after.dense(i).float() - truth).norm() <= limit * truth.norm()


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_rows_that_are_no_whole_blocks_stay_dense(quantization: Quantization, tmp_path: Path) -> None:
    model = _load(write(tmp_path, random_tensors(CONFIG), CONFIG), quantization)
    for matrix in model.matrices:
        assert (matrix.format.name in ("BF16", "F32")) == (matrix.columns % 32 != 0)


def test_tied_embeddings_stay_dense(tmp_path: Path) -> None:
    model = _load(write(tmp_path, TENSORS, CONFIG_32 | {"tie_word_embeddings": True}), "int8")
    assert model.lm_head is model.embedding
    assert model.lm_head.format == BF16


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_quantised_already_is_not_quantised_again(kind: str, tmp_path: Path) -> None:
    quantise, fields = KINDS[kind]
    stored, _ = quantised(TENSORS, quantise)
    folder = write(tmp_path, stored, CONFIG_32 | {"quantization_config": fields})
    with refused(tmp_path, r"--quantization int4 needs dense weights .*; leave the option out$"):
        _load(folder, "int4")


def test_what_cannot_be_quantised_is_named(tmp_path: Path) -> None:
    tensors: dict[str, Any] = dict(TENSORS)
    tensors["lm_head.weight"] = torch.full((50, 192), float("inf"))
    with refused(tmp_path, ": lm_head: .*finite"):
        _load(write(tmp_path, tensors, CONFIG_32), "int8")
    tensors = TENSORS | {f"{EXPERT}.weight": TENSORS[f"{EXPERT}.weight"] * float("nan")}
    with refused(tmp_path, r"experts\.0\.up_proj or one of those up to .*experts\.2\.up_proj: .*finite"):
        _load(write(tmp_path, tensors, CONFIG_32), "int4")


def test_progress_goes_on_while_quantising(tmp_path: Path) -> None:
    folder = write(tmp_path, TENSORS, CONFIG_32)
    calls: list[tuple[int, int]] = []
    load_model(open_checkpoint(folder), torch.bfloat16, CPU, "int8", lambda done, total: calls.append((done, total)))
    assert len(calls) > 40
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1] == (folder / "model.safetensors").stat().st_size
