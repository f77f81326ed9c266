"""The fused DeltaNet kernel: against fp64 and the torch references, and bit for bit against itself."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from engine.batch import Span
from engine.kernels.causal_conv.reference import causal_conv
from engine.kernels.exact import sigmoid, softplus
from engine.kernels.gated_delta_rule.reference import gated_delta_rule
from engine.kernels.norm.reference import gated_rms_norm
from tests.kernels.cpu_library import c_spans, call, instruction_sets, pointer
from tests.support.memories import NAN, normal, others, poisoned_slots, same_bits, slot_spans, uniform

NUM_SLOTS = 7
ROUNDING = 2.0**-23  # what the error of a single number is worth
ISAS = instruction_sets()
FAST = [isa for isa in ISAS if isa != "portable"] or ISAS
ROWS = (1, 2, 3, 7, 16, 17, 64, 65)


class CDeltaNet(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("key_heads", "value_heads", "key_dim", "value_dim", "conv_kernel")),
        *((f"{part}_{what}", ctypes.c_int64) for part in "qkvz" for what in ("offset", "stride")),
        ("ba_offset", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("conv", "decay_rate", "dt_bias", "norm")),
        ("eps", ctypes.c_float),
        ("l2_eps", ctypes.c_float),
    ]


@dataclass(frozen=True)
class Net:
    """A DeltaNet's geometry and small weights."""

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    taps: int = 4
    grouped: bool = True
    eps: float = 1e-6

    @property
    def group(self) -> int:
        return self.value_heads // self.key_heads

    @property
    def channels(self) -> int:
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    @property
    def width(self) -> int:
        """Columns of a projected row before b and a."""
        return self.channels + self.value_heads * self.value_dim

    @property
    def conv(self) -> Tensor:
        return normal(self.channels, self.taps, seed=11) * 0.5

    @property
    def decay_rate(self) -> Tensor:
        return -uniform(self.value_heads, seed=12, low=0.01, high=4.0)

    @property
    def dt_bias(self) -> Tensor:
        return normal(self.value_heads, seed=13)

    @property
    def norm(self) -> Tensor:
        return 1.0 + 0.1 * normal(self.value_dim, seed=14)

    def offsets(self) -> list[int]:
        """Where q, k, v and z of the first key head lie, each with the step to the next key head's."""
        key, value = self.key_dim, self.group * self.value_dim
        if self.grouped:
            step = 2 * key + 2 * value
            return [0, step, key, step, 2 * key, step, 2 * key + value, step]
        keys = self.key_heads * key
        return [0, key, keys, key, 2 * keys, value, self.channels, value]

    def split(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Convolution inputs [T, channels], z [T, Hv, dv], b and a [T, Hv] of projected rows."""
        at = self.offsets()
        sizes = (self.key_dim, self.key_dim, self.group * self.value_dim, self.group * self.value_dim)
        parts = []
        for i, size in enumerate(sizes):
            heads = [projected[:, at[2 * i] + g * at[2 * i + 1] :][:, :size] for g in range(self.key_heads)]
            parts.append(torch.cat(heads, 1))
        ba = projected[:, self.width :][:, : 2 * self.value_heads].unflatten(1, (self.key_heads, 2, self.group))
        z = parts[3].unflatten(1, (self.value_heads, self.value_dim))
        return torch.cat(parts[:3], 1), z, ba[:, :, 0].flatten(1), ba[:, :, 1].flatten(1)

    def heads(self, mixed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised and scaled queries, keys [T, Hk, dk] and values [T, Hv, dv] of convolved rows."""
        keys = self.key_heads * self.key_dim
        q, k, v = mixed.split([keys, keys, self.value_heads * self.value_dim], 1)
        q, k = (x.unflatten(1, (self.key_heads, self.key_dim)) for x in (q, k))
        q, k = (x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6) for x in (q, k))
        return q * self.key_dim**-0.5, k, v.unflatten(1, (self.value_heads, self.value_dim))


@dataclass
class Memory:
    delta: Tensor
    conv: Tensor

    def clone(self) -> "Memory":
        return Memory(self.delta.clone(), self.conv.clone())


def memory_of(net: Net, spans: Sequence[Span]) -> Memory:
    delta = normal(len(spans), net.value_heads, net.key_dim, net.value_dim, seed=1) * 0.2
    conv = normal(len(spans), net.taps - 1, net.channels, seed=2)
    return Memory(poisoned_slots(spans, delta, NUM_SLOTS), poisoned_slots(spans, conv, NUM_SLOTS))


def projected_rows(net: Net, num_rows: int, seed: int = 3) -> Tensor:
    """Rows with a few more columns than there is use for."""
    rows = torch.full((num_rows, net.width + 2 * net.value_heads + 5), NAN)
    rows[:, :-5] = normal(num_rows, net.width + 2 * net.value_heads, seed=seed)
    return rows


def kernel(isa: str, net: Net, rows: Tensor, memory: Memory, spans: Sequence[Span], threads: int = 1) -> Tensor:
    small = [net.conv, net.decay_rate, net.dt_bias, net.norm]
    dims = (net.key_heads, net.value_heads, net.key_dim, net.value_dim, net.taps)
    c = CDeltaNet(*dims, *net.offsets(), net.width, *(pointer(x) for x in small), net.eps, 1e-6)
    out = torch.full((len(rows), net.value_heads * net.value_dim), NAN)
    memories = ctypes.c_void_p(pointer(memory.delta)), ctypes.c_void_p(pointer(memory.conv))
    where = ctypes.c_void_p(pointer(rows)), rows.stride(0), *memories, c_spans(spans), len(spans)
    call(isa, "dl_delta_net_mix", ctypes.byref(c), *where, ctypes.c_void_p(pointer(out)), ctypes.c_int(threads))
    return out


def reference(net: Net, rows: Tensor, memory: Memory, spans: Sequence[Span]) -> Tensor:
    """The torch references in fp32, one after the other."""
    inputs, z, b, a = net.split(rows)
    q, k, v = net.heads(causal_conv(inputs, net.conv, memory.conv, spans))
    decay = torch.exp(net.decay_rate * softplus(a + net.dt_bias))
    out = gated_delta_rule(q, k, v.contiguous(), decay, sigmoid(b), memory.delta, spans)
    return gated_rms_norm(out, z, net.norm, net.eps).flatten(1)


def truth(net: Net, rows: Tensor, memory: Memory, spans: Sequence[Span]) -> tuple[Tensor, Tensor]:
    """The equations in fp64: outputs, and the states S [spans, Hv, dk, dv]."""
    inputs, z, b, a = (x.double() for x in net.split(rows))
    decay = torch.exp(net.decay_rate.double() * torch.nn.functional.softplus(a + net.dt_bias.double()))
    outs, states = [], []
    for span in spans:
        window = torch.cat([memory.conv[span.slot].double(), inputs[span.start : span.end]])
        mixed = sum(window[j : j + span.num_rows] * net.conv[:, j].double() for j in range(net.taps))
        q, k, v = net.heads(torch.nn.functional.silu(torch.as_tensor(mixed)))
        q, k = (x.repeat_interleave(net.group, 1) for x in (q, k))
        s = memory.delta[span.slot].double()
        for t in range(span.num_rows):
            s = s * decay[span.start + t][:, None, None]
            d = torch.sigmoid(b[span.start + t])[:, None] * (v[t] - torch.einsum("hkv,hk->hv", s, k[t]))
            s = s + k[t][:, :, None] * d[:, None, :]
            outs.append(torch.einsum("hkv,hk->hv", s, q[t]))
        states.append(s)
    o = torch.stack(outs)
    normed = o * torch.rsqrt((o * o).mean(-1, keepdim=True) + net.eps) * net.norm.double()
    return (normed * torch.nn.functional.silu(z)).flatten(1), torch.stack(states)


def error(x: Tensor, true: Tensor) -> float:
    """Root mean square of the difference, by that of the truth; NaN counts as infinite."""
    relative = float((x.double() - true).square().mean().sqrt() / true.square().mean().sqrt())
    return relative if relative == relative else float("inf")


TINY = [
    Net(2, 4, 8, 16),
    Net(1, 1, 1, 1),
    Net(2, 6, 7, 5, taps=3),
    Net(3, 3, 17, 33, grouped=False),
    Net(2, 4, 24, 48, taps=2),
    Net(1, 3, 40, 72, taps=5, grouped=False),
    Net(2, 2, 16, 64),
]
REAL = Net(16, 32, 128, 128)
BATCHES = [[n] for n in ROWS] + [[1, 1, 1], [3, 0, 1, 17, 2], [130]]


@pytest.mark.parametrize("net", TINY, ids=str)
@pytest.mark.parametrize("lengths", BATCHES, ids=str)
def test_as_exact_as_the_reference(lengths: list[int], net: Net) -> None:
    spans = slot_spans(lengths, NUM_SLOTS)
    rows, memory = projected_rows(net, sum(lengths)), memory_of(net, spans)
    true, true_states = truth(net, rows, memory, spans)
    theirs, before = memory.clone(), memory.clone()
    expected = reference(net, rows, theirs, spans)
    slots = [s.slot for s in spans]
    bound, state_bound = error(expected, true), error(theirs.delta[slots], true_states)
    results = []
    for isa in ISAS:
        ours = memory.clone()
        out = kernel(isa, net, rows, ours, spans)
        assert error(out, true) <= 2 * bound + ROUNDING
        assert error(ours.delta[slots], true_states) <= 2 * state_bound + ROUNDING
        assert same_bits(ours.conv[slots], theirs.conv[slots])
        free = others(spans, NUM_SLOTS)
        assert same_bits(ours.conv[free], before.conv[free])
        assert same_bits(ours.delta[free], before.delta[free])
        results.append((out, ours.delta))
    for out, delta in results:
        assert same_bits(out, results[0][0])
        assert same_bits(delta, results[0][1])


@pytest.mark.parametrize("cuts", [[1] * 70, [64, 6], [3, 50, 17], [69, 1]], ids=str)
@pytest.mark.parametrize("net", [TINY[2], TINY[4], TINY[5]], ids=str)
@pytest.mark.parametrize("isa", FAST)
def test_cutting_a_sequence_changes_no_bit(isa: str, net: Net, cuts: list[int]) -> None:
    (whole,) = slot_spans([70], NUM_SLOTS)
    rows, memory = projected_rows(net, 70), memory_of(net, [whole])
    pieces, once = memory.clone(), memory.clone()
    expected = kernel(isa, net, rows, once, [whole])
    outs, at = [], 0
    for n in cuts:
        outs.append(kernel(isa, net, rows[at : at + n], pieces, [replace(whole, num_rows=n, position=at)]))
        at += n
    assert same_bits(torch.cat(outs), expected)
    assert same_bits(pieces.delta, once.delta)
    assert same_bits(pieces.conv, once.conv)


@pytest.mark.parametrize("isa", FAST)
@pytest.mark.parametrize("net", [TINY[1], TINY[2], TINY[5], Net(1, 2, 32, 160)], ids=str)
def test_threads_and_company_change_no_bit(isa: str, net: Net) -> None:
    """Few heads on many threads are shared out by columns."""
    spans = slot_spans([5, 1, 66], NUM_SLOTS)
    rows, memory = projected_rows(net, 72), memory_of(net, spans)
    alone = memory.clone()
    expected = torch.cat([kernel(isa, net, rows[s.start : s.end], alone, [replace(s, start=0)]) for s in spans])
    for threads in (1, 2, 5, 16):
        together = memory.clone()
        assert same_bits(kernel(isa, net, rows, together, spans, threads), expected)
        assert same_bits(together.delta, alone.delta)
        assert same_bits(together.conv, alone.conv)


def test_real_dimensions() -> None:
    spans = slot_spans([9, 1], 2)
    rows, memory = projected_rows(REAL, 10), memory_of(REAL, spans)
    true, true_states = truth(REAL, rows, memory, spans)
    theirs = memory.clone()
    bound = error(reference(REAL, rows, theirs, spans), true)
    results = []
    for isa in FAST:
        for threads in (1, 2):
            ours = memory.clone()
            results.append((kernel(isa, REAL, rows, ours, spans, threads), ours.delta))
            assert error(results[-1][0], true) <= 2 * bound
            slots = [s.slot for s in spans]
            assert error(ours.delta[slots], true_states) <= 2 * error(theirs.delta[slots], true_states)
    for out, delta in results:
        assert same_bits(out, results[0][0])
        assert same_bits(delta, results[0][1])


@pytest.mark.parametrize("isa", ISAS)
def test_extreme_gates(isa: str) -> None:
    """Full decay forgets the state; a gate far below zero keeps it and learns nothing."""
    net = TINY[0]
    (span,) = slot_spans([1], NUM_SLOTS)
    for b, a, kept in ((-80.0, 80.0, 0.0), (-80.0, -80.0, 1.0)):
        rows, memory = projected_rows(net, 1), memory_of(net, [span])
        ba = rows[:, net.width : -5].unflatten(1, (net.key_heads, 2, net.group))
        ba[:, :, 0], ba[:, :, 1] = b, a
        before = memory.clone()
        kernel(isa, net, rows, memory, [span])
        torch.testing.assert_close(memory.delta[span.slot], before.delta[span.slot] * kept, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_nothing_to_do(isa: str) -> None:
    net = TINY[0]
    memory = memory_of(net, slot_spans([1], NUM_SLOTS))
    assert kernel(isa, net, projected_rows(net, 0), memory, []).shape == (0, 64)
    before = memory.clone()
    kernel(isa, net, projected_rows(net, 0), memory, slot_spans([0], NUM_SLOTS))
    assert same_bits(memory.conv, before.conv)
    assert same_bits(memory.delta, before.delta)
