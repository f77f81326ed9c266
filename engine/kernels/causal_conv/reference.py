"""Causal convolution in plain torch: a few shifted products, summed oldest column first."""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.batch import Span
from engine.kernels.exact import silu


def causal_conv(x: Tensor, weight: Tensor, state: Tensor, spans: Sequence[Span]) -> Tensor:
    """silu of the depthwise causal convolution along each span; keeps the last inputs in `state`.

    m_t = silu( Σ_j weight[:, j] ⊙ x_{t-K+1+j} ), where inputs before the span come from its slot.
    Shapes, all fp32: x [T, C], weight [C, K], state [slots, K-1, C] (updated in place); returns [T, C].
    """
    kernel = weight.shape[1]
    columns = weight.t().contiguous()
    out = torch.empty_like(x)
    for span in spans:
        window = torch.cat([state[span.slot], x[span.start : span.end]])
        state[span.slot] = window[-(kernel - 1) :]
        total = window[: span.num_rows] * columns[0]
        for j in range(1, kernel):
            total = total + window[j : j + span.num_rows] * columns[j]
        out[span.start : span.end] = silu(total)
    return out
