"""`Format`: how the values of a weight matrix are stored. Standard library only.

A row is a run of blocks of `block` values in `block_bytes` bytes each. The byte layouts are those of GGUF (MIT, ggml
project); `int4` is ours, see `engine.quant.int4`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Format:
    """One way to store values.

    Attributes:
        name: what people call it.
        code: its number in the kernels' C interface (`dl_format`).
        ggml_id: its type number in GGUF files; None when it does not occur there.
        block, block_bytes: values in a block and the bytes they take.
    """

    name: str
    code: int
    ggml_id: int | None
    block: int
    block_bytes: int

    def row_bytes(self, columns: int) -> int:
        """Bytes of a row; raises ValueError when the columns are no whole number of blocks."""
        if columns % self.block:
            raise ValueError(f"{columns} columns are no multiple of {self.name}'s block of {self.block}")
        return columns // self.block * self.block_bytes


F32 = Format("F32", 0, 0, 1, 4)
F16 = Format("F16", 1, 1, 1, 2)
BF16 = Format("BF16", 2, 30, 1, 2)
FP8_E4M3 = Format("FP8_E4M3", 3, None, 1, 1)

FORMATS = (
    F32, F16, BF16, FP8_E4M3,
    Format("Q4_0", 10, 2, 32, 18), Format("Q4_1", 11, 3, 32, 20),
    Format("Q5_0", 12, 6, 32, 22), Format("Q5_1", 13, 7, 32, 24), Format("Q8_0", 14, 8, 32, 34),
    Format("Q2_K", 20, 10, 256, 84), Format("Q3_K", 21, 11, 256, 110), Format("Q4_K", 22, 12, 256, 144),
    Format("Q5_K", 23, 13, 256, 176), Format("Q6_K", 24, 14, 256, 210),
    Format("IQ2_XXS", 30, 16, 256, 66), Format("IQ2_XS", 31, 17, 256, 74), Format("IQ2_S", 32, 22, 256, 82),
    Format("IQ3_XXS", 33, 18, 256, 98), Format("IQ3_S", 34, 21, 256, 110),
    Format("IQ4_NL", 35, 20, 32, 18), Format("IQ4_XS", 36, 23, 256, 136),
    Format("MXFP4", 40, 39, 32, 17), Format("NVFP4", 41, 40, 64, 36),
)  # fmt: skip
BY_NAME = {known.name: known for known in FORMATS}
BY_GGML_ID = {known.ggml_id: known for known in FORMATS if known.ggml_id is not None}
DENSE = (F32, F16, BF16)


def int4_format(group: int) -> Format:
    """Our 4-bit format with a scale and a zero point for each `group` values; ValueError if no multiple of 32."""
    if group <= 0 or group % 32:
        raise ValueError(f"INT4 groups must be a multiple of 32, not {group}")
    return Format(f"INT4_{group}", 4, None, group, group // 2 + 5)
