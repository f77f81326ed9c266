"""`Conversion`: what becomes of matrices as they are loaded. As a rule nothing: they stay in the file's bytes."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto

import torch

from engine.config import Quantization
from engine.quant.formats import BF16, DENSE, F32, Format, int4_format
from engine.quant.matrix import DENSE_DTYPES, Matrix, dense_matrix
from engine.quant.packing import can_pack
from engine.quant.quantise import Q8_0, quantise
from engine.weights.mapped import read_soon


class Role(Enum):
    """What a matrix is for, as far as it matters to how it is held."""

    EMBEDDING = auto()
    ROUTER = auto()
    EXPERT = auto()  # one of the routed
    BETA_AND_DECAY = auto()  # in_proj_ba: small, and what a state keeps hangs on it
    OTHER = auto()


INT4 = int4_format(32)
QUANTISED: dict[Quantization, dict[Role, Format]] = {
    "none": {},
    "int8": {Role.EXPERT: Q8_0, Role.BETA_AND_DECAY: Q8_0, Role.OTHER: Q8_0},
    "int4": {Role.EXPERT: INT4, Role.OTHER: Q8_0},
}


@dataclass(frozen=True, slots=True)
class Conversion:
    """How to hold weights.

    Attributes:
        dtype: float32 turns 16-bit matrices into F32, bfloat16 turns F32 ones into BF16; a router stays exact.
        device: where all weights go.
        quantization: what to quantise matrices to, but for rows that are no whole number of blocks.
        quantise: who does that; contract at the reference.
        pack: what packs, where it is, all that can be packed and is made while loading, but for an embedding, whose
            rows are read one by one; None leaves it as it is.
    """

    dtype: torch.dtype
    device: torch.device
    quantization: Quantization = "none"
    quantise: Callable[[Matrix, Format], Matrix] = quantise
    pack: Callable[[Matrix], Matrix] | None = None

    def matrix(self, stack: Matrix, role: Role, is_mapped: bool = True) -> Matrix:
        """A stack as it is to be held: itself where nothing changes. What is quantised already is packed at most, and
        only where its bytes are no file's.

        Raises:
            ValueError: it cannot be quantised.
        """
        held = self._converted(stack, role)
        is_made = not is_mapped or held is not stack
        if self.pack and is_made and role is not Role.EMBEDDING and can_pack(held):
            return self.pack(held)
        return held

    def _converted(self, stack: Matrix, role: Role) -> Matrix:
        format = self._format(stack, role)
        if format == stack.format:
            return stack.to(self.device)
        read_soon(stack.parts)
        stack = stack.to(self.device)
        if format not in DENSE:
            return self.quantise(stack, format)
        return dense_matrix(*(stack.dense(i).to(DENSE_DTYPES[format]) for i in range(len(stack.parts))))

    def _format(self, stack: Matrix, role: Role) -> Format:
        if stack.format not in DENSE:
            return stack.format
        quantised = QUANTISED[self.quantization].get(role)
        if quantised and stack.columns % quantised.block == 0:
            return quantised
        if role is Role.ROUTER:
            return BF16 if _is_bf16(stack) else stack.format
        if self.dtype == torch.float32:
            return F32
        return BF16 if (stack.format, self.dtype) == (F32, torch.bfloat16) else stack.format


def _is_bf16(stack: Matrix) -> bool:
    """Whether bf16 holds it exactly: routers are often trained in it and stored in fp32, at twice the bytes."""
    return stack.format == F32 and torch.equal(stack.dense().bfloat16().float(), stack.dense())
