"""Paged attention in plain torch, over fixed tiles of queries and fixed blocks of keys.

Every product has the same shape whatever the length of the prompt or the chunk, and sums run over key blocks in
order; a block that lies behind a row's position adds exact zeros. So a row's result does not depend on how its
prompt was cut. fp32 inside.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.batch import PagedKV, Span

QUERY_TILE = 8
KEY_BLOCK = 512


def paged_attention(query: Tensor, memory: PagedKV, spans: Sequence[Span]) -> Tensor:
    """softmax(q Kᵀ / √d) V, each token seeing its own sequence up to itself.

    Shapes: query [T, H, d] (rotated), memory already holding this step's keys and values; returns fp32 [T, H, d].
    Query head h reads KV head h // (H / KV heads).
    """
    num_rows, num_heads, head_dim = query.shape
    num_kv_heads = memory.keys.shape[2]
    out = torch.empty(num_rows, num_heads, head_dim, dtype=torch.float32, device=query.device)
    scaled = query.float() * head_dim**-0.5
    grouped = scaled.view(num_rows, num_kv_heads, num_heads // num_kv_heads, head_dim)
    for span in spans:
        keys, values = _gather(memory, span)
        for start in range(span.start, span.end, QUERY_TILE):
            stop = min(start + QUERY_TILE, span.end)
            position = span.position + start - span.start
            out[start:stop] = _attend_tile(grouped[start:stop], position, keys, values).flatten(1, 2)
    return out


def _gather(memory: PagedKV, span: Span) -> tuple[Tensor, Tensor]:
    """The span's keys and values as fp32 [num key blocks, KV heads, KEY_BLOCK, d], zero past its context."""
    num_blocks = -(-span.context_len // KEY_BLOCK)
    gathered = []
    for paged in (memory.keys, memory.values):
        flat = paged[span.block_ids].flatten(0, 1)[: span.context_len]
        padded = flat.new_zeros(num_blocks * KEY_BLOCK, *flat.shape[1:], dtype=torch.float32)
        padded[: span.context_len] = flat
        gathered.append(padded.unflatten(0, (num_blocks, KEY_BLOCK)).transpose(1, 2).contiguous())
    return gathered[0], gathered[1]


def _attend_tile(query: Tensor, position: int, keys: Tensor, values: Tensor) -> Tensor:
    """Rows [n, KV heads, group, d] at positions position … position + n - 1; returns the same shape."""
    n, num_kv_heads, group, head_dim = query.shape
    tile = query.new_zeros(num_kv_heads, QUERY_TILE, group, head_dim)
    tile[:, :n] = query.transpose(0, 1)
    rows = tile.flatten(1, 2)  # [KV heads, QUERY_TILE · group, d]
    num_blocks = (position + n - 1) // KEY_BLOCK + 1
    scores = torch.stack([torch.bmm(rows, keys[b].transpose(1, 2)) for b in range(num_blocks)])
    scores = scores.unflatten(2, (QUERY_TILE, group))  # [blocks, KV heads, tile, group, KEY_BLOCK]
    last = torch.arange(position, position + QUERY_TILE, device=query.device)
    seen = torch.arange(num_blocks * KEY_BLOCK, device=query.device).view(num_blocks, 1, 1, 1, KEY_BLOCK)
    scores = scores.masked_fill(seen > last[:, None, None], float("-inf"))
    weights = torch.exp(scores - scores.amax(dim=(0, 4), keepdim=True))
    sums = weights.sum(-1)
    total, numerator = sums[0], torch.bmm(weights[0].flatten(1, 2), values[0])
    for b in range(1, num_blocks):
        total = total + sums[b]
        numerator = numerator + torch.bmm(weights[b].flatten(1, 2), values[b])
    out: Tensor = numerator.unflatten(1, (QUERY_TILE, group)) / total.unsqueeze(-1)
    return out[:, :n].transpose(0, 1)
