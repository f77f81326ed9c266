"""The sampler: one row of logits and a `SampleSpec` to one token, each row by itself.

Working row by row keeps a token independent of its company. Order of the steps: bars, bias, penalties, temperature,
top-k, top-p, min-p, draw; log-probabilities come from the untouched logits.
"""

import torch
from torch import Tensor

from engine.plan import SampleSpec, SequenceResult
from engine.sampling.random import uniform
from engine.types import SamplingParams, TokenLogprobs

MINUS_INFINITY = float("-inf")
MIN_TEMPERATURE = 1e-5  # below, dividing by it overflows: the draw is greedy


def sample(seq_id: int, logits: Tensor, spec: SampleSpec, num_used_tokens: int) -> SequenceResult:
    """Draw one token.

    Shapes: logits fp32 [V], not changed. Rows from `num_used_tokens` up are no tokens and are never drawn.
    """
    if not bool(torch.isfinite(logits).all()):
        return SequenceResult(seq_id, (), error="the model produced logits that are not finite")
    adjusted = _adjust(logits, spec, num_used_tokens)
    token_id = _draw(adjusted, spec)
    if token_id is None:
        return SequenceResult(seq_id, (), error="no token is allowed: the request bars every one of them")
    top = spec.params.logprobs
    logprobs = () if top is None else (_logprobs(logits, token_id, top),)
    return SequenceResult(seq_id, (token_id,), logprobs)


def _adjust(logits: Tensor, spec: SampleSpec, num_used_tokens: int) -> Tensor:
    params = spec.params
    adjusted = logits.clone()
    if spec.history:
        _penalise(adjusted, spec)
    if params.logit_bias:
        ids = torch.tensor(list(params.logit_bias), device=logits.device)
        adjusted[ids] += torch.tensor(list(params.logit_bias.values()), dtype=torch.float32, device=logits.device)
    if params.allowed_token_ids is not None:
        allowed = torch.full_like(adjusted, MINUS_INFINITY)
        ids = torch.tensor(params.allowed_token_ids, device=logits.device)
        allowed[ids] = adjusted[ids]
        adjusted = allowed
    adjusted[num_used_tokens:] = MINUS_INFINITY
    if spec.barred_token_ids:
        adjusted[torch.tensor(spec.barred_token_ids, device=logits.device)] = MINUS_INFINITY
    return adjusted


def _penalise(logits: Tensor, spec: SampleSpec) -> None:
    params = spec.params
    history = torch.tensor(spec.history, device=logits.device)
    if params.repetition_penalty != 1.0:
        seen = history.unique()
        values = logits[seen]
        values = torch.where(values > 0, values / params.repetition_penalty, values * params.repetition_penalty)
        logits[seen] = values.nan_to_num(nan=0.0)  # an extreme penalty overflows, and 0 times it is no number
    generated, counts = history[spec.num_prompt_tokens :].unique(return_counts=True)
    logits[generated] -= params.frequency_penalty * counts.float() + params.presence_penalty


def _draw(logits: Tensor, spec: SampleSpec) -> int | None:
    best = int(logits.argmax())
    if logits[best] == MINUS_INFINITY:
        return None
    params = spec.params
    if params.temperature < MIN_TEMPERATURE:
        return best
    candidates, ids = _candidates((logits - logits[best]) / params.temperature, params)
    cumulative = torch.softmax(candidates, dim=-1).double().cumsum(-1)
    point = uniform(spec.seed, spec.choice, spec.position) * cumulative[-1]
    index = int(torch.searchsorted(cumulative, point, right=True).clamp(max=len(candidates) - 1))
    return int(ids[index])


def _candidates(logits: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """Logits and ids that survive top-k, top-p and min-p, most likely first unless nothing was cut."""
    if params.top_k:
        logits, ids = logits.topk(min(params.top_k, len(logits)))
    elif params.top_p < 1.0:
        logits, ids = logits.sort(descending=True, stable=True)
    else:
        ids = torch.arange(len(logits), device=logits.device)
    keep = logits > MINUS_INFINITY
    if params.top_p < 1.0:
        probabilities = torch.softmax(logits, dim=-1).double()
        keep &= (probabilities.cumsum(-1) - probabilities) < params.top_p
    if params.min_p > 0.0:
        probabilities = torch.softmax(logits, dim=-1)
        keep &= probabilities >= params.min_p * probabilities.max()
    return logits[keep], ids[keep]


def _logprobs(logits: Tensor, token_id: int, num_top: int) -> TokenLogprobs:
    all_logprobs = torch.log_softmax(logits.double(), dim=-1)
    values, ids = all_logprobs.topk(num_top)
    top = tuple(zip(ids.tolist(), values.tolist(), strict=True))
    return TokenLogprobs(token_id, float(all_logprobs[token_id]), top)
