"""The delta rule against two witnesses in fp64: plain loops, and the chunked form of the Gated DeltaNet paper."""

import pytest
import torch
from torch import Tensor

from engine.kernels.gated_delta_rule.reference import gated_delta_rule
from tests.support.memories import ROWS, normal, others, poisoned_slots, same_bits, slot_spans, uniform

NUM_SLOTS = 9
BATCHES = [[n] for n in ROWS if n] + [[1, 1, 1], [3, 1, 17, 2]]


def _inputs(num_rows: int, key_heads: int, ratio: int, dk: int, dv: int) -> tuple[Tensor, ...]:
    """Query, key, value, decay, beta as a layer makes them."""
    heads = key_heads * ratio
    query = torch.nn.functional.normalize(normal(num_rows, key_heads, dk, seed=1), dim=-1) * dk**-0.5
    key = torch.nn.functional.normalize(normal(num_rows, key_heads, dk, seed=2), dim=-1)
    value = normal(num_rows, heads, dv, seed=3)
    return query, key, value, uniform(num_rows, heads, seed=4, low=0.5), uniform(num_rows, heads, seed=5)


def _loops(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One sequence, head by head and token by token, in fp64; returns outputs and the last state."""
    ratio = v.shape[1] // k.shape[1]
    out = torch.empty(v.shape, dtype=torch.float64)
    last = torch.empty(state.shape, dtype=torch.float64)
    for h in range(v.shape[1]):
        s = state[h].double()
        for t in range(v.shape[0]):
            key, query = k[t, h // ratio].double(), q[t, h // ratio].double()
            s = s * decay[t, h].double()
            delta = beta[t, h].double() * (v[t, h].double() - (s * key[:, None]).sum(0))
            s = s + key[:, None] * delta[None, :]
            out[t, h] = (s * query[:, None]).sum(0)
        last[h] = s
    return out, last


def _chunked(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, beta: Tensor, state: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """One sequence by chunks: within one, a triangular solve replaces the recurrence (the paper's UT transform)."""
    ratio = v.shape[1] // k.shape[1]
    outs, s = [], state.double()
    for start in range(0, v.shape[0], chunk):
        rows = slice(start, start + chunk)
        key, query = (x[rows].double().repeat_interleave(ratio, 1).transpose(0, 1) for x in (k, q))  # [H, C, dk]
        value = v[rows].double().transpose(0, 1)
        b = beta[rows].double().t().unsqueeze(-1)  # [H, C, 1]
        g = decay[rows].double().log().cumsum(0).t()  # [H, C]
        ratios = torch.exp(g[:, :, None] - g[:, None, :]).tril()
        a = ((b * key) @ key.transpose(1, 2) * ratios).tril(-1)
        eye = torch.eye(a.shape[1], dtype=torch.float64)
        solve = torch.linalg.solve_triangular(
            eye + a, torch.cat([b * value, b * g.exp()[..., None] * key], -1), upper=False
        )
        u, w = solve.split([value.shape[-1], key.shape[-1]], dim=-1)
        corrected = u - w @ s
        outs.append((g.exp()[..., None] * query) @ s + (query @ key.transpose(1, 2) * ratios) @ corrected)
        end = g[:, -1:, None]
        s = end.exp() * s + (torch.exp(end - g[..., None]) * key).transpose(1, 2) @ corrected
    return torch.cat(outs, 1).transpose(0, 1), s


@pytest.mark.parametrize("ratio", [1, 2, 3, 4])
@pytest.mark.parametrize("lengths", BATCHES, ids=str)
def test_against_loops_and_chunks(lengths: list[int], ratio: int) -> None:
    key_heads, dk, dv = 2, 7, 5
    spans = slot_spans(lengths, NUM_SLOTS)
    inputs = _inputs(sum(lengths), key_heads, ratio, dk, dv)
    before = normal(len(spans), key_heads * ratio, dk, dv, seed=6)
    state = poisoned_slots(spans, before, NUM_SLOTS)
    free = others(spans, NUM_SLOTS)
    free_before, inputs_before = state[free].clone(), [x.clone() for x in inputs]
    out = gated_delta_rule(*inputs, state, spans)
    for span, s in zip(spans, before, strict=True):
        own = [x[span.start : span.end] for x in inputs]
        for truth, last in (_loops(*own, s), _chunked(*own, s, 64), _chunked(*own, s, 5)):
            torch.testing.assert_close(out[span.start : span.end].double(), truth, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(state[span.slot].double(), last, rtol=1e-5, atol=1e-5)
    assert same_bits(state[free], free_before)
    assert all(torch.equal(x, y) for x, y in zip(inputs, inputs_before, strict=True))


def test_full_decay_forgets_and_beta_zero_learns_nothing() -> None:
    query, key, value, decay, beta = _inputs(1, 2, 2, 4, 4)
    state = normal(1, 4, 4, 4, seed=6)
    gated_delta_rule(query, key, value, torch.ones_like(decay), torch.zeros_like(beta), state, slot_spans([1], 1))
    assert torch.equal(state, normal(1, 4, 4, 4, seed=6))
    gated_delta_rule(query, key, value, torch.zeros_like(decay), torch.zeros_like(beta), state, slot_spans([1], 1))
    assert not state.any()


def test_beta_one_stores_the_value_under_its_key() -> None:
    """With β = 1 the updated state returns v for k, whatever it held."""
    _, key, value, decay, beta = _inputs(1, 2, 2, 6, 4)
    out = gated_delta_rule(
        key, key, value, decay, torch.ones_like(beta), normal(1, 4, 6, 4, seed=6), slot_spans([1], 1)
    )
    torch.testing.assert_close(out, value, rtol=1e-5, atol=1e-5)


def test_nothing_to_do() -> None:
    assert gated_delta_rule(*_inputs(0, 2, 2, 4, 3), torch.zeros(1, 4, 4, 3), ()).shape == (0, 4, 3)
