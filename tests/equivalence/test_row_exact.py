"""Every kernel's row has the same bits in any company, at the shapes of the real model.

The promise rests on this. The large shapes are Qwen3-Coder-Next's: where torch chooses its code by size, small ones
prove nothing.
"""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

from engine.batch import PagedKV, Span
from engine.kernels.causal_conv.reference import causal_conv
from engine.kernels.exact import sigmoid, silu, softplus
from engine.kernels.gated_delta_rule.reference import gated_delta_rule
from engine.kernels.linear.reference import exact_linear, linear
from engine.kernels.moe.reference import add_moe, mixture, route, swiglu
from engine.kernels.norm.reference import gated_rms_norm, rms_norm
from engine.kernels.paged_attention.reference import paged_attention
from engine.kernels.rotary.reference import rotate
from engine.layers.moe import SparseMoe
from engine.layers.rope import Rope
from engine.model.config import RopeConfig
from engine.quant.formats import BY_NAME
from engine.quant.matrix import Matrix, dense_matrix
from engine.quant.quantise import quantise_int8
from engine.weights.source import MlpWeights, MoeWeights
from tests.support.memories import normal, paged_case, uniform

LONGEST = 65
COMPANY = (1, 2, 3, 7, 16, 17, 64)
DTYPES = [torch.float32, torch.bfloat16]
HIDDEN, EXPERT, HEADS, KEY_HEADS, DIM, CHANNELS = 2048, 512, 32, 16, 128, 8192
QUERY_HEADS, KV_HEADS, HEAD_DIM = 16, 2, 256
NO_BLOCKS = torch.empty(0, dtype=torch.int64)


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"], autouse=True)
def _threads(request: pytest.FixtureRequest) -> Iterator[None]:
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(1)


def _assert_row_exact(function: Callable[[slice], tuple[Tensor, ...]]) -> None:
    """`function` computes some of 65 rows: each row must come out as among all of them."""
    whole = function(slice(0, LONGEST))
    for num_rows in COMPANY:
        start = 1 if num_rows % 2 else LONGEST - num_rows
        rows = slice(start, start + num_rows)
        for part, expected in zip(function(rows), whole, strict=True):
            assert torch.equal(part, expected[rows]), f"rows {start} to {rows.stop - 1}"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("num_out", "num_in"), [(12288, HIDDEN), (HIDDEN, 4096), (EXPERT, HIDDEN), (HIDDEN, EXPERT), (64, HIDDEN)]
)
def test_linear(num_out: int, num_in: int, dtype: torch.dtype) -> None:
    x, matrix = normal(LONGEST, num_in, seed=1), dense_matrix(normal(num_out, num_in, seed=2, dtype=dtype))
    _assert_row_exact(lambda rows: (linear(x[rows], matrix),))


def test_linear_with_quantised_weights() -> None:
    matrix = Matrix(BY_NAME["Q8_0"], EXPERT, HIDDEN, (quantise_int8(normal(EXPERT, HIDDEN, seed=2)),))
    x = normal(LONGEST, HIDDEN, seed=1)
    _assert_row_exact(lambda rows: (linear(x[rows], matrix),))


def test_norms() -> None:
    x, weight = normal(LONGEST, HIDDEN, seed=1), normal(HIDDEN, seed=2)
    heads, gates = normal(LONGEST, HEADS, DIM, seed=3), normal(LONGEST, HEADS, DIM, seed=4)
    queries = normal(LONGEST, QUERY_HEADS, 2 * HEAD_DIM, seed=5)[..., :HEAD_DIM]
    _assert_row_exact(
        lambda rows: (
            rms_norm(x[rows], weight, 1e-6),
            rms_norm(queries[rows], weight[:HEAD_DIM], 1e-6),
            gated_rms_norm(heads[rows], gates[rows], weight[:DIM], 1e-6),
        )
    )


@pytest.mark.parametrize("top_k", [1, 3, 10])
@pytest.mark.parametrize("num_experts", [7, 33, 512])
def test_route(num_experts: int, top_k: int) -> None:
    logits = normal(LONGEST, num_experts, seed=1)
    if top_k <= num_experts:
        _assert_row_exact(lambda rows: route(logits[rows], top_k, True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_experts(dtype: torch.dtype) -> None:
    """Few experts, so that an expert's rows come to more than a tile."""
    num_experts, top_k = 3, 2
    x = normal(LONGEST, HIDDEN, seed=1)
    gate, up, down = (
        dense_matrix(*(normal(num_experts, *shape, seed=seed) * shape[1] ** -0.5).to(dtype).unbind())
        for seed, shape in enumerate([(EXPERT, HIDDEN), (EXPERT, HIDDEN), (HIDDEN, EXPERT)], 2)
    )
    stacks = MlpWeights(gate, up, down)
    weights, experts = route(normal(LONGEST, num_experts, seed=5), top_k, True)
    _assert_row_exact(lambda rows: (mixture(x[rows], weights[rows], experts[rows], stacks), swiglu(x[rows], stacks, 0)))
    router = dense_matrix(normal(num_experts, HIDDEN, seed=6, dtype=dtype))
    moe = SparseMoe(
        normal(HIDDEN, seed=7), 1e-6, top_k, True, MoeWeights(router, stacks, stacks, normal(HIDDEN, seed=8))
    )
    _assert_row_exact(lambda rows: (exact_linear(x[rows], router), add_moe(x[rows].clone(), moe)))


def test_rotation() -> None:
    rope = Rope.of(RopeConfig(5e6, 64), torch.device("cpu"))
    positions = torch.randint(0, 262144, (LONGEST,), generator=torch.Generator().manual_seed(1))
    x = normal(LONGEST, QUERY_HEADS, HEAD_DIM, seed=2)
    _assert_row_exact(lambda rows: (rotate(x[rows], rope.at(positions[rows])),))


@pytest.mark.parametrize("function", [sigmoid, silu, softplus, torch.exp, torch.rsqrt, torch.sin, torch.cos])
def test_elementwise_at_every_offset_and_length(function: Callable[[Tensor], Tensor]) -> None:
    """Vector code for most of a tensor and other code for its tail would show here."""
    x = uniform(70_000, seed=1, low=0.001, high=12.0)
    if function is not torch.rsqrt:
        x = x - 6.0
    whole = function(x)
    for offset in (0, 1, 2, 3, 5, 8, 11, 15, 16, 31):
        for length in (*range(1, 19), 31, 33, 63, 65, 127):
            part = slice(offset, offset + length)
            assert torch.equal(function(x[part]), whole[part])
            assert torch.equal(function(x[part].clone()), whole[part])
    square = x[:65_536].view(256, 256)
    assert torch.equal(function(square[:, 3:80]).flatten(), function(square)[:, 3:80].flatten())
    assert torch.equal(function(square.t()), function(square).t())


CUTS = ([1] * LONGEST, [1, 64], [7, 16, 2, 17, 23], [63, 2])
ATTENTION_CUTS = ([29, *[1] * 7, 29], [1, 64], [31, 2, 32])  # one by one across the block of keys


def _cut(lengths: Sequence[int], slot: int, position: int = 0, block_ids: Tensor = NO_BLOCKS) -> list[Span]:
    """One sequence's rows in chunks."""
    assert sum(lengths) == LONGEST
    spans, start = [], 0
    for length in lengths:
        spans.append(Span(start, length, position + start, slot, block_ids))
        start += length
    return spans


def _moved(span: Span, start: int) -> Span:
    return Span(start, span.num_rows, span.position, span.slot, span.block_ids)


def test_convolution_in_chunks() -> None:
    x, weight = normal(LONGEST, CHANNELS, seed=1), normal(CHANNELS, 4, seed=2)
    before = normal(3, CHANNELS, seed=3)

    def run(lengths: Sequence[int], slot: int) -> tuple[Tensor, Tensor]:
        state = torch.zeros(3, 3, CHANNELS)
        state[slot] = before
        outs = [causal_conv(x[s.start : s.end], weight, state, [_moved(s, 0)]) for s in _cut(lengths, slot)]
        return torch.cat(outs), state[slot]

    whole, last = run([LONGEST], 0)
    for i, lengths in enumerate(CUTS):
        out, state = run(lengths, i % 3)
        assert torch.equal(out, whole)
        assert torch.equal(state, last)


def test_delta_rule_in_chunks_and_in_company() -> None:
    query = torch.nn.functional.normalize(normal(LONGEST, KEY_HEADS, DIM, seed=1), dim=-1)
    key = torch.nn.functional.normalize(normal(LONGEST, KEY_HEADS, DIM, seed=2), dim=-1)
    inputs = (
        query,
        key,
        normal(LONGEST, HEADS, DIM, seed=3),
        uniform(LONGEST, HEADS, seed=4, low=0.5),
        uniform(LONGEST, HEADS, seed=5),
    )
    before = normal(HEADS, DIM, DIM, seed=6)

    def run(lengths: Sequence[int], slot: int, company: bool) -> tuple[Tensor, Tensor]:
        state = torch.zeros(3, HEADS, DIM, DIM)
        state[slot] = before
        outs = []
        for span in _cut(lengths, slot):
            own = [x[span.start : span.end] for x in inputs]
            if company:  # another sequence's rows before and after
                other = Span(0, 3, 0, (slot + 1) % 3, NO_BLOCKS)
                batch = [torch.cat([x[:3], part, x[5:7]]) for x, part in zip(inputs, own, strict=True)]
                after = Span(3 + span.num_rows, 2, 0, (slot + 2) % 3, NO_BLOCKS)
                out = gated_delta_rule(*batch, state, [other, _moved(span, 3), after])
                outs.append(out[3 : 3 + span.num_rows])
            else:
                outs.append(gated_delta_rule(*own, state, [_moved(span, 0)]))
        return torch.cat(outs), state[slot]

    whole, last = run([LONGEST], 0, company=False)
    for i, lengths in enumerate(CUTS):
        out, state = run(lengths, i % 3, company=i == 2)
        assert torch.equal(out, whole)
        assert torch.equal(state, last)


@pytest.mark.parametrize(("position", "dtype"), [(480, torch.float32), (992, torch.bfloat16)])
def test_attention_in_chunks_and_in_company(position: int, dtype: torch.dtype) -> None:
    """At 480 and 992 the rows cross a block of 512 keys, at different rows of the query tiles in each cut."""
    query = normal(LONGEST, QUERY_HEADS, HEAD_DIM, seed=1)
    whole_case = paged_case([(position, LONGEST)], 64, KV_HEADS, HEAD_DIM, dtype, seed=2)
    whole = paged_attention(query, whole_case.memory, whole_case.spans)
    for block_size, lengths in zip((64, 24, 128), ATTENTION_CUTS, strict=True):
        case = paged_case([(position, LONGEST), (20, 5)], block_size, KV_HEADS, HEAD_DIM, dtype, seed=2)
        assert torch.equal(case.keys[0], whole_case.keys[0])
        table = case.spans[0].block_ids
        other = Span(0, 5, 20, 1, case.spans[1].block_ids)
        outs = []
        for span in _cut(lengths, 0, position, table):
            _poison_future(case.memory, case.keys[0], case.values[0], span)
            batch = torch.cat([query[10:15], query[span.start : span.end]])
            outs.append(paged_attention(batch, case.memory, [other, _moved(span, 5)])[5:])
        assert torch.equal(torch.cat(outs), whole)


def _poison_future(memory: PagedKV, keys: Tensor, values: Tensor, span: Span) -> None:
    """As in a real step: what comes after the span is not written yet."""
    at = torch.arange(len(keys))
    rows = span.block_ids[at // memory.block_size] * memory.block_size + at % memory.block_size
    nan = torch.full_like(keys, float("nan"))
    later = (at >= span.context_len)[:, None, None]
    memory.write(rows, torch.where(later, nan, keys), torch.where(later, nan, values))
