"""Random bytes of any weight format whose values are of a sensible size."""

import numpy as np
import torch
from torch import Tensor

from engine.quant.formats import BF16, F16, F32, FP8_E4M3, Format

# Where the half-precision scales stand in a block.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ2_XXS": [0], "IQ2_XS": [0], "IQ2_S": [0], "IQ3_XXS": [0],
    "IQ3_S": [0], "IQ4_NL": [0], "IQ4_XS": [0],
}  # fmt: skip


def random_rows(format: Format, rows: int, columns: int, seed: int) -> Tensor:
    """Uint8 [rows, row bytes]; every bit pattern of the values occurs, scales are finite and small."""
    rng = np.random.default_rng(seed)
    if format in (F32, F16, BF16):
        values = torch.from_numpy(rng.standard_normal((rows, columns), dtype=np.float32)) / columns**0.5
        dtype = {F32: torch.float32, F16: torch.float16, BF16: torch.bfloat16}[format]
        return values.to(dtype).view(torch.uint8)
    data = rng.integers(0, 256, (rows, columns // format.block, format.block_bytes), dtype=np.uint8)
    if format is FP8_E4M3:
        data[(data & 0x7F) == 0x7F] = 0x7E  # what is not a number
    elif format.name.startswith("INT4"):
        data[:, :, :4] = (rng.random(data.shape[:2], np.float32) * 0.01 + 1e-4)[..., None].view(np.uint8)
        data[:, :, 4] %= 16
    elif format.name == "MXFP4":
        data[:, :, 0] = rng.integers(118, 124, data.shape[:2])
    elif format.name == "NVFP4":
        data[:, :, :4] = rng.integers(0, 40, (*data.shape[:2], 4))
    for at in HALVES.get(format.name, []):
        scale = (rng.random(data.shape[:2]) * 1e-3).astype(np.float16)
        data[:, :, at : at + 2] = scale[..., None].view(np.uint8)
    return torch.from_numpy(data.reshape(rows, -1))
