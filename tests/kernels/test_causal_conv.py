"""The causal convolution against torch's own grouped one over the whole sequence."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.kernels.causal_conv.reference import causal_conv
from tests.support.memories import ROWS, normal, others, poisoned_slots, same_bits, slot_spans

NUM_SLOTS = 11
BATCHES = [[n] for n in ROWS if n] + [[1, 1, 1], [2, 1, 3], [7, 2, 64, 1, 17], [1] * 9]


def _whole(inputs: Tensor, weight: Tensor) -> Tensor:
    """silu of the convolution of inputs [K - 1 + n, C], by F.conv1d in fp64: [n, C]."""
    channels = weight.shape[0]
    out = F.conv1d(inputs.double().t().unsqueeze(0), weight.double().unsqueeze(1), groups=channels)[0].t()
    return F.silu(out)


@pytest.mark.parametrize("kernel", [2, 3, 4])
@pytest.mark.parametrize("lengths", BATCHES, ids=str)
def test_against_conv1d(lengths: list[int], kernel: int) -> None:
    channels = 37
    spans = slot_spans(lengths, NUM_SLOTS)
    x, weight = normal(sum(lengths), channels, seed=1), normal(channels, kernel, seed=2)
    before = normal(len(spans), kernel - 1, channels, seed=3)
    state = poisoned_slots(spans, before, NUM_SLOTS)
    free = others(spans, NUM_SLOTS)
    free_before, x_before = state[free].clone(), x.clone()
    out = causal_conv(x, weight, state, spans)
    assert out.dtype == torch.float32
    for span, history in zip(spans, before, strict=True):
        inputs = torch.cat([history, x[span.start : span.end]])
        torch.testing.assert_close(out[span.start : span.end].double(), _whole(inputs, weight), rtol=1e-5, atol=1e-5)
        assert torch.equal(state[span.slot], inputs[-(kernel - 1) :])
    assert same_bits(state[free], free_before)
    assert torch.equal(x, x_before)


def test_a_short_span_keeps_what_came_before_it() -> None:
    """One row in an empty slot: the older columns stay zero."""
    state, x = torch.zeros(1, 3, 5), normal(1, 5, seed=1)
    causal_conv(x, normal(5, 4, seed=2), state, slot_spans([1], 1))
    assert not state[0, :2].any()
    assert torch.equal(state[0, 2], x[0])


def test_nothing_to_do() -> None:
    state = torch.zeros(2, 3, 5)
    assert causal_conv(torch.empty(0, 5), normal(5, 4, seed=2), state, ()).shape == (0, 5)
