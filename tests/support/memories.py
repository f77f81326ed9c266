"""Spans with scattered slots and block tables, and memories in which every place nobody may read is NaN."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.batch import PagedKV, Span

NAN = float("nan")
ROWS = (0, 1, 2, 3, 7, 15, 16, 17, 63, 64, 65)


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers that depend on the seed and the shape alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def uniform(*shape: int, seed: int, low: float = 0.0, high: float = 1.0) -> Tensor:
    """Uniform numbers that depend on the seed and the shape alone."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * (high - low) + low


def slot_spans(lengths: Sequence[int], num_slots: int, seed: int = 0) -> tuple[Span, ...]:
    """Spans of these lengths, one after the other, in slots drawn without order."""
    slots = torch.randperm(num_slots, generator=torch.Generator().manual_seed(seed)).tolist()
    spans, start = [], 0
    for i, length in enumerate(lengths):
        spans.append(Span(start, length, 5 * i, slots[i], torch.empty(0, dtype=torch.int64)))
        start += length
    return tuple(spans)


def poisoned_slots(spans: Sequence[Span], contents: Tensor, num_slots: int) -> Tensor:
    """Slots that hold `contents` [spans, …] where the spans' slots are, and NaN elsewhere."""
    state = torch.full((num_slots, *contents.shape[1:]), NAN, dtype=contents.dtype)
    for span, content in zip(spans, contents, strict=True):
        state[span.slot] = content
    return state


def others(spans: Sequence[Span], num_slots: int) -> list[int]:
    """Slots of nobody."""
    return sorted(set(range(num_slots)) - {s.slot for s in spans})


@dataclass(frozen=True)
class PagedCase:
    """Spans over a paged memory, and the keys and values [context, KV heads, d] each of them sees."""

    spans: tuple[Span, ...]
    memory: PagedKV
    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


def paged_case(
    work: Sequence[tuple[int, int]], block_size: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, seed: int
) -> PagedCase:
    """Spans of (position, rows); block tables are shuffled, and whatever is not in a context is NaN."""
    needed = [-(-(position + rows) // block_size) for position, rows in work]
    num_blocks = sum(needed) + 3
    order = torch.randperm(num_blocks, generator=torch.Generator().manual_seed(seed))
    shape = (num_blocks, block_size, num_kv_heads, head_dim)
    memory = PagedKV(torch.full(shape, NAN, dtype=dtype), torch.full(shape, NAN, dtype=dtype))
    spans: list[Span] = []
    keys: list[Tensor] = []
    values: list[Tensor] = []
    start = first = 0
    for i, ((position, rows), num) in enumerate(zip(work, needed, strict=True)):
        span = Span(start, rows, position, slot=i, block_ids=order[first : first + num])
        at = torch.arange(span.context_len)
        rows_of = span.block_ids[at // block_size] * block_size + at % block_size
        keys.append(normal(span.context_len, num_kv_heads, head_dim, seed=100 * seed + i, dtype=dtype))
        values.append(normal(span.context_len, num_kv_heads, head_dim, seed=100 * seed + i + 50, dtype=dtype))
        memory.write(rows_of, keys[-1], values[-1])
        spans.append(span)
        start, first = start + rows, first + num
    return PagedCase(tuple(spans), memory, tuple(keys), tuple(values))


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equal bit for bit, NaN and the sign of zero included."""
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(_bits(a), _bits(b))


def _bits(x: Tensor) -> Tensor:
    return x.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[x.itemsize])
