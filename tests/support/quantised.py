"""Quantised hub checkpoints in miniature, in the layout of each tool, and the dense values they stand for.

Packed here word by word from the tools' descriptions, without the engine's own code.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from tests.support.checkpoints import CONFIG

CONFIG_32: dict[str, Any] = CONFIG | {
    "hidden_size": 192,
    "num_attention_heads": 4,
    "head_dim": 32,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "moe_intermediate_size": 64,
    "shared_expert_intermediate_size": 160,
    "torch_dtype": "bfloat16",
}
"""Columns in multiples of 32, some above 128, and not all of them in multiples of 128."""

KEPT = ("embed_tokens", "lm_head", "in_proj_ba", "mlp.gate.", "shared_expert_gate", "norm")
FP8_MAX = 448.0

Stored = dict[str, Tensor]
Quantiser = Callable[[str, Tensor], tuple[Stored, Tensor]]


def is_kept(name: str, tensor: Tensor) -> bool:
    """Whether quantisers leave a tensor alone."""
    return tensor.dim() != 2 or any(part in name for part in KEPT)


def quantised(tensors: Mapping[str, Tensor], quantise: Quantiser) -> tuple[Stored, Stored]:
    """The checkpoint quantised, and its dense twin of the same values: in fp32 what was quantised, the rest in bf16."""
    stored: Stored = {}
    twin: Stored = {}
    for name, tensor in tensors.items():
        if is_kept(name, tensor):
            stored[name] = twin[name] = tensor.bfloat16()
            continue
        parts, values = quantise(name.removesuffix(".weight"), tensor.float())
        stored |= parts
        twin[name] = values
    return stored, twin


def fp8(name: str, values: Tensor, rows: int, columns: int, suffix: str, dtype: torch.dtype) -> tuple[Stored, Tensor]:
    """A scale for each block of `rows` × `columns`; 0 rows or columns stand for all of them."""
    rows, columns = rows or values.shape[0], columns or values.shape[1]
    scales = torch.stack(
        [
            torch.stack([block.abs().amax() / FP8_MAX for block in band.split(columns, dim=1)])
            for band in values.split(rows)
        ]
    ).to(dtype)
    wide = scales.float().repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    wide = wide[: values.shape[0], : values.shape[1]]
    stored = (values / wide).clamp(-FP8_MAX, FP8_MAX).to(torch.float8_e4m3fn)
    return {f"{name}.weight": stored, f"{name}.{suffix}": scales}, stored.float() * wide


def fp8_blocks(name: str, values: Tensor) -> tuple[Stored, Tensor]:
    """As Qwen's own releases."""
    return fp8(name, values, 128, 128, "weight_scale_inv", torch.bfloat16)


def fp8_channels(name: str, values: Tensor) -> tuple[Stored, Tensor]:
    """As compressed-tensors' FP8-dynamic."""
    return fp8(name, values, 1, 0, "weight_scale", torch.float32)


def fp8_whole(name: str, values: Tensor) -> tuple[Stored, Tensor]:
    """One scale, and one for inputs, which is of no use to us."""
    stored, dense = fp8(name, values, 0, 0, "weight_scale", torch.float32)
    stored[f"{name}.weight_scale"] = stored[f"{name}.weight_scale"].flatten()
    return stored | {f"{name}.input_scale": torch.ones(1)}, dense


def four_bits(values: Tensor, group: int, symmetric: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Numbers 0 … 15 [out, in], zero points and fp16 scales [out, groups], and what they stand for."""
    groups = values.unflatten(1, (-1, group))
    low, high = groups.amin(-1), groups.amax(-1)
    if symmetric:
        scales = (groups.abs().amax(-1) / 7).half()
        zeros = torch.full_like(scales, 8.0).float()
    else:
        scales = ((high - low) / 15).half()
        zeros = (-low / scales.float()).round().clamp(1, 15)  # not 0: v1 of GPTQ stores one less
    numbers = ((groups / scales.float().unsqueeze(-1)).round() + zeros.unsqueeze(-1)).clamp(0, 15)
    dense = scales.float().unsqueeze(-1) * (numbers - zeros.unsqueeze(-1))
    return numbers.flatten(1).long(), zeros.long(), scales, dense.flatten(1)


def words(numbers: Tensor, order: Iterable[int] = range(8)) -> Tensor:
    """Pack the last dimension, eight to a word: nibble i of a word is its number `order[i]`."""
    eights = numbers.unflatten(-1, (-1, 8))
    total = sum(eights[..., place] << 4 * i for i, place in enumerate(order))
    assert isinstance(total, Tensor)
    return torch.where(total >= 1 << 31, total - (1 << 32), total).to(torch.int32).contiguous()


def gptq(name: str, values: Tensor, zeros_less: int = 1, symmetric: bool = True) -> tuple[Stored, Tensor]:
    """GPTQ with groups of 32; `zeros_less` is 1 in version 1 of the format."""
    numbers, zeros, scales, dense = four_bits(values, 32, symmetric)
    stored = {
        f"{name}.qweight": words(numbers).t().contiguous(),
        f"{name}.qzeros": words((zeros - zeros_less).t()),
        f"{name}.scales": scales.t().contiguous(),
        f"{name}.g_idx": torch.arange(values.shape[1], dtype=torch.int32) // 32,
    }
    return stored, dense


def gptq_v2(name: str, values: Tensor) -> tuple[Stored, Tensor]:
    """The second version, asymmetric and without a list of groups."""
    stored, dense = gptq(name, values, zeros_less=0, symmetric=False)
    del stored[f"{name}.g_idx"]
    return stored, dense


def awq(name: str, values: Tensor) -> tuple[Stored, Tensor]:
    """AWQ, version GEMM, groups of 64 where they fit."""
    numbers, zeros, scales, dense = four_bits(values, 64 if values.shape[1] % 64 == 0 else 32, symmetric=False)
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    stored = {
        f"{name}.qweight": words(numbers.t(), order),
        f"{name}.qzeros": words(zeros.t(), order),
        f"{name}.scales": scales.t().contiguous(),
    }
    return stored, dense


def compressed(name: str, values: Tensor) -> tuple[Stored, Tensor]:
    """compressed-tensors, pack-quantized, symmetric, scales in bf16."""
    numbers, _, scales, _ = four_bits(values, 32, symmetric=True)
    scales = scales.bfloat16()
    dense = scales.float().unsqueeze(-1) * (numbers.unflatten(1, (-1, 32)) - 8)
    stored = {
        f"{name}.weight_packed": words(numbers),
        f"{name}.weight_scale": scales,
        f"{name}.weight_shape": torch.tensor(values.shape),
    }
    return stored, dense.flatten(1)


def compressed_asymmetric(name: str, values: Tensor) -> tuple[Stored, Tensor]:
    """The same with zero points, packed along the outputs."""
    numbers, zeros, scales, dense = four_bits(values, 32, symmetric=False)
    stored = {
        f"{name}.weight_packed": words(numbers),
        f"{name}.weight_scale": scales,
        f"{name}.weight_zero_point": words(zeros.t()).t().contiguous(),
        f"{name}.weight_shape": torch.tensor(values.shape),
    }
    return stored, dense


KINDS: dict[str, tuple[Quantiser, dict[str, Any]]] = {
    "fp8, blocks": (fp8_blocks, {"quant_method": "fp8", "weight_block_size": [128, 128]}),
    "fp8, channels": (fp8_channels, {"quant_method": "compressed-tensors", "format": "float-quantized"}),
    "fp8, one scale": (fp8_whole, {"quant_method": "compressed-tensors", "format": "float-quantized"}),
    "gptq": (gptq, {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq"}),
    "gptq v2": (gptq_v2, {"quant_method": "gptq", "bits": 4, "checkpoint_format": "gptq_v2"}),
    "awq": (awq, {"quant_method": "awq", "bits": 4, "version": "gemm"}),
    "compressed": (compressed, {"quant_method": "compressed-tensors", "format": "pack-quantized"}),
    "compressed, asymmetric": (compressed_asymmetric, {"quant_method": "compressed-tensors"}),
}
