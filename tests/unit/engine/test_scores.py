"""Log-probabilities of prompts: each once, whatever becomes of the sequence; and prompts that are only read."""

import pytest

from engine.scheduler.sequence import Sequence
from engine.types import CacheReport, ErrorReason, FinishReason, MissReason, SamplingParams
from tests.support.engine_runs import Run, fixed_length, limits, prompt
from tests.support.hash_model import fail_on_steps

ONLY_READ = SamplingParams(max_tokens=0)
ONLY_SCORED = SamplingParams(max_tokens=0, prompt_logprobs=1)


def num_scores(run: Run, sequence: Sequence) -> list[int]:
    """By output."""
    return [len(output.prompt_logprobs) for output in run.outputs[sequence.seq_id]]


def test_scores_come_with_the_steps_that_compute_them() -> None:
    run = Run(limits(max_num_batched_tokens=16))
    sequence = run.add(prompt(40), fixed_length(2, prompt_logprobs=3))
    plans = run.finish()
    assert num_scores(run, sequence) == [16, 16, 7, 0]
    assert [output.token_ids == () for output in run.outputs[sequence.seq_id]] == [True, True, False, False]
    assert [plan.sequences[0].score is None for plan in plans] == [False, False, False, True]
    run.assert_as_alone([sequence])
    assert tuple(score.token_id for score in run.scores(sequence)) == prompt(40)[1:]
    assert all(len(score.top) == 3 for score in run.scores(sequence))


def test_the_first_token_of_an_answer_is_the_first_that_counts_as_one() -> None:
    run = Run(limits(max_num_batched_tokens=16))
    sequence = run.add(prompt(40), fixed_length(1, prompt_logprobs=0))
    run.finish()
    assert sequence.times.first_token == pytest.approx(0.03)


@pytest.mark.parametrize("chunk", [1, 3, 4, 7, 39, 40, 41])
@pytest.mark.parametrize("max_tokens", [0, 1])
def test_however_the_prompt_is_cut(chunk: int, max_tokens: int) -> None:
    run = Run(limits(max_num_batched_tokens=chunk))
    sequence = run.add(prompt(40), fixed_length(max_tokens, prompt_logprobs=1))
    run.finish()
    run.assert_as_alone([sequence])


def test_a_prompt_of_one_token_has_nothing_to_score() -> None:
    run = Run()
    sequences = [run.add((5,), sampling) for sampling in (ONLY_SCORED, fixed_length(1, prompt_logprobs=1))]
    run.finish()
    run.assert_as_alone(sequences)
    assert [run.scores(sequence) for sequence in sequences] == [(), ()]


# --- only read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampling", [ONLY_READ, ONLY_SCORED])
def test_a_prompt_that_is_only_read(sampling: SamplingParams) -> None:
    run = Run(limits(max_num_batched_tokens=16))
    sequence = run.add((*prompt(19), 0), sampling)  # its last token would end an answer
    plans = run.finish()
    assert [plan.num_tokens for plan in plans] == [16, 4]
    assert all(plan.sequences[0].sample is None for plan in plans)
    assert run.answer(sequence) == ((), FinishReason.LENGTH)
    assert len(run.outputs[sequence.seq_id]) == (2 if sampling is ONLY_SCORED else 1)
    assert (sequence.times.first_token, sequence.times.last_token) == (None, None)


def test_beside_others() -> None:
    run = Run(limits(max_num_batched_tokens=16))
    sequences = [run.add(prompt(7 + 5 * i, i), s) for i, s in enumerate([ONLY_READ, fixed_length(9), ONLY_SCORED] * 2)]
    run.finish()
    run.assert_as_alone(sequences)


def test_what_was_only_read_need_not_be_read_again() -> None:
    run = Run(limits(num_checkpoints=4))
    run.add(prompt(40), ONLY_READ)
    run.finish()
    (kept,) = [c for c in run.cache.checkpoints if c.position == 40]
    assert not kept.is_answer
    longer = run.add((*prompt(40), 1, 2), fixed_length(3))
    run.finish()
    assert longer.num_cached_tokens == 40
    run.assert_as_alone([longer])


def test_an_abort_while_the_last_of_it_is_read_finds_it_read() -> None:
    run = Run()
    sequence = run.add(prompt(9), ONLY_SCORED)
    plan = run.core.schedule()
    assert plan is not None
    assert run.abort(sequence) is None
    run.finish_step(plan)
    run.assert_as_alone([sequence])


# --- what is kept, and who starts over ------------------------------------------------------------------------------


def test_nothing_that_is_to_be_scored_comes_from_the_cache() -> None:
    run = Run(limits(num_checkpoints=8))
    run.add(prompt(60), fixed_length(1))
    run.finish()
    plain, scored = (run.add(prompt(60), sampling) for sampling in (fixed_length(1), ONLY_SCORED))
    run.finish()
    assert (plain.num_cached_tokens, scored.num_cached_tokens) == (59, 0)
    assert scored.cache_report == CacheReport(0, 60, MissReason.SCORED)
    run.assert_as_alone([plain, scored])


def test_it_waits_for_no_state_that_it_could_not_start_from() -> None:
    run = Run(limits(num_checkpoints=8, max_num_batched_tokens=16))
    run.add(prompt(60), fixed_length(1))
    run.step()
    scored = run.add(prompt(60), ONLY_SCORED)
    like_the_first = run.add(prompt(60), fixed_length(1))
    for _ in range(3):
        run.step()
    assert scored.admitted is not None
    assert like_the_first.admitted is None
    run.finish()
    run.assert_as_alone([scored, like_the_first])


@pytest.mark.parametrize("num_checkpoints", [0, 8])
def test_one_that_is_preempted_scores_each_token_once(num_checkpoints: int) -> None:
    run = Run(limits(num_blocks=13, max_model_len=52, max_num_batched_tokens=3, num_checkpoints=num_checkpoints))
    answering = run.add(prompt(3, 1), fixed_length(22))
    scored = run.add(prompt(40, 2), ONLY_SCORED, priority=1)
    run.finish()
    assert scored.num_preemptions > 0
    computed = run.model.num_tokens - len(answering.tokens) + 1
    assert (computed == 40) == (num_checkpoints > 0)  # it goes on from its own state, where that is kept
    assert len(num_scores(run, scored)) > 3
    run.assert_as_alone([answering, scored])


@pytest.mark.parametrize("call", range(1, 6))
def test_a_failed_step_costs_no_score_and_doubles_none(call: int) -> None:
    run = Run(limits(max_num_batched_tokens=16, num_checkpoints=4), before_step=fail_on_steps(call))
    sequences = [run.add(prompt(20 + i, i), fixed_length(i, prompt_logprobs=1)) for i in range(3)]
    run.finish()
    run.assert_as_alone(s for s in sequences if run.answer(s)[1] is not FinishReason.ERROR)
    assert sum(run.answer(s)[1] is FinishReason.ERROR for s in sequences) <= 1


def test_one_whose_scores_are_not_finite_fails() -> None:
    run = Run(limits(max_num_batched_tokens=16))
    run.model.sequence_error = lambda scheduled: "not finite" if scheduled.seq_id == 0 and scheduled.start else None
    run.model.error_reason = ErrorReason.NOT_FINITE
    failing, other = (run.add(prompt(30, start), ONLY_SCORED) for start in range(2))
    run.finish()
    assert run.answer(failing) == ((), FinishReason.ERROR)
    assert len(run.scores(failing)) == 16
    run.assert_as_alone([other])
