"""Weights, layers and spans in the terms of the C interface: structures full of addresses, each made once.

They stay as long as the `Descriptors` do, together with the weights they point to. Addresses are plain integers.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.batch import Span
from engine.kernels import library
from engine.kernels.delta_net_mix.reference import L2_EPS
from engine.kernels.library import DlAttention, DlDeltaNet, DlMatrix, DlMoe, DlSpan, Library
from engine.layers.attention import Attention
from engine.layers.gated_delta_net import GatedDeltaNet
from engine.layers.moe import SparseMoe
from engine.quant.formats import BF16, F16, F32, FP8_E4M3, Format
from engine.quant.i_quants import WITH_CODEBOOK, codebook
from engine.quant.matrix import Matrix


@dataclass(frozen=True, slots=True)
class Group:
    """Matrices whose outputs stand side by side: the address of their addresses, and their rows together."""

    address: int
    num_matrices: int
    rows: int
    columns: int


def addresses_of(tensors: Sequence[Tensor]) -> "ctypes.Array[ctypes.c_void_p]":
    """Where the data of each begins."""
    return (ctypes.c_void_p * len(tensors))(*(tensor.data_ptr() for tensor in tensors))


class Descriptors:
    """One for each `CpuKernels`; `exact` as there."""

    def __init__(self, loaded: Library, exact: bool) -> None:
        self._library = loaded
        self._exact = exact
        self._addresses: dict[object, int] = {}
        self._groups: dict[tuple[Matrix, ...], Group] = {}
        self._replaced: dict[Matrix, Matrix] = {}
        self._kept: list[object] = []
        self._spans: Sequence[Span] = ()
        self._span_array = (DlSpan * 0)()

    def matrix(self, matrix: Matrix, exact: bool = False) -> int:
        """The address of a `dl_matrix`; with `exact` it meets fp32 inputs in any case."""
        key = (matrix, exact)
        known = self._addresses.get(key)
        return known or self._add(key, self._matrix(self._replaced.get(matrix, matrix), exact or self._exact))

    def replace(self, matrix: Matrix, packed: Matrix) -> None:
        """Whoever asked for `matrix`, or will, computes with `packed`, which is kept."""
        self._replaced[matrix] = packed
        for exact in (False, True):
            address = self._addresses.get((matrix, exact))
            if address is not None:
                known = DlMatrix.from_address(address)
                known.parts, known.packed = self._pointers(packed.parts, torch.uint8), True

    def group(self, matrices: Sequence[Matrix]) -> Group:
        """What `dl_linear` wants to know of some matrices."""
        key = tuple(matrices)
        known = self._groups.get(key)
        if known is None:
            addresses = self._keep((ctypes.c_void_p * len(key))(*map(self.matrix, key)))
            known = Group(addresses, len(key), sum(matrix.rows for matrix in key), key[0].columns)
            self._groups[key] = known
        return known

    def delta_net(self, net: GatedDeltaNet) -> int:
        """The address of a `dl_delta_net`."""
        return self._addresses.get(net) or self._add(net, _delta_net(net))

    def attention(self, attention: Attention, rotary_half: int, kv_is_bf16: bool, block_size: int) -> int:
        """The address of a `dl_attention`."""
        key = (attention, rotary_half, kv_is_bf16, block_size)
        return self._addresses.get(key) or self._add(key, _attention(*key))

    def moe(self, moe: SparseMoe) -> int:
        """The address of a `dl_moe`."""
        return self._addresses.get(moe) or self._add(moe, self._moe(moe))

    def spans(self, spans: Sequence[Span]) -> int:
        """The address of an array of `dl_span`; made once a batch, which hands the same tuple to every layer."""
        if spans is not self._spans:
            assert all(span.block_ids.dtype is torch.int64 for span in spans)
            described = [DlSpan(s.start, s.num_rows, s.position, s.slot, s.block_ids.data_ptr()) for s in spans]
            self._span_array = (DlSpan * len(spans))(*described)
            self._spans = spans
        return ctypes.addressof(self._span_array)

    def _add(self, key: object, structure: ctypes.Structure) -> int:
        self._addresses[key] = self._keep(structure)
        return self._addresses[key]

    def _keep(self, data: "ctypes.Structure | ctypes.Array[ctypes.c_void_p]") -> int:
        self._kept.append(data)
        return ctypes.addressof(data)

    def _matrix(self, matrix: Matrix, exact: bool) -> DlMatrix:
        scales = matrix.scales
        if matrix.format.name in WITH_CODEBOOK:
            self._library.set_codebook(matrix.format.code, codebook(matrix.format.name).data_ptr())
        return DlMatrix(
            parts=self._pointers(matrix.parts, torch.uint8),
            scales=self._pointers(scales.parts, torch.float32) if scales else None,
            rows=matrix.rows,
            columns=matrix.columns,
            row_bytes=matrix.parts[0].stride(0),
            format=matrix.format.code,
            form=library.F32 if exact else _form(matrix.format),
            group=scales.columns if scales else matrix.format.block,
            scale_rows=scales.rows if scales else 0,
            packed=matrix.packed,
        )

    def _pointers(self, parts: Sequence[Tensor], dtype: torch.dtype) -> int:
        assert all(part.dtype is dtype and part.is_contiguous() for part in parts)
        return self._keep(addresses_of(parts))

    def _moe(self, moe: SparseMoe) -> DlMoe:
        weights, experts, shared = moe.weights, moe.weights.experts, moe.weights.shared
        return DlMoe(
            norm=_floats(moe.norm),
            eps=moe.eps,
            top_k=moe.top_k,
            normalise=moe.normalise,
            router=self.matrix(weights.router, exact=True),  # a rounding would pick another expert
            gate=self.matrix(experts.gate),
            up=self.matrix(experts.up),
            down=self.matrix(experts.down),
            shared_gate=_floats(weights.shared_gate),
            shared_gate_proj=self.matrix(shared.gate),
            shared_up=self.matrix(shared.up),
            shared_down=self.matrix(shared.down),
        )


def _form(format: Format) -> int:
    if format in (F32, F16):
        return library.F32
    return library.BF16 if format in (BF16, FP8_E4M3) else library.INT8


def _delta_net(net: GatedDeltaNet) -> DlDeltaNet:
    weights = net.weights
    assert weights.ba.stride == 2 * net.num_value_heads // net.num_key_heads
    return DlDeltaNet(
        key_heads=net.num_key_heads,
        value_heads=net.num_value_heads,
        key_dim=net.key_dim,
        value_dim=net.value_dim,
        conv_kernel=weights.conv.shape[1],
        q_offset=weights.query.offset,
        q_stride=weights.query.stride,
        k_offset=weights.key.offset,
        k_stride=weights.key.stride,
        v_offset=weights.value.offset,
        v_stride=weights.value.stride,
        z_offset=weights.gate.offset,
        z_stride=weights.gate.stride,
        ba_offset=weights.ba.offset,
        conv=_floats(weights.conv),
        decay_rate=_floats(weights.decay_rate),
        dt_bias=_floats(weights.dt_bias),
        norm=_floats(weights.norm),
        eps=net.eps,
        l2_eps=L2_EPS,
    )


def _attention(attention: Attention, rotary_half: int, kv_is_bf16: bool, block_size: int) -> DlAttention:
    after_queries = 2 * attention.num_heads * attention.head_dim
    return DlAttention(
        num_heads=attention.num_heads,
        num_kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        rotary_half=rotary_half,
        k_offset=after_queries,
        v_offset=after_queries + attention.num_kv_heads * attention.head_dim,
        q_norm=_floats(attention.weights.q_norm),
        k_norm=_floats(attention.weights.k_norm),
        eps=attention.eps,
        kv_is_bf16=kv_is_bf16,
        block_size=block_size,
    )


def _floats(tensor: Tensor) -> int:
    assert tensor.dtype is torch.float32
    assert tensor.is_contiguous()
    return tensor.data_ptr()
