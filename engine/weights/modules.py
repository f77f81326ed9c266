"""Linear modules of a hub checkpoint, however it stores them: dense, in FP8, or in one of three 4-bit layouts.

The tensors that are there decide, not the lists of exceptions in config.json, which differ from writer to writer.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from engine.errors import LoadError
from engine.quant.dequantise import INT4_CODE
from engine.quant.formats import BF16, FP8_E4M3, Format
from engine.quant.int4 import from_awq, from_compressed_tensors, from_gptq
from engine.quant.matrix import BlockScales, Matrix, dense_matrix
from engine.weights.conversion import Conversion, Role
from engine.weights.inventory import Inventory

DENSE_TYPES = ("BF16", "F16", "F32")
FP8_BLOCK = 128
QUANTISED_SUFFIXES = (".qweight", ".weight_packed")


@dataclass(frozen=True, slots=True)
class Modules:
    """Reads modules; reports the bytes of the file's tensors that it did not leave where they are."""

    inventory: Inventory
    conversion: Conversion
    gptq_zero_offset: int
    report: Callable[[int], None]

    def check_dense(self) -> None:
        """See that nothing is quantised already; raises `LoadError`."""
        for name in self.inventory.names():
            stored = self.inventory.get(name)
            if name.endswith(QUANTISED_SUFFIXES) or (stored and stored.dtype.startswith("F8")):
                raise LoadError(
                    f"{self.inventory.source}: --quantization {self.conversion.quantization} needs dense weights (bf16,"
                    f" fp16 or fp32), but {name} is quantised already; leave the option out"
                )

    def one(self, name: str, rows: int, columns: int, role: Role = Role.OTHER) -> Matrix:
        """Module `name` [rows, columns]."""
        return self.stack([name], rows, columns, role)

    def stack(self, names: Sequence[str], rows: int, columns: int, role: Role = Role.OTHER) -> Matrix:
        """Several modules of one shape, stored in one way."""
        found = list(_side_by_side((self._read(name, rows, columns) for name in names), len(names)))
        whole = [matrix for matrix in found if matrix is not None]
        if len(whole) < len(found):
            return stand_in(rows, columns)
        return self.held(self._stacked(whole, names), names, role)

    def held(self, stack: Matrix, names: Sequence[str], role: Role) -> Matrix:
        """A stack as it is to be held; `names` are for errors."""
        is_mapped = stack.format.code != INT4_CODE  # 4-bit ones are made, and their bytes were told then
        try:
            held = self.conversion.matrix(stack, role, is_mapped)
        except ValueError as error:
            named = names[0] if len(names) == 1 else f"{names[0]} or one of those up to {names[-1]}"
            raise LoadError(f"{self.inventory.source}: {named}: {error}") from None
        if held is not stack and is_mapped:
            self.report(stack.num_bytes)
        return held

    def _stacked(self, matrices: Sequence[Matrix], names: Sequence[str]) -> Matrix:
        first = matrices[0]
        way = _way(first)
        for matrix, name in zip(matrices, names, strict=True):
            if _way(matrix) != way:
                raise LoadError(
                    f"{self.inventory.source}: {names[0]} is stored as {way}, {name} as {_way(matrix)};"
                    " all experts of a layer should be alike"
                )
        scales = None
        if first.scales:
            all_scales = tuple(part for matrix in matrices if matrix.scales for part in matrix.scales.parts)
            scales = BlockScales(first.scales.rows, first.scales.columns, all_scales)
        parts = tuple(part for matrix in matrices for part in matrix.parts)
        return Matrix(first.format, first.rows, first.columns, parts, scales)

    def _read(self, name: str, rows: int, columns: int) -> Matrix | None:
        """One module as it is stored; None if it is not there as it should be, which is noted."""
        if self.inventory.get(f"{name}.qweight"):
            return self._gptq_or_awq(name, rows, columns)
        if self.inventory.get(f"{name}.weight_packed"):
            return self._compressed(name, rows, columns)
        weight = self.inventory.get(f"{name}.weight")
        if weight and weight.dtype == "F8_E4M3":
            return self._fp8(name, rows, columns)
        values = self.inventory.take(f"{name}.weight", [(rows, columns)], DENSE_TYPES)
        return None if values is None else dense_matrix(values)

    def _fp8(self, name: str, rows: int, columns: int) -> Matrix | None:
        """Scales are for blocks of 128 × 128, for whole rows, or for everything."""
        blocks = -(-rows // FP8_BLOCK), -(-columns // FP8_BLOCK)
        served = {(1,): (rows, columns), (): (rows, columns), (rows, 1): (1, columns), blocks: (FP8_BLOCK, FP8_BLOCK)}
        suffix = "weight_scale" if self.inventory.get(f"{name}.weight_scale") else "weight_scale_inv"
        self.inventory.drop(f"{name}.input_scale")  # for inputs in FP8, which ours are not
        weight = self.inventory.take(f"{name}.weight", [(rows, columns)], ["F8_E4M3"])
        scales = self.inventory.take(f"{name}.{suffix}", list(served), DENSE_TYPES)
        if weight is None or scales is None:
            return None
        block_rows, block_columns = served[tuple(scales.shape)]
        fp32 = scales.float().reshape(-(-rows // block_rows), -(-columns // block_columns)).contiguous()
        parts = (weight.view(torch.uint8),)
        return Matrix(FP8_E4M3, rows, columns, parts, BlockScales(block_rows, block_columns, (fp32,)))

    def _gptq_or_awq(self, name: str, rows: int, columns: int) -> Matrix | None:
        """GPTQ packs eight inputs into a word, AWQ eight outputs."""
        gptq, awq = (columns // 8, rows), (columns, rows // 8)
        stored = self._words(name, "qweight", [gptq, awq]), self._words(name, "qzeros"), self._scales(name, "scales")
        order = self._optional_words(name, "g_idx")
        qweight, qzeros, scales = stored
        if qweight is None or qzeros is None or scales is None:
            return None
        if tuple(qweight.shape) == gptq:
            return self._int4(
                name, rows, columns, lambda: from_gptq(qweight, qzeros, scales, order, self.gptq_zero_offset)
            )
        return self._int4(name, rows, columns, lambda: from_awq(qweight, qzeros, scales))

    def _compressed(self, name: str, rows: int, columns: int) -> Matrix | None:
        self.inventory.drop(f"{name}.weight_shape")  # what we ask for is what the model computes with
        packed, scales = self._words(name, "weight_packed", [(rows, columns // 8)]), self._scales(name, "weight_scale")
        zeros, order = self._optional_words(name, "weight_zero_point"), self._optional_words(name, "weight_g_idx")
        if packed is None or scales is None:
            return None
        return self._int4(name, rows, columns, lambda: from_compressed_tensors(packed, scales, zeros, order))

    def _int4(self, name: str, rows: int, columns: int, convert: Callable[[], tuple[Format, Tensor]]) -> Matrix:
        try:
            format, part = convert()
        except LoadError as error:
            raise LoadError(f"{self.inventory.source}: {name}: {error}") from None
        if tuple(part.shape) != (rows, format.row_bytes(columns)):
            raise LoadError(f"{self.inventory.source}: the tensors of {name} do not make a matrix {[rows, columns]}")
        return Matrix(format, rows, columns, (part,))

    def _words(self, name: str, suffix: str, shapes: Sequence[tuple[int, ...]] = ()) -> Tensor | None:
        """Packed numbers; the shapes of zero points depend on the groups, which the converters look after."""
        return self._taken(f"{name}.{suffix}", shapes, ["I32"])

    def _optional_words(self, name: str, suffix: str) -> Tensor | None:
        return self._words(name, suffix) if self.inventory.get(f"{name}.{suffix}") else None

    def _scales(self, name: str, suffix: str) -> Tensor | None:
        return self._taken(f"{name}.{suffix}", (), DENSE_TYPES)

    def _taken(self, name: str, shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str]) -> Tensor | None:
        stored = self.inventory.get(name)
        values = self.inventory.take(name, shapes or ([stored.shape] if stored else []), dtypes)
        if values is None:
            return None
        self.report(values.nbytes)
        return values.to(self.conversion.device)


def stand_in(rows: int, columns: int) -> Matrix:
    """What is handed out for a matrix that is not there: it has a shape, but no bytes."""
    return Matrix(BF16, rows, columns, (torch.empty(rows, 2 * columns, dtype=torch.uint8, device="meta"),))


def _side_by_side(matrices: Iterable[Matrix | None], count: int) -> Iterator[Matrix | None]:
    """Put 4-bit matrices, which are made one by one, into one piece of memory.

    On their own they would lie scattered among what was needed for making them, and leave as much unused as they take.
    """
    room = None
    for index, matrix in enumerate(matrices):
        if matrix is None or matrix.format.code != INT4_CODE:
            yield matrix
            continue
        (made,) = matrix.parts
        if room is None:
            room = made.new_empty(count, *made.shape)
        fits = made.shape == room.shape[1:]
        yield replace(matrix, parts=(room[index].copy_(made),)) if fits else matrix


def _way(matrix: Matrix) -> str:
    """How it is stored, in words."""
    if matrix.scales is None:
        return matrix.format.name
    return f"{matrix.format.name} with a scale for {matrix.scales.rows} × {matrix.scales.columns} values"
