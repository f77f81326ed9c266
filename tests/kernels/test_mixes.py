"""The mixers: where the parts of a projected row stand, and what is made of them."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.batch import PagedKV, RecurrentState
from engine.kernels.attention_mix.reference import attention_mix
from engine.kernels.delta_net_mix.reference import delta_net_mix
from engine.kernels.rotary.reference import rotate
from engine.layers.attention import Attention
from engine.layers.gated_delta_net import GatedDeltaNet
from engine.layers.rope import Rope
from engine.model.config import RopeConfig
from engine.quant.matrix import dense_matrix
from engine.weights.source import AttentionWeights, DeltaNetWeights, HeadGroups
from tests.support.memories import NAN, ROWS, normal, paged_case, poisoned_slots, same_bits, slot_spans

KEY_HEADS, RATIO, KEY_DIM, VALUE_DIM, KERNEL, NUM_SLOTS = 3, 2, 8, 5, 4, 4
HEADS, CHANNELS = KEY_HEADS * RATIO, KEY_HEADS * (2 * KEY_DIM + RATIO * VALUE_DIM)
SIZES = (KEY_DIM, KEY_DIM, RATIO * VALUE_DIM, RATIO * VALUE_DIM)  # of a key head's q, k, v and z
NOTHING = dense_matrix(torch.empty(1, 1))
BATCHES = [[n] for n in ROWS if n] + [[1, 1, 1], [3, 17, 2]]


def _net(query: HeadGroups, key: HeadGroups, value: HeadGroups, gate: HeadGroups) -> GatedDeltaNet:
    weights = DeltaNetWeights(
        projections=(),
        query=query,
        key=key,
        value=value,
        gate=gate,
        ba=HeadGroups(KEY_HEADS * sum(SIZES), 2 * RATIO),
        conv=normal(CHANNELS, KERNEL, seed=1),
        decay_rate=-torch.exp(normal(HEADS, seed=2)),
        dt_bias=normal(HEADS, seed=3),
        norm=normal(VALUE_DIM, seed=4),
        out=NOTHING,
    )
    return GatedDeltaNet(KEY_HEADS, HEADS, KEY_DIM, VALUE_DIM, 1e-6, weights)


def _grouped() -> GatedDeltaNet:
    """One key head after the other, as in hub files."""
    stride = sum(SIZES)
    return _net(*(HeadGroups(sum(SIZES[:i]), stride) for i in range(4)))


def _separated() -> GatedDeltaNet:
    """All of a kind together, as in GGUF files."""
    return _net(*(HeadGroups(KEY_HEADS * sum(SIZES[:i]), size) for i, size in enumerate(SIZES)))


def _state(lengths: list[int]) -> RecurrentState:
    spans = slot_spans(lengths, NUM_SLOTS)
    delta = normal(len(spans), HEADS, KEY_DIM, VALUE_DIM, seed=5)
    conv = normal(len(spans), KERNEL - 1, CHANNELS, seed=6)
    return RecurrentState(poisoned_slots(spans, delta, NUM_SLOTS), poisoned_slots(spans, conv, NUM_SLOTS))


@pytest.mark.parametrize("lengths", BATCHES, ids=str)
def test_both_layouts_of_a_delta_net(lengths: list[int]) -> None:
    spans = slot_spans(lengths, NUM_SLOTS)
    parts = [normal(sum(lengths), KEY_HEADS, size, seed=10 + i) for i, size in enumerate(SIZES)]
    ba = normal(sum(lengths), 2 * HEADS, seed=20)
    grouped = torch.cat([torch.cat(parts, dim=2).flatten(1), ba], dim=1)
    separated = torch.cat([*(part.flatten(1) for part in parts), ba], dim=1)
    memories = _state(lengths), _state(lengths)
    out = delta_net_mix(_grouped(), grouped, memories[0], spans)
    assert out.shape == (sum(lengths), HEADS * VALUE_DIM)
    assert out.isfinite().all()
    assert same_bits(out, delta_net_mix(_separated(), separated, memories[1], spans))
    assert same_bits(memories[0].delta, memories[1].delta)
    assert same_bits(memories[0].conv, memories[1].conv)


def test_b_and_a_of_a_head_are_where_ba_says() -> None:
    """The second value head of the third key head: with b far below zero it learns nothing, whatever a is."""
    net, projected = _grouped(), normal(1, KEY_HEADS * sum(SIZES) + 2 * HEADS, seed=1)
    head, group = 2 * RATIO + 1, KEY_HEADS * sum(SIZES) + 2 * (2 * RATIO)
    projected[0, group + 1] = -1e4  # b
    projected[0, group + RATIO + 1] = -1e4  # a: no decay either
    memory = _state([1])
    (span,) = slot_spans([1], NUM_SLOTS)
    before = memory.delta[span.slot].clone()
    delta_net_mix(net, projected, memory, (span,))
    same = [bool(torch.equal(memory.delta[span.slot, h], before[h])) for h in range(HEADS)]
    assert same == [h == head for h in range(HEADS)]


QUERY_HEADS, KV_HEADS, DIM = 4, 2, 12
ROPE = Rope.of(RopeConfig(1e4, 8), torch.device("cpu"))


def _attention() -> Attention:
    weights = AttentionWeights(NOTHING, NOTHING, NOTHING, NOTHING, normal(DIM, seed=1), normal(DIM, seed=2))
    return Attention(QUERY_HEADS, KV_HEADS, DIM, 1e-6, weights)


def _normed(x: Tensor, factor: Tensor) -> Tensor:
    x = x.double()
    return x / ((x * x).mean(-1, keepdim=True) + 1e-6).sqrt() * factor.double()


@pytest.mark.parametrize("work", [[(0, n)] for n in ROWS if n] + [[(0, 3), (20, 1), (5, 9)]], ids=str)
def test_attention(work: list[tuple[int, int]]) -> None:
    """Against fp64: norm, rotation, attention over what was cached before and now, gate."""
    attention, case = _attention(), paged_case(work, 16, KV_HEADS, DIM, torch.float32, seed=1)
    num_rows = sum(rows for _, rows in work)
    query, gate = normal(num_rows, QUERY_HEADS, DIM, seed=3), normal(num_rows, QUERY_HEADS, DIM, seed=4)
    key, value = normal(num_rows, KV_HEADS, DIM, seed=5), normal(num_rows, KV_HEADS, DIM, seed=6)
    projected = torch.cat([torch.cat([query, gate], dim=2).flatten(1), key.flatten(1), value.flatten(1)], dim=1)
    positions = torch.cat([torch.arange(s.position, s.context_len) for s in case.spans])
    rotation = ROPE.at(positions)
    kv_rows = torch.cat([s.block_ids[p // 16] * 16 + p % 16 for s in case.spans for p in [_positions(s)]])
    for paged in (case.memory.keys, case.memory.values):  # this step's are yet to be written
        paged.flatten(0, 1)[kv_rows] = NAN
    out = attention_mix(attention, projected, rotation, kv_rows, case.memory, case.spans)
    double = dataclasses.replace(rotation, cos=rotation.cos.double(), sin=rotation.sin.double())
    rotated = rotate(_normed(query, attention.weights.q_norm), double)
    new_keys = rotate(_normed(key, attention.weights.k_norm), double)
    for span, old_keys, old_values in zip(case.spans, case.keys, case.values, strict=True):
        rows = slice(span.start, span.end)
        keys = torch.cat([old_keys[: span.position].double(), new_keys[rows]])
        values = torch.cat([old_values[: span.position], value[rows]]).double()
        seen = torch.arange(span.context_len) <= _positions(span)[:, None]
        q, k, v = (x.transpose(0, 1) for x in (rotated[rows], keys, values))
        truth = F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True).transpose(0, 1)
        truth = (truth * torch.sigmoid(gate[rows].double())).flatten(1)
        torch.testing.assert_close(out[rows].double(), truth, rtol=1e-4, atol=1e-5)


def _positions(span: object) -> Tensor:
    return torch.arange(span.position, span.context_len)  # type: ignore[attr-defined]


def test_the_cache_holds_what_is_rounded_to_its_dtype() -> None:
    attention = _attention()
    (span,) = paged_case([(0, 3)], 16, KV_HEADS, DIM, torch.float32, seed=1).spans
    projected, rotation = normal(3, 2 * DIM * (QUERY_HEADS + KV_HEADS), seed=2), ROPE.at(torch.arange(3))
    kv_rows = span.block_ids[0] * 16 + torch.arange(3)
    caches = [
        PagedKV(*(torch.zeros(4, 16, KV_HEADS, DIM, dtype=dtype) for _ in range(2)))
        for dtype in (torch.float32, torch.bfloat16)
    ]
    for cache in caches:
        attention_mix(attention, projected, rotation, kv_rows, cache, (span,))
    assert torch.equal(caches[0].keys.bfloat16(), caches[1].keys)
    assert torch.equal(caches[0].values.bfloat16(), caches[1].values)


def test_nothing_to_do() -> None:
    rows = torch.empty(0, 2 * DIM * (QUERY_HEADS + KV_HEADS))
    memory = PagedKV(torch.zeros(1, 4, KV_HEADS, DIM), torch.zeros(1, 4, KV_HEADS, DIM))
    none = torch.empty(0, dtype=torch.int64)
    assert attention_mix(_attention(), rows, ROPE.at(none), none, memory, ()).shape == (0, QUERY_HEADS * DIM)
    rows = torch.empty(0, KEY_HEADS * sum(SIZES) + 2 * HEADS)
    assert delta_net_mix(_grouped(), rows, _state([]), ()).shape == (0, HEADS * VALUE_DIM)
