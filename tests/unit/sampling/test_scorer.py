"""Scores against the softmax worked out in fp64, and how many logits there are at once."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.kernels.sampling import reference
from engine.plan import SampleSpec, ScheduledSequence, ScoreSpec, SequenceResult, StateAction, StepPlan
from engine.sampling.scorer import PIECE_ROWS, score, with_scores
from engine.types import ErrorReason, SamplingParams, TokenLogprobs
from tests.support.memories import normal

VOCAB = 12


def _plan(*specs: ScoreSpec | None, sampled: bool = False) -> StepPlan:
    sample = SampleSpec(SamplingParams(), 0, 0, 0) if sampled else None
    base = ScheduledSequence(5, 0, (1,), (0,), 0, StateAction.CONTINUE, sample)
    return StepPlan(1, tuple(replace(base, seq_id=5 + n, score=spec) for n, spec in enumerate(specs)))


def _score(logits: Tensor, *specs: ScoreSpec | None) -> dict[int, Any]:
    rows = torch.arange(len(logits))
    return dict(score(reference.sample, lambda piece: logits[piece], rows, _plan(*specs)))


@pytest.mark.parametrize("num_top", [0, 1, 3, VOCAB])
def test_scores_are_the_logarithms_of_the_softmax(num_top: int) -> None:
    logits = normal(5, VOCAB, seed=1) * 3
    truth = logits.double().log_softmax(-1)
    scores = _score(logits, ScoreSpec(0, (3, 0), num_top), None, ScoreSpec(7, (11, 11, 4), num_top))
    assert list(scores) == [5, 7]
    for token_id, found, expected in zip((3, 0, 11, 11, 4), scores[5] + scores[7], truth, strict=True):
        assert found.token_id == token_id
        assert found.logprob == pytest.approx(float(expected[token_id]), abs=2e-6)
        best = expected.topk(num_top)
        assert [i for i, _ in found.top] == best.indices.tolist()
        assert [value for _, value in found.top] == pytest.approx(best.values.tolist(), abs=2e-6)
        assert all(value == found.logprob for i, value in found.top if i == token_id)


def test_only_so_many_logits_are_held_at_once() -> None:
    sizes: list[int] = []

    def logits(rows: Tensor) -> Tensor:
        sizes.append(len(rows))
        return normal(500, VOCAB, seed=2)[rows]

    num_first, num_second = PIECE_ROWS + 5, 2 * PIECE_ROWS
    specs = ScoreSpec(0, tuple(i % VOCAB for i in range(num_first)), 1), ScoreSpec(0, (1,) * num_second, 0)
    scores = score(reference.sample, logits, torch.arange(num_first + num_second), _plan(*specs))
    assert max(sizes) == PIECE_ROWS
    assert sum(sizes) == num_first + num_second
    whole = score(
        reference.sample, lambda rows: normal(500, VOCAB, seed=2)[rows], torch.arange(num_first), _plan(specs[0])
    )
    assert scores[5] == whole[5]
    assert len(scores[6]) == num_second


def test_one_row_that_is_not_finite_spoils_its_own_sequence_alone() -> None:
    logits = normal(6, VOCAB, seed=3)
    logits[1, 4] = float("nan")
    specs = [ScoreSpec(0, (1, 2), 1) for _ in range(3)]
    plan = _plan(*specs)
    results = with_scores((), _score(logits, *specs), plan)
    assert [r.error_reason for r in results] == [ErrorReason.NOT_FINITE, None, None]
    assert [len(r.prompt_logprobs) for r in results] == [0, 2, 2]


def test_nothing_to_score() -> None:
    assert _score(normal(0, VOCAB, seed=1), None, None) == {}
    assert with_scores((), {}, _plan(None, None)) == ()


def test_each_sequence_has_one_result_with_all_that_is_due() -> None:
    plan = _plan(None, ScoreSpec(0, (3,), 0), sampled=True)
    plan = StepPlan(1, (*plan.sequences, replace(plan.sequences[1], seq_id=9, sample=None)))
    drawn = [SequenceResult(5, (1,)), SequenceResult(6, (2,))]
    scores = {6: (TokenLogprobs(3, -1.0),), 9: (TokenLogprobs(3, -2.0),)}
    assert with_scores(drawn, scores, plan) == (
        drawn[0],
        replace(drawn[1], prompt_logprobs=scores[6]),
        SequenceResult(9, (), prompt_logprobs=scores[9]),
    )


def test_a_sequence_that_has_no_token_has_an_error_whatever_was_scored() -> None:
    plan = _plan(ScoreSpec(0, (3,), 0), sampled=True)
    failed = SequenceResult(5, (), error="no token", error_reason=ErrorReason.ALL_BARRED)
    assert with_scores([failed], {5: (TokenLogprobs(3, -1.0),)}, plan) == (failed,)
