"""The operators of the table on a CPU: each is one call into the compiled library.

Calls come from one thread, as the runner makes them: the library's threads and its scratch memory belong to that.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from engine.batch import PagedKV, RecurrentState, Span
from engine.kernels.descriptors import Descriptors, addresses_of
from engine.kernels.draws import DescribedDraws
from engine.kernels.library import Library, check
from engine.layers.attention import Attention
from engine.layers.gated_delta_net import GatedDeltaNet
from engine.layers.moe import Mlp, SparseMoe
from engine.layers.rope import Rotation
from engine.pages import untouched_zeros
from engine.quant.formats import Format
from engine.quant.matrix import Matrix
from engine.quant.packing import head_bytes
from engine.sampling.draw import Draw, Drawn, NoToken

QUANTISED_BLOCK = 32  # of both formats that `quantise` makes


class CpuKernels:
    """See `engine.kernels.table.Kernels` for the operators; contracts stand at the references.

    `threads` compute. With `exact`, products take fp32 inputs whatever the weights are stored in; otherwise 8-bit ones
    for quantised weights and bf16 for those in bf16 and FP8. The router's are fp32 always.
    """

    def __init__(self, library: Library, threads: int, exact: bool) -> None:
        self._library = library
        self._threads = threads
        self._describe = Descriptors(library, exact)

    def embed(self, matrix: Matrix, ids: Tensor) -> Tensor:
        assert ids.dtype is torch.int64
        out = torch.empty(len(ids), matrix.columns)
        described = self._describe.matrix(matrix)
        check(self._library.embed(described, ids.data_ptr(), len(ids), out.data_ptr(), self._threads))
        return out

    def rms_norm(self, x: Tensor, factor: Tensor, eps: float) -> Tensor:
        columns = factor.shape[0]
        out, rows = torch.empty_like(x), x.numel() // columns
        data = _data(x)
        check(self._library.rms_norm(data, rows, columns, factor.data_ptr(), eps, out.data_ptr(), self._threads))
        return out

    def project(self, x: Tensor, factor: Tensor | None, eps: float, matrices: Sequence[Matrix]) -> Tensor:
        rows, columns = x.shape
        group = self._describe.group(matrices)
        assert columns == group.columns
        out = torch.empty(rows, group.rows)
        norm = None if factor is None else factor.data_ptr()
        code = self._library.linear(
            _data(x), columns, rows, norm, eps, group.address, group.num_matrices, out.data_ptr(), group.rows, 0,
            self._threads,
        )  # fmt: skip
        check(code)
        return out

    def add_projection(self, x: Tensor, y: Tensor, matrix: Matrix) -> Tensor:
        rows, columns = y.shape
        group = self._describe.group((matrix,))
        assert columns == group.columns
        assert x.shape == (rows, group.rows)
        code = self._library.linear(
            _data(y), columns, rows, None, 0.0, group.address, 1, _data(x), group.rows, 1, self._threads
        )
        check(code)
        return x

    def add_moe(self, x: Tensor, moe: SparseMoe) -> Tensor:
        check(self._library.moe_add(self._describe.moe(moe), _data(x), len(x), self._threads))
        return x

    def add_mlp(self, x: Tensor, mlp: Mlp) -> Tensor:
        gate, up, down = map(self._describe.matrix, mlp.matrices)
        check(self._library.mlp_add(mlp.norm.data_ptr(), mlp.eps, gate, up, down, _data(x), len(x), self._threads))
        return x

    def delta_net_mix(
        self, net: GatedDeltaNet, projected: Tensor, memory: RecurrentState, spans: Sequence[Span]
    ) -> Tensor:
        rows, width = projected.shape
        out = torch.empty(rows, net.num_value_heads * net.value_dim)
        code = self._library.delta_net_mix(
            self._describe.delta_net(net), _data(projected), width, _data(memory.delta), _data(memory.conv),
            self._describe.spans(spans), len(spans), out.data_ptr(), self._threads,
        )  # fmt: skip
        check(code)
        return out

    def attention_mix(
        self,
        attention: Attention,
        projected: Tensor,
        rotation: Rotation,
        kv_rows: Tensor,
        memory: PagedKV,
        spans: Sequence[Span],
    ) -> Tensor:
        rows, width = projected.shape
        out = torch.empty(rows, attention.num_heads * attention.head_dim)
        keys, values = memory.keys, memory.values
        described = self._describe.attention(
            attention, rotation.cos.shape[1], keys.dtype is torch.bfloat16, memory.block_size
        )
        code = self._library.attention_mix(
            described, _data(projected), width, _data(rotation.cos), _data(rotation.sin), kv_rows.data_ptr(),
            keys.data_ptr(), values.data_ptr(), self._describe.spans(spans), len(spans), out.data_ptr(), self._threads,
        )  # fmt: skip
        check(code)
        return out

    def quantise(self, matrix: Matrix, format: Format) -> Matrix:
        assert format.block == QUANTISED_BLOCK
        num_parts, num_blocks = len(matrix.parts), matrix.rows * matrix.columns // QUANTISED_BLOCK
        out = untouched_zeros((num_parts, matrix.rows, format.row_bytes(matrix.columns)), torch.uint8)
        code = self._library.quantise(
            matrix.format.code, format.code, addresses_of(matrix.parts), num_parts, num_blocks, out.data_ptr(),
            self._threads,
        )  # fmt: skip
        check(code)
        return Matrix(format, matrix.rows, matrix.columns, tuple(out))

    def pack(self, matrix: Matrix) -> Matrix:
        parts = matrix.parts
        assert all(part.data_ptr() == parts[0].data_ptr() + i * part.nbytes for i, part in enumerate(parts))
        self._pack(matrix, parts[0].data_ptr())
        return replace(matrix, packed=True)

    def repack(self, matrix: Matrix) -> None:
        """Compute with a packed copy from now on. The matrix stays as it is, but these kernels read it no more."""
        copy = untouched_zeros((len(matrix.parts), *matrix.parts[0].shape), torch.uint8)
        self._pack(matrix, copy.data_ptr())
        self._describe.replace(matrix, replace(matrix, parts=tuple(copy), packed=True))

    def _pack(self, matrix: Matrix, out: int) -> None:
        code = self._library.pack(
            head_bytes(matrix.format), matrix.format.block_bytes, addresses_of(matrix.parts), len(matrix.parts),
            matrix.rows, matrix.format.row_bytes(matrix.columns), out, self._threads,
        )  # fmt: skip
        check(code)

    def sample(self, logits: Tensor, draws: Sequence[Draw], num_used_tokens: int) -> Sequence[Drawn | NoToken]:
        rows, vocab = logits.shape
        described = DescribedDraws(draws, vocab)
        assert len(draws) == rows
        if rows:
            address = described.address
            check(self._library.sample(_data(logits), rows, vocab, num_used_tokens, address, self._threads))
        return described.results()


def _data(tensor: Tensor) -> int:
    """The address of fp32 values that lie one after the other."""
    assert tensor.dtype is torch.float32
    assert tensor.is_contiguous()
    return tensor.data_ptr()
