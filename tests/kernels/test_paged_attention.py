"""Paged attention against torch's scaled_dot_product_attention with an explicit mask, in fp64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.batch import PagedKV, Span
from engine.kernels.paged_attention.reference import KEY_BLOCK, paged_attention
from tests.support.memories import ROWS, normal, paged_case, same_bits

WORK = (
    [[(0, n)] for n in ROWS if n]
    + [[(KEY_BLOCK + d, 1)] for d in (-2, -1, 0, 1)]  # contexts of 511, 512, 513, 514
    + [[(2 * KEY_BLOCK, 1)], [(KEY_BLOCK - 5, 11)], [(KEY_BLOCK - 8, 8)], [(1020, 9)]]
    + [[(0, 1), (4, 1), (600, 1)], [(0, 17), (3, 1), (63, 2), (510, 5), (0, 2)]]
)


def _attention(query: Tensor, keys: Tensor, values: Tensor, position: int) -> Tensor:
    """Rows [n, H, d] at `position` onward over a context [c, KV heads, d]."""
    group = query.shape[1] // keys.shape[1]
    q = query.double().transpose(0, 1)
    k, v = (x.double().repeat_interleave(group, 1).transpose(0, 1) for x in (keys, values))
    seen = torch.arange(len(keys)) <= torch.arange(position, position + len(query))[:, None]
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(0, 1)


@pytest.mark.parametrize(("num_heads", "num_kv_heads"), [(3, 3), (4, 2), (3, 1), (8, 2)])
@pytest.mark.parametrize("work", WORK, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_against_sdpa(work: list[tuple[int, int]], num_heads: int, num_kv_heads: int, dtype: torch.dtype) -> None:
    head_dim = 12
    case = paged_case(work, 16, num_kv_heads, head_dim, dtype, seed=1)
    before = PagedKV(case.memory.keys.clone(), case.memory.values.clone())
    query = normal(sum(rows for _, rows in work), num_heads, head_dim, seed=2)
    out = paged_attention(query, case.memory, case.spans)
    assert out.dtype == torch.float32
    for span, keys, values in zip(case.spans, case.keys, case.values, strict=True):
        truth = _attention(query[span.start : span.end], keys, values, span.position)
        torch.testing.assert_close(out[span.start : span.end].double(), truth, rtol=1e-4, atol=1e-5)
    assert same_bits(case.memory.keys, before.keys)
    assert same_bits(case.memory.values, before.values)


@pytest.mark.parametrize("block_size", [1, 3, 64, 2048])
def test_any_block_size(block_size: int) -> None:
    work = [(530, 3), (0, 5)]
    case = paged_case(work, block_size, 2, 8, torch.float32, seed=3)
    query = normal(8, 4, 8, seed=2)
    out = paged_attention(query, case.memory, case.spans)
    for span, keys, values in zip(case.spans, case.keys, case.values, strict=True):
        truth = _attention(query[span.start : span.end], keys, values, span.position)
        torch.testing.assert_close(out[span.start : span.end].double(), truth, rtol=1e-4, atol=1e-5)


def test_a_block_table_longer_than_the_context() -> None:
    """Blocks are handed out ahead of the tokens: what they hold is not looked at."""
    case = paged_case([(20, 2)], 4, 1, 8, torch.float32, seed=4)
    (span,) = case.spans
    unused = sorted(set(range(len(case.memory.keys))) - set(span.block_ids.tolist()))
    longer = Span(
        span.start, span.num_rows, span.position, span.slot, torch.cat([span.block_ids, torch.tensor(unused)])
    )
    query = normal(2, 2, 8, seed=2)
    assert torch.equal(paged_attention(query, case.memory, (longer,)), paged_attention(query, case.memory, (span,)))


def test_two_spans_may_share_blocks() -> None:
    """A common prefix is stored once."""
    case = paged_case([(20, 4)], 4, 1, 8, torch.float32, seed=5)
    (span,) = case.spans
    query = normal(4, 2, 8, seed=2)
    twice = (span, Span(4, 4, span.position, 1, span.block_ids))
    out = paged_attention(torch.cat([query, query]), case.memory, twice)
    assert torch.equal(out[:4], out[4:])


def test_large_scores_do_not_overflow() -> None:
    case = paged_case([(0, 20)], 4, 1, 8, torch.float32, seed=6)
    query = normal(20, 2, 8, seed=2) * 1e4
    truth = _attention(query, case.keys[0], case.values[0], 0)
    torch.testing.assert_close(paged_attention(query, case.memory, case.spans).double(), truth, rtol=1e-2, atol=1e-2)


def test_nothing_to_do() -> None:
    memory = PagedKV(torch.zeros(1, 4, 1, 8), torch.zeros(1, 4, 1, 8))
    assert paged_attention(torch.empty(0, 2, 8), memory, ()).shape == (0, 2, 8)


def test_write_touches_its_rows_alone() -> None:
    case = paged_case([], 4, 2, 8, torch.bfloat16, seed=7)
    keys, values = normal(3, 2, 8, seed=1), normal(3, 2, 8, seed=2)
    rows = torch.tensor([9, 0, 6])
    case.memory.write(rows, keys, values)
    for paged, written in ((case.memory.keys, keys), (case.memory.values, values)):
        flat = paged.flatten(0, 1)
        assert torch.equal(flat[rows], written.bfloat16())
        assert flat[[i for i in range(len(flat)) if i not in rows]].isnan().all()
