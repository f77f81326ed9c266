"""The fused attention kernel: against fp64 and the torch references, and bit for bit against itself."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from engine.batch import PagedKV, Span
from engine.kernels.exact import sigmoid
from engine.kernels.paged_attention.reference import paged_attention
from tests.kernels.cpu_library import c_spans, call, instruction_sets, pointer
from tests.support.memories import NAN, normal, same_bits

ISAS = instruction_sets()
FAST = [isa for isa in ISAS if isa != "portable"] or ISAS
SEGMENT = 512  # keys, of the kernels
ROUNDING = 2.0**-23
# Root mean square error with a bf16 cache, as a share of the output's: queries, keys, values and weights are rounded
# to 8 bits each. Those that widen the cache round only keys and values.
BF16_TOLERANCE = 6e-3
WORK = [[(0, n)] for n in (1, 2, 3, 7, 16, 17, 64, 65)] + [
    [(SEGMENT - 1, 1)],
    [(SEGMENT, 1)],
    [(SEGMENT - 5, 11)],
    [(2 * SEGMENT - 1, 2)],
    [(0, 1), (4, 1), (600, 1)],
    [(0, 17), (3, 1), (63, 2), (1500, 5), (31, 33)],
]


class CAttention(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("num_heads", "num_kv_heads", "head_dim", "rotary_half")),
        *((name, ctypes.c_int64) for name in ("k_offset", "v_offset")),
        ("q_norm", ctypes.c_void_p),
        ("k_norm", ctypes.c_void_p),
        ("eps", ctypes.c_float),
        ("kv_is_bf16", ctypes.c_int32),
        ("block_size", ctypes.c_int64),
    ]


@dataclass(frozen=True)
class Net:
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_half: int
    eps: float = 1e-6

    @property
    def width(self) -> int:
        return (2 * self.num_heads + 2 * self.num_kv_heads) * self.head_dim

    @property
    def q_norm(self) -> Tensor:
        return 1.5 + 0.2 * normal(self.head_dim, seed=21)

    @property
    def k_norm(self) -> Tensor:
        return 1.0 + 0.2 * normal(self.head_dim, seed=22)


@dataclass(frozen=True)
class Case:
    """Projected rows of several sequences, whose contexts so far are in the cache; what nobody wrote is NaN."""

    net: Net
    spans: tuple[Span, ...]
    rows: Tensor
    kv_rows: Tensor
    cos: Tensor
    sin: Tensor
    memory: PagedKV

    def fresh_memory(self) -> PagedKV:
        return PagedKV(self.memory.keys.clone(), self.memory.values.clone())


def angles(net: Net, positions: Tensor) -> tuple[Tensor, Tensor]:
    turns = positions[:, None] * 0.7 ** torch.arange(net.rotary_half)
    return turns.cos().contiguous(), turns.sin().contiguous()


def make_case(net: Net, work: Sequence[tuple[int, int]], dtype: torch.dtype, block_size: int = 16) -> Case:
    needed = [-(-(position + n) // block_size) for position, n in work]
    order = torch.randperm(sum(needed) + 3, generator=torch.Generator().manual_seed(4))
    shape = (len(order), block_size, net.num_kv_heads, net.head_dim)
    memory = PagedKV(torch.full(shape, NAN, dtype=dtype), torch.full(shape, NAN, dtype=dtype))
    spans: list[Span] = []
    kv_rows, positions = [], []
    start = first = 0
    for i, ((position, n), num) in enumerate(zip(work, needed, strict=True)):
        span = Span(start, n, position, i, order[first : first + num].clone())
        at = torch.arange(position + n)
        where = span.block_ids[at // block_size] * block_size + at % block_size
        past = (position, net.num_kv_heads, net.head_dim)
        memory.write(where[:position], normal(*past, seed=30 + i).to(dtype), normal(*past, seed=60 + i).to(dtype))
        spans.append(span)
        kv_rows.append(where[position:])
        positions.append(at[position:])
        start, first = start + n, first + num
    rows = torch.full((start, net.width + 3), NAN)
    rows[:, :-3] = normal(start, net.width, seed=5)
    return Case(net, tuple(spans), rows, torch.cat(kv_rows), *angles(net, torch.cat(positions)), memory)


def kernel(isa: str, case: Case, memory: PagedKV, threads: int = 1) -> Tensor:
    net = case.net
    q_norm, k_norm = net.q_norm, net.k_norm
    k_offset = 2 * net.num_heads * net.head_dim
    v_offset = k_offset + net.num_kv_heads * net.head_dim
    dims = (net.num_heads, net.num_kv_heads, net.head_dim, net.rotary_half, k_offset, v_offset)
    bf16 = int(memory.keys.dtype is torch.bfloat16)
    c = CAttention(*dims, pointer(q_norm), pointer(k_norm), net.eps, bf16, memory.block_size)
    out = torch.full((len(case.rows), net.num_heads * net.head_dim), NAN)
    tensors = (case.cos, case.sin, case.kv_rows, memory.keys, memory.values)
    where = (ctypes.c_void_p(pointer(case.rows)), case.rows.stride(0), *(ctypes.c_void_p(pointer(x)) for x in tensors))
    spans = c_spans(case.spans), len(case.spans)
    call(isa, "dl_attention_mix", ctypes.byref(c), *where, *spans, ctypes.c_void_p(pointer(out)), ctypes.c_int(threads))
    return out


def prepared(case: Case, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rotated queries [T, H, d] and keys, values [T, KV heads, d] and gates, in the dtype of `rows`."""
    net, dim = case.net, case.net.head_dim
    heads = rows[:, : 2 * net.num_heads * dim].unflatten(1, (net.num_heads, 2, dim))
    k, v = rows[:, 2 * net.num_heads * dim : net.width].unflatten(1, (2, net.num_kv_heads, dim)).unbind(1)
    cos, sin, half = case.cos[:, None].to(rows.dtype), case.sin[:, None].to(rows.dtype), net.rotary_half

    def rotated(x: Tensor, factor: Tensor) -> Tensor:
        x = x * torch.rsqrt((x * x).mean(-1, keepdim=True) + net.eps) * factor.to(rows.dtype)
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1)

    return rotated(heads[:, :, 0], net.q_norm), rotated(k, net.k_norm), v, heads[:, :, 1]


def reference(case: Case, memory: PagedKV) -> Tensor:
    """The torch references in fp32, one after the other."""
    q, k, v, gate = prepared(case, case.rows)
    dtype = memory.keys.dtype
    memory.write(case.kv_rows, k.to(dtype), v.to(dtype))
    return (paged_attention(q, memory, case.spans) * sigmoid(gate)).flatten(1)


def truth(case: Case) -> tuple[Tensor, float]:
    """The equations in fp64, from the cache before the step and without rounding of what the step adds.

    Also the size of outputs, root mean square, if no value cancelled another: what errors are measured by.
    """
    net = case.net
    q, k, v, gate = prepared(case, case.rows.double())
    outs, sizes = [], []
    for span in case.spans:
        block_size, at = case.memory.block_size, torch.arange(span.context_len)
        where = span.block_ids[at // block_size] * block_size + at % block_size
        mine = slice(span.start, span.end)
        keys, values = (x.flatten(0, 1)[where].double() for x in (case.memory.keys, case.memory.values))
        keys[span.position :], values[span.position :] = k[mine], v[mine]
        group = net.num_heads // net.num_kv_heads
        scores = torch.einsum("thd,khd->thk", q[mine], keys.repeat_interleave(group, 1)) * net.head_dim**-0.5
        scores = scores.masked_fill(at > torch.arange(span.position, span.context_len)[:, None, None], float("-inf"))
        values = values.repeat_interleave(group, 1)
        outs.append(torch.einsum("thk,khd->thd", scores.softmax(-1), values))
        sizes.append(torch.einsum("thk,khd->thd", scores.softmax(-1), values.abs()))
    size = float((torch.cat(sizes) * torch.sigmoid(gate)).square().mean().sqrt())
    return (torch.cat(outs) * torch.sigmoid(gate)).flatten(1), size


def error(x: Tensor, true: tuple[Tensor, float]) -> float:
    """Root mean square of the difference, by the size of the truth; NaN counts as infinite."""
    relative = float((x.double() - true[0]).square().mean().sqrt()) / true[1]
    return relative if relative == relative else float("inf")


TINY = [Net(8, 1, 16, 2), Net(2, 2, 1, 0), Net(3, 1, 7, 3), Net(6, 2, 40, 5), Net(4, 2, 32, 16)]
REAL = Net(16, 2, 256, 32)


@pytest.mark.parametrize("net", TINY, ids=str)
@pytest.mark.parametrize("work", WORK, ids=str)
def test_fp32_is_as_exact_as_the_reference(work: list[tuple[int, int]], net: Net) -> None:
    case = make_case(net, work, torch.float32)
    true, theirs = truth(case), case.fresh_memory()
    bound = error(reference(case, theirs), true)
    results = []
    for isa in ISAS:
        ours = case.fresh_memory()
        results.append((kernel(isa, case, ours), ours))
        assert error(results[-1][0], true) <= 2 * bound + ROUNDING
        torch.testing.assert_close(ours.keys, theirs.keys, rtol=1e-6, atol=1e-6, equal_nan=True)
        assert same_bits(ours.values, theirs.values)
    for out, memory in results:
        assert same_bits(out, results[0][0])
        assert same_bits(memory.keys, results[0][1].keys)


@pytest.mark.parametrize("net", TINY, ids=str)
@pytest.mark.parametrize("work", WORK, ids=str)
def test_bf16(work: list[tuple[int, int]], net: Net) -> None:
    case = make_case(net, work, torch.bfloat16)
    true, theirs = truth(case), case.fresh_memory()
    reference(case, theirs)
    for isa in ISAS:
        ours = case.fresh_memory()
        assert error(kernel(isa, case, ours), true) <= BF16_TOLERANCE
        assert same_bits(ours.values, theirs.values)
        torch.testing.assert_close(ours.keys, theirs.keys, rtol=0.01, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("block_size", [1, 3, 48, 64, 2048])
@pytest.mark.parametrize("isa", FAST)
def test_any_block_size_gives_the_same_bits(isa: str, block_size: int, dtype: torch.dtype) -> None:
    work = [(530, 3), (0, 5)]
    case, usual = make_case(TINY[4], work, dtype, block_size), make_case(TINY[4], work, dtype)
    expected = kernel(isa, usual, usual.fresh_memory())
    assert same_bits(kernel(isa, case, case.fresh_memory()), expected)


def part(case: Case, start: int, n: int) -> Case:
    """Some rows of a case of one span; the cache must hold what comes before."""
    (span,) = case.spans
    own = slice(start, start + n)
    spans = (replace(span, start=0, num_rows=n, position=span.position + start),)
    return Case(case.net, spans, case.rows[own], case.kv_rows[own], case.cos[own], case.sin[own], case.memory)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("position", [0, SEGMENT - 20, 3 * SEGMENT - 30])
@pytest.mark.parametrize("net", [TINY[0], TINY[2], TINY[3], TINY[4], Net(1, 1, 64, 32)], ids=str)
@pytest.mark.parametrize("isa", FAST)
def test_cutting_a_sequence_and_threads_change_no_bit(isa: str, net: Net, position: int, dtype: torch.dtype) -> None:
    case = make_case(net, [(position, 70)], dtype)
    whole = case.fresh_memory()
    expected = kernel(isa, case, whole)
    for threads, cuts in ((1, [1] * 70), (1, [64, 6]), (2, [3, 50, 17]), (3, [1, 1, 1, 67]), (16, [70])):
        memory, outs, at = case.fresh_memory(), [], 0
        for n in cuts:
            outs.append(kernel(isa, part(case, at, n), memory, threads))
            at += n
        assert same_bits(torch.cat(outs), expected)
        assert same_bits(memory.keys, whole.keys)
        assert same_bits(memory.values, whole.values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("isa", FAST)
def test_company_changes_no_bit(isa: str, dtype: torch.dtype) -> None:
    work = [(5, 1), (700, 1), (0, 66), (1030, 3)]
    together = make_case(TINY[3], work, dtype)
    alone, outs = together.fresh_memory(), []
    for span in together.spans:
        own = slice(span.start, span.end)
        rest = (together.rows[own], together.kv_rows[own], together.cos[own], together.sin[own])
        outs.append(kernel(isa, Case(TINY[3], (replace(span, start=0),), *rest, together.memory), alone))
    for threads in (1, 2, 7):
        memory = together.fresh_memory()
        assert same_bits(kernel(isa, together, memory, threads), torch.cat(outs))
        assert same_bits(memory.keys, alone.keys)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_real_dimensions(dtype: torch.dtype) -> None:
    case = make_case(REAL, [(1020, 7), (300, 1)], dtype, 64)
    true = truth(case)
    bound = error(reference(case, case.fresh_memory()), true)
    results = []
    for isa in FAST:
        results.append(kernel(isa, case, case.fresh_memory()))
        assert error(results[-1], true) <= (2 * bound if dtype is torch.float32 else BF16_TOLERANCE)
        assert same_bits(kernel(isa, case, case.fresh_memory(), threads=2), results[-1])
    if dtype is torch.float32:
        assert all(same_bits(out, results[0]) for out in results)


@pytest.mark.parametrize("isa", ISAS)
def test_large_scores_do_not_overflow(isa: str) -> None:
    case = make_case(TINY[0], [(20, 2)], torch.float32)
    case.memory.keys.mul_(1e6)
    torch.testing.assert_close(kernel(isa, case, case.fresh_memory()).double(), truth(case)[0], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("isa", ISAS)
def test_a_score_that_is_not_a_number_is_not_hidden(isa: str) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        case = make_case(TINY[0], [(600, 2)], dtype)
        case.rows[1, 3] = NAN
        out = kernel(isa, case, case.fresh_memory())
        assert out[0].isfinite().all()
        assert out[1, : TINY[0].head_dim].isnan().all()


@pytest.mark.parametrize("isa", ISAS)
def test_nothing_to_do(isa: str) -> None:
    case = make_case(TINY[0], [(5, 1)], torch.float32)
    empty = Case(TINY[0], (), case.rows[:0], case.kv_rows[:0], case.cos[:0], case.sin[:0], case.memory)
    assert kernel(isa, empty, case.fresh_memory()).shape == (0, 128)
