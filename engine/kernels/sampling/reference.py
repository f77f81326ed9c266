"""The sampler in plain torch, row by row: a token is independent of its company.

The steps: penalties, bias, mask and bars, temperature, top-k, top-p, min-p, draw; log-probabilities come from the
untouched logits. Of equal logits the lower id is the more likely one. Weights are whole numbers, and sums of these are
exact: so every implementation draws the same tokens, in whatever order it adds.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from engine.sampling.draw import Draw, Drawn, NoToken
from engine.types import TokenLogprobs

MINUS_INFINITY = float("-inf")
LARGEST = torch.finfo(torch.float32).max
LOG2_E = 1 / math.log(2)
MOST_WEIGHT = 2**34
LEAST_EXPONENT = -40  # far enough down for the weight to be 0
POWER_OF_2 = (1.32647482e-3, 9.67151299e-3, 5.55073358e-2, 2.40222424e-1, 6.93147004e-1, 1.0)  # 2^r, |r| up to 1/2


def sample(logits: Tensor, draws: Sequence[Draw], num_used_tokens: int) -> list[Drawn | NoToken]:
    """Draw one token from each row. Ids from `num_used_tokens` up are no tokens and are never drawn.

    Shapes: logits fp32 [R, V], which may be written to; one of `draws` a row.
    """
    return [_sample(row, draw, num_used_tokens) for row, draw in zip(logits, draws, strict=True)]


def _sample(logits: Tensor, draw: Draw, num_used_tokens: int) -> Drawn | NoToken:
    if not bool(torch.isfinite(logits).all()):
        return NoToken.NOT_FINITE
    token_id = _draw(_adjusted(logits, draw)[:num_used_tokens], draw)
    if token_id is None:
        return NoToken.ALL_BARRED
    num_top = draw.params.logprobs
    return Drawn(token_id, None if num_top is None else _logprobs(logits, token_id, num_top))


def _adjusted(logits: Tensor, draw: Draw) -> Tensor:
    params, device = draw.params, logits.device
    adjusted = logits.clone()
    if draw.seen_ids:
        _penalise(adjusted, draw)
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=device)
        adjusted[ids] += torch.tensor(list(params.logit_bias.values()), dtype=torch.float32, device=device)
    if params.allowed_token_ids is not None:
        allowed = torch.full_like(adjusted, MINUS_INFINITY)
        ids = torch.tensor(params.allowed_token_ids, device=device)
        allowed[ids] = adjusted[ids]
        adjusted = allowed
    if draw.mask is not None:
        adjusted[~_allowed(draw.mask, len(adjusted)).to(device)] = MINUS_INFINITY
    if draw.barred_token_ids:
        adjusted[torch.tensor(draw.barred_token_ids, device=device)] = MINUS_INFINITY
    return adjusted


def _allowed(mask: bytes, vocab: int) -> Tensor:
    """bool [V] of a mask's bits; what it does not reach is not allowed."""
    packed = torch.frombuffer(bytearray(mask), dtype=torch.uint8)
    bits = ((packed[:, None] >> torch.arange(8, dtype=torch.uint8)) & 1).reshape(-1)[:vocab].bool()
    return torch.cat([bits, bits.new_zeros(vocab - len(bits))])


def _penalise(logits: Tensor, draw: Draw) -> None:
    params = draw.params
    seen = torch.tensor(draw.seen_ids.tolist(), device=logits.device)
    counts = torch.tensor(draw.seen_counts.tolist(), dtype=torch.float32, device=logits.device)
    if params.repetition_penalty != 1.0:
        values = logits[seen]
        values = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
        # An extreme penalty overflows, and 0 times it is no number.
        logits[seen] = values.nan_to_num(nan=0.0, posinf=LARGEST, neginf=-LARGEST)
    penalties = params.frequency_penalty * counts + params.presence_penalty
    logits[seen] -= torch.where(counts > 0, penalties, 0.0)


def _draw(logits: Tensor, draw: Draw) -> int | None:
    best = int(logits.argmax())
    if logits[best] == MINUS_INFINITY:
        return None
    if draw.is_greedy:
        return best
    ids = _candidates(logits, draw)
    weights = _weights(logits[ids], logits[best], LOG2_E / draw.params.temperature)
    before = weights.cumsum(0) - weights
    weights[before.double() >= draw.params.top_p * int(weights.sum())] = 0
    weights[weights < torch.tensor(draw.params.min_p) * MOST_WEIGHT] = 0
    total = int(weights.sum())
    point = min(int(draw.uniform * total), total - 1)  # so much weight comes before the drawn token
    return int(ids[torch.searchsorted(weights.cumsum(0), point, right=True)])


def _candidates(logits: Tensor, draw: Draw) -> Tensor:
    """The ids that top-k leaves, the most likely first; in their own order when nothing is cut off at the end."""
    top_k = min(draw.params.top_k or len(logits), len(logits))
    if top_k < len(logits) or draw.params.top_p < 1.0:
        return _most_likely(logits, top_k)
    return torch.arange(len(logits), device=logits.device)


def _most_likely(logits: Tensor, k: int) -> Tensor:
    """The ids of the k largest, in order."""
    least = logits.topk(k).values[-1:]  # topk alone takes any of equals
    ids = (logits >= least).nonzero()[:, 0] if k else logits.new_empty(0, dtype=torch.int64)
    return ids[logits[ids].argsort(descending=True, stable=True)][:k]


def _weights(logits: Tensor, most: Tensor, scale: float) -> Tensor:
    """2^34 · 2^((x - most) · scale), computed in fp32 and rounded to whole numbers; 0 from 2^-35 of the most down.

    Written out, one rounding at a time, for other implementations to get the same bits. Shapes: fp32 [n] to int64 [n].
    """
    exponent = ((logits - most) * scale).clamp(min=LEAST_EXPONENT)
    whole = exponent.round()
    rest = exponent - whole
    power = torch.zeros_like(rest)
    for coefficient in POWER_OF_2:
        power = power * rest + coefficient
    shifted = power.double() * torch.bitwise_left_shift(1, whole.long() - LEAST_EXPONENT)
    return (shifted * (MOST_WEIGHT * 2.0**LEAST_EXPONENT)).round().long()


def _logprobs(logits: Tensor, token_id: int, num_top: int) -> TokenLogprobs:
    """Within 1e-6: weights are fp32, though they add up exactly."""
    most = logits.max()
    total = float(most) + math.log(int(_weights(logits, most, LOG2_E).sum()) / MOST_WEIGHT)
    ids = _most_likely(logits, num_top)
    top = tuple(zip(ids.tolist(), (logits[ids].double() - total).tolist(), strict=True))
    return TokenLogprobs(token_id, float(logits[token_id]) - total, top)
