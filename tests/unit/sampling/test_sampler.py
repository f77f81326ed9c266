"""The sampler against distributions worked out in plain Python, by support and by chi-square."""

import math
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.kernels.sampling import reference
from engine.plan import SampleSpec, ScheduledSequence, SequenceResult, StateAction, StepPlan
from engine.sampling.sampler import sample
from engine.types import ErrorReason, SamplingParams
from tests.support.memories import normal

VOCAB = 12
LOGITS = normal(VOCAB, seed=3) * 1.5
NUM_DRAWS = 1500


def _spec(position: int = 0, seed: int = 1, choice: int = 0, **params: Any) -> SampleSpec:
    return SampleSpec(SamplingParams(**params), seed, choice, position)


def _plan(*specs: SampleSpec | None) -> StepPlan:
    return StepPlan(
        1, tuple(ScheduledSequence(5 + n, 0, (1,), (0,), n, StateAction.CONTINUE, spec) for n, spec in enumerate(specs))
    )


def _sample(logits: Tensor, spec: SampleSpec, num_used_tokens: int = VOCAB) -> SequenceResult:
    (result,) = sample(reference.sample, logits.clone()[None], _plan(spec), num_used_tokens)
    return result


def _draw(logits: Tensor, spec: SampleSpec, num_used_tokens: int | None = None) -> int:
    result = _sample(logits, spec, len(logits) if num_used_tokens is None else num_used_tokens)
    assert (result.seq_id, result.error, len(result.token_ids)) == (5, None, 1)
    return result.token_ids[0]


def _counts(logits: Tensor, spec: SampleSpec, num_used_tokens: int | None = None) -> Counter[int]:
    return Counter(_draw(logits, replace(spec, position=p), num_used_tokens) for p in range(NUM_DRAWS))


def _softmax(logits: Sequence[float], temperature: float = 1.0) -> list[float]:
    weights = [math.exp((x - max(logits)) / temperature) for x in logits]
    return [w / sum(weights) for w in weights]


def _cut(probabilities: Sequence[float], keep: set[int]) -> list[float]:
    total = sum(probabilities[i] for i in keep)
    return [p / total if i in keep else 0.0 for i, p in enumerate(probabilities)]


def _best(probabilities: Sequence[float], num: int) -> list[int]:
    return sorted(range(len(probabilities)), key=lambda i: -probabilities[i])[:num]


def _nucleus(probabilities: Sequence[float], top_p: float) -> set[int]:
    """The fewest of the most likely whose sum reaches top_p."""
    keep: set[int] = set()
    total = 0.0
    for i in _best(probabilities, len(probabilities)):
        if total >= top_p:
            break
        keep.add(i)
        total += probabilities[i]
    return keep


def _assert_drawn_from(counts: Counter[int], probabilities: Sequence[float]) -> None:
    """Nothing impossible was drawn, and the rest as often as it should be."""
    assert all(probabilities[i] > 0 for i in counts)
    expected = {i: p * NUM_DRAWS for i, p in enumerate(probabilities) if p > 0}
    chi_square = sum((counts[i] - e) ** 2 / e for i, e in expected.items())
    freedom = len(expected) - 1
    assert chi_square <= freedom + 4 * math.sqrt(2 * freedom)


def test_greedy() -> None:
    best = int(LOGITS.argmax())
    assert {_draw(LOGITS, _spec(p, temperature=0.0)) for p in range(50)} == {best}
    assert _draw(LOGITS, _spec(temperature=1e-9)) == best
    assert _draw(torch.tensor([1.0, 3.0, 3.0, 2.0]), _spec(temperature=0.0)) == 1  # the first of equals


@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5, 100.0])
def test_temperature(temperature: float) -> None:
    _assert_drawn_from(_counts(LOGITS, _spec(temperature=temperature)), _softmax(LOGITS.tolist(), temperature))


@pytest.mark.parametrize("top_k", [1, 2, 5, VOCAB, 10 * VOCAB])
def test_top_k(top_k: int) -> None:
    full = _softmax(LOGITS.tolist())
    _assert_drawn_from(_counts(LOGITS, _spec(top_k=top_k)), _cut(full, set(_best(full, top_k))))


@pytest.mark.parametrize("top_p", [1e-9, 0.3, 0.8, 0.999])
def test_top_p(top_p: float) -> None:
    full = _softmax(LOGITS.tolist())
    _assert_drawn_from(_counts(LOGITS, _spec(top_p=top_p)), _cut(full, _nucleus(full, top_p)))


@pytest.mark.parametrize("min_p", [0.05, 0.4, 1.0])
def test_min_p(min_p: float) -> None:
    full = _softmax(LOGITS.tolist())
    keep = {i for i, p in enumerate(full) if p >= min_p * max(full)}
    _assert_drawn_from(_counts(LOGITS, _spec(min_p=min_p)), _cut(full, keep))


def test_all_cuts_together() -> None:
    """Temperature first; top-p looks at what top-k left, min-p is relative to the most likely."""
    full = _softmax(LOGITS.tolist(), 1.7)
    after_k = _cut(full, set(_best(full, 7)))
    after_p = _cut(after_k, _nucleus(after_k, 0.85))
    keep = {i for i, p in enumerate(after_p) if p >= 0.5 * max(after_p)}
    assert len(keep) < len(_nucleus(after_k, 0.85)) < 7
    _assert_drawn_from(_counts(LOGITS, _spec(temperature=1.7, top_k=7, top_p=0.85, min_p=0.5)), _cut(after_p, keep))


def test_the_released_models_own_settings_over_a_large_vocabulary() -> None:
    logits = normal(1000, seed=9) * 2
    full = _softmax(logits.tolist())
    after_k = _cut(full, set(_best(full, 40)))
    _assert_drawn_from(_counts(logits, _spec(top_k=40, top_p=0.95)), _cut(after_k, _nucleus(after_k, 0.95)))


HISTORY = (3, 3, 7, 1, 1, 1, 7, 5)
NUM_PROMPT = 3  # generated: 1, 1, 1, 7, 5


def _seen(history: Sequence[int], num_prompt_tokens: int) -> dict[str, Any]:
    counts = {token_id: history[num_prompt_tokens:].count(token_id) for token_id in history}
    return {"seen_ids": array("q", counts), "seen_counts": array("q", counts.values())}


def _penalised(presence: float, frequency: float, repetition: float) -> list[float]:
    logits = LOGITS.tolist()
    generated = Counter(HISTORY[NUM_PROMPT:])
    for i in set(HISTORY):
        logits[i] = logits[i] / repetition if logits[i] > 0 else logits[i] * repetition
    return [x - generated[i] * frequency - (presence if generated[i] else 0.0) for i, x in enumerate(logits)]


@pytest.mark.parametrize("penalties", [(0.9, 0.0, 1.0), (0.0, 0.7, 1.0), (0.0, 0.0, 1.6), (-0.5, 0.3, 0.7)])
def test_penalties(penalties: tuple[float, float, float]) -> None:
    presence, frequency, repetition = penalties
    params = {"presence_penalty": presence, "frequency_penalty": frequency, "repetition_penalty": repetition}
    spec = replace(_spec(**params), **_seen(HISTORY, NUM_PROMPT))
    truth = _penalised(*penalties)
    assert _draw(LOGITS, replace(spec, params=replace(spec.params, temperature=0.0))) == truth.index(max(truth))
    _assert_drawn_from(_counts(LOGITS, spec), _softmax(truth))


def test_penalties_before_anything_was_generated() -> None:
    spec = replace(_spec(presence_penalty=2.0, temperature=0.0), **_seen((0, 1), 2))
    assert _draw(LOGITS, spec) == int(LOGITS.argmax())


def test_logit_bias() -> None:
    bias = {2: 3.0, 0: -1.5, 11: 0.5}
    truth = [x + bias.get(i, 0.0) for i, x in enumerate(LOGITS.tolist())]
    _assert_drawn_from(_counts(LOGITS, _spec(logit_bias=bias)), _softmax(truth))
    assert _draw(LOGITS, _spec(temperature=0.0, logit_bias={4: 100.0})) == 4


def test_allowed_tokens() -> None:
    truth = _cut(_softmax(LOGITS.tolist()), {1, 4, 9})
    _assert_drawn_from(_counts(LOGITS, _spec(allowed_token_ids=(9, 1, 4, 4))), truth)
    _assert_drawn_from(_counts(LOGITS, _spec(allowed_token_ids=(9, 1, 4), top_k=8, top_p=0.9999, min_p=1e-6)), truth)


def test_barred_tokens() -> None:
    best = int(LOGITS.argmax())
    spec = replace(_spec(logit_bias={best: 100.0}), barred_token_ids=(best, 0))
    truth = _cut(_softmax(LOGITS.tolist()), set(range(VOCAB)) - {best, 0})
    _assert_drawn_from(_counts(LOGITS, spec), truth)
    assert _draw(LOGITS, replace(spec, params=SamplingParams(temperature=0.0))) != best


def test_unused_rows_are_never_drawn_yet_count_in_the_log_probabilities() -> None:
    logits = LOGITS.clone()
    logits[9:] += 20.0
    _assert_drawn_from(_counts(logits, _spec(), num_used_tokens=9), _cut(_softmax(logits.tolist()), set(range(9))))
    for params in ({"temperature": 0.0}, {"top_k": 2}, {"top_p": 0.5}, {"min_p": 0.5}, {"logit_bias": {10: 100.0}}):
        assert _draw(logits, _spec(**params), num_used_tokens=9) < 9
    (entry,) = _sample(logits, _spec(logprobs=VOCAB), 9).logprobs
    assert math.fsum(math.exp(x) for _, x in entry.top) == pytest.approx(1.0, abs=1e-6)
    assert {i for i, _ in entry.top[:3]} == {9, 10, 11}


def test_log_probabilities_are_those_of_the_untouched_logits() -> None:
    truth = torch.log_softmax(LOGITS.double(), 0)
    spec = replace(
        _spec(temperature=0.5, top_k=3, logit_bias={0: 5.0}, repetition_penalty=2.0, logprobs=4),
        **_seen(HISTORY, 2),
    )
    result = _sample(LOGITS, spec, VOCAB)
    (entry,) = result.logprobs
    assert entry.token_id == result.token_ids[0]
    assert entry.logprob == pytest.approx(float(truth[entry.token_id]), abs=1e-6)
    assert [i for i, _ in entry.top] == truth.argsort(descending=True)[:4].tolist()
    assert [x for _, x in entry.top] == pytest.approx(truth.sort(descending=True).values[:4].tolist(), abs=1e-6)


def test_as_many_log_probabilities_as_asked_for() -> None:
    assert _sample(LOGITS, _spec(), VOCAB).logprobs == ()
    (entry,) = _sample(LOGITS, _spec(logprobs=0), VOCAB).logprobs
    assert entry.top == ()
    assert len(_sample(LOGITS, _spec(logprobs=VOCAB), VOCAB).logprobs[0].top) == VOCAB


def test_a_draw_depends_on_its_key_alone() -> None:
    alone = [_draw(LOGITS, _spec(p, seed=4)) for p in range(100)]
    torch.manual_seed(77)
    for p in reversed(range(100)):
        torch.rand(3)
        _draw(LOGITS, _spec(p, seed=5))
        assert _draw(LOGITS, _spec(p, seed=4)) == alone[p]
        assert _draw(LOGITS, _spec(p, seed=4, logprobs=3)) == alone[p]


def test_results_are_those_of_the_sampled_sequences_in_the_plans_order() -> None:
    """Each as if it were alone, an unusable one beside it or not."""
    specs = [_spec(3, seed=4, logprobs=2), _spec(9, temperature=0.0), _spec(1, top_p=0.5)]
    rows = torch.stack([LOGITS, LOGITS.flip(0), LOGITS * 0.5])
    alone = [_sample(row, spec) for row, spec in zip(rows, specs, strict=True)]
    rows[1, 0] = math.nan
    results = sample(reference.sample, rows.clone(), _plan(specs[0], None, specs[1], specs[2]), VOCAB)
    assert [r.seq_id for r in results] == [5, 7, 8]
    assert results[0] == alone[0]
    assert "not finite" in _error(results[1])
    assert results[1].error_reason is ErrorReason.NOT_FINITE
    assert results[2] == replace(alone[2], seq_id=8)


def test_choices_and_seeds_draw_their_own_tokens() -> None:
    drawn = {tuple(_draw(LOGITS, _spec(p, seed=s, choice=c)) for p in range(30)) for s in (1, 2) for c in (0, 1, 2)}
    assert len(drawn) == 6


def _error(result: SequenceResult) -> str:
    assert (result.token_ids, result.logprobs) == ((), ())
    assert result.error is not None
    assert "\n" not in result.error
    return result.error


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_an_error(value: float) -> None:
    logits = LOGITS.clone()
    logits[3] = value
    assert "not finite" in _error(_sample(logits, _spec(logprobs=2), VOCAB))


def test_when_every_token_is_barred() -> None:
    for spec, num_used in (
        (replace(_spec(logprobs=2), barred_token_ids=tuple(range(VOCAB))), VOCAB),
        (_spec(allowed_token_ids=(10, 11)), 10),
        (replace(_spec(temperature=0.0, allowed_token_ids=(3,)), barred_token_ids=(3,)), VOCAB),
    ):
        assert "no token is allowed" in _error(_sample(LOGITS, spec, num_used))


@pytest.mark.parametrize("temperature", [1e-5, 1e-3])
@pytest.mark.parametrize("scale", [1.0, 1e4, 1e35])
def test_a_tiny_temperature_is_greedy_and_does_not_overflow(temperature: float, scale: float) -> None:
    logits = torch.tensor([-3.0, 2.0, 3.0, -1.0]) * scale
    for params in ({}, {"top_k": 3}, {"top_p": 0.9}, {"min_p": 0.1}):
        assert {_draw(logits, _spec(p, temperature=temperature, **params)) for p in range(20)} == {2}


@pytest.mark.parametrize("params", [{}, {"top_p": 0.9}, {"top_k": 2, "min_p": 0.1}, {"temperature": 0.0}], ids=str)
@pytest.mark.parametrize("repetition", [1e-300, 1e-40, 1e-30, 1e30, 1e300])
def test_an_extreme_repetition_penalty_still_draws_a_token(repetition: float, params: dict[str, Any]) -> None:
    """Where it overflows, a step with other people's sequences in it must not fail."""
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0])
    spec = replace(_spec(repetition_penalty=repetition, **params), **_seen((0, 1, 2, 4), 1))
    drawn = {_draw(logits, replace(spec, position=p)) for p in range(20)}
    assert drawn <= ({1, 4} if repetition < 1 else {0, 1, 3, 4})
