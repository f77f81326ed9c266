"""Packing weights after the engine has begun to serve: until then they are read as they lie in their file."""

import logging
from collections.abc import Iterator

from engine.model.qwen3_next import Qwen3Next
from engine.quant.packing import can_pack
from engine.weights.mapped import forget

logger = logging.getLogger(__name__)


def pack_mapped(model: Qwen3Next) -> Iterator[int]:
    """Pack what is mapped and can be packed, but for the embedding, whose rows are read one by one; yields bytes.

    One stack a piece. Between two pieces the model may compute, and computes the same as before and after. Where memory
    ends, the rest stays mapped.
    """
    repack = model.kernels.repack
    if repack is None:
        return
    for matrix in model.matrices:
        if matrix is model.embedding or not can_pack(matrix):
            continue
        try:
            repack(matrix)
        except MemoryError as error:
            logger.warning("some weights stay mapped from their file, and are slower so: %s", error)
            return
        forget(matrix.parts)
        yield matrix.num_bytes
