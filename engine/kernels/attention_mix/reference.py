"""A gated attention mixer in plain torch."""

from collections.abc import Sequence

from torch import Tensor

from engine.batch import PagedKV, Span
from engine.kernels.exact import sigmoid
from engine.kernels.norm.reference import rms_norm
from engine.kernels.paged_attention.reference import paged_attention
from engine.kernels.rotary.reference import rotate
from engine.layers.attention import Attention
from engine.layers.rope import Rotation


def attention_mix(
    attention: Attention,
    projected: Tensor,
    rotation: Rotation,
    kv_rows: Tensor,
    memory: PagedKV,
    spans: Sequence[Span],
) -> Tensor:
    """softmax(q Kᵀ / √d) V ⊙ sigmoid(gate) with normalised, rotated q and k; writes K and V to the cache first.

    Shapes: projected fp32 [T, P], laid out as `Attention` says, kv_rows int64 [T]; returns fp32 [T, heads * head dim].
    """
    heads, kv_heads, dim, weights = attention.num_heads, attention.num_kv_heads, attention.head_dim, attention.weights
    queries, keys, values = projected.split([2 * heads * dim, kv_heads * dim, kv_heads * dim], dim=-1)
    query, gate = queries.unflatten(1, (heads, 2 * dim)).split(dim, dim=-1)
    query = rotate(rms_norm(query, weights.q_norm, attention.eps), rotation)
    key = rotate(rms_norm(keys.unflatten(1, (kv_heads, dim)), weights.k_norm, attention.eps), rotation)
    memory.write(kv_rows, key, values.unflatten(1, (kv_heads, dim)))
    return (paged_attention(query, memory, spans) * sigmoid(gate)).flatten(1)
