"""`Conversion`: what becomes of a dense matrix when it is loaded. As a rule nothing: it stays in the file's bytes."""

from dataclasses import dataclass
from enum import Enum, auto

import torch
from torch import Tensor

from engine.config import Quantization
from engine.quant.formats import BY_NAME, Format, int4_format
from engine.quant.matrix import Matrix, dense_matrix
from engine.quant.quantise import quantise_int4, quantise_int8


class Role(Enum):
    """What a matrix is for, as far as it matters to how it is held."""

    EMBEDDING = auto()
    ROUTER = auto()
    EXPERT = auto()  # one of the routed
    BETA_AND_DECAY = auto()  # in_proj_ba: small, and what a state keeps hangs on it
    OTHER = auto()


Q8_0 = BY_NAME["Q8_0"]
INT4 = int4_format(32)
QUANTISED: dict[Quantization, dict[Role, Format]] = {
    "none": {},
    "int8": {Role.EXPERT: Q8_0, Role.BETA_AND_DECAY: Q8_0, Role.OTHER: Q8_0},
    "int4": {Role.EXPERT: INT4, Role.OTHER: Q8_0},
}


@dataclass(frozen=True, slots=True)
class Conversion:
    """How to hold dense weights.

    Attributes:
        dtype: float32 turns 16-bit matrices into F32, bfloat16 turns F32 ones into BF16; a router stays exact.
        device: where all weights go.
        quantization: what to quantise matrices to, but for rows that are no whole number of blocks.
    """

    dtype: torch.dtype
    device: torch.device
    quantization: Quantization = "none"

    def matrix(self, values: Tensor, role: Role) -> Matrix:
        """Values [rows, columns] in fp32, fp16 or bf16 as they are to be held: a view where nothing changes.

        Raises:
            ValueError: they cannot be quantised.
        """
        values = values.to(self.device)
        format = QUANTISED[self.quantization].get(role)
        if format is None or values.shape[1] % format.block:
            return dense_matrix(values.to(self._dtype(values, role)))
        part = quantise_int8(values) if format == Q8_0 else quantise_int4(values, format.block)
        return Matrix(format, values.shape[0], values.shape[1], (part,))

    def _dtype(self, values: Tensor, role: Role) -> torch.dtype:
        if role is Role.ROUTER:
            return torch.bfloat16 if _is_bf16(values) else values.dtype
        if self.dtype == torch.float32:
            return torch.float32
        return torch.bfloat16 if (values.dtype, self.dtype) == (torch.float32, torch.bfloat16) else values.dtype


def _is_bf16(values: Tensor) -> bool:
    """Whether bf16 holds them exactly: routers are often trained in it and stored in fp32, at twice the bytes."""
    return values.dtype == torch.float32 and torch.equal(values.bfloat16().float(), values)
