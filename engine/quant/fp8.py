"""FP8 E4M3: a byte a value; no infinities, 0x7f and 0xff are not numbers. Its block scales are the matrix's affair."""

import torch
from torch import Tensor


def fp8_e4m3(blocks: Tensor) -> Tensor:
    """Uint8 [N, 1] -> fp32 [N, 1]; exact."""
    return blocks.view(torch.float8_e4m3fn).float()


DEQUANTISERS = {"FP8_E4M3": fp8_e4m3}
