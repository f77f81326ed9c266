"""The gated delta rule in plain torch, token by token, in the same order for prompts and for single tokens.

A chunked form would be faster on long prompts and round differently from the step form; then a state would depend
on how its prompt was cut. Equation: Gated DeltaNet (arXiv 2412.06464), decay applied before the read.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from engine.batch import Span


def gated_delta_rule(
    query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor, state: Tensor, spans: Sequence[Span]
) -> Tensor:
    """For each token: S ← αS; δ = β(v - Sᵀk); S ← S + kδᵀ; o = Sᵀq.

    Shapes, all fp32: query, key [T, Hk, dk] (normalised, query scaled), value [T, Hv, dv], decay (α) and beta
    [T, Hv], state [slots, Hv, dk, dv] (updated in place); returns [T, Hv, dv]. Key head h // (Hv / Hk) serves value
    head h.
    """
    group = value.shape[1] // key.shape[1]
    query = query.repeat_interleave(group, dim=1).unsqueeze(2)  # [T, Hv, 1, dk]
    key = key.repeat_interleave(group, dim=1).unsqueeze(2)
    value, decay, beta = value.unsqueeze(2), decay[..., None, None], beta[..., None, None]
    out = torch.empty_like(value)  # [T, Hv, 1, dv]
    for span in spans:
        s = state[span.slot]
        for t in range(span.start, span.end):
            s.mul_(decay[t])
            delta = beta[t] * (value[t] - torch.bmm(key[t], s))
            s.add_(key[t].transpose(1, 2) * delta)
            torch.bmm(query[t], s, out=out[t])
    return out.squeeze(2)
